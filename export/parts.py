"""A network as ONNX files in three parts, cut where a sampler keeps features between steps; proved before its use."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convbench import packages
from convbench.checks.output import relative_error
from convbench.errors import ConvbenchError
from convbench.models.cuts import Cut, cut_of
from convbench.tolerances import RELATIVE_L2

from . import onnx, onnxruntime

ONE, SEVERAL = 2, 5  # images of the example and of the proof: the batch may vary


class _Part(nn.Module):
    """One function of a cut, with the network whose weights it uses."""

    def __init__(self, network: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, *values: Tensor) -> Any:
        return self.function(*values)


@contextmanager
def opened(network: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], threads: int | None = None) -> Iterator[Cut]:
    """Write the parts of a float32 network on the CPU, prove them against it, and open them in ONNX Runtime.

    Args:
        inputs: x (B, C, H, W), t (B,) and y (B,) of any batch; height and width are fixed.

    Yields the cut: its values are float32 tensors on the CPU. Raises ConvbenchError where the parts do not make the
    network, UsageError where a package is missing.
    """
    whole = cut_of(network)
    assert whole, "the plan was checked"
    for name in ("onnxscript", "onnx_ir"):
        packages.require(name)
    x, t, y = (value[:1].expand(ONE, *value.shape[1:]).contiguous() for value in inputs)
    folder = Path(tempfile.mkdtemp(prefix="convbench-parts-"))
    try:
        with torch.inference_mode():
            entered = tuple(value.clone() for value in whole.enter(x, t, y))
            deep = whole.inner(*entered).clone()
        parts = [
            _session(network, whole.enter, (x, t, y), len(entered), folder / "enter.onnx", threads),
            _session(network, whole.inner, entered, 1, folder / "inner.onnx", threads),
            _session(network, whole.leave, (deep, *entered), 1, folder / "leave.onnx", threads),
        ]
        cut = Cut(parts[0], _single(parts[1]), _single(parts[2]))
        _prove(network, cut, inputs)
        yield cut
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _session(
    network: nn.Module,
    function: Callable[..., Any],
    example: Sequence[Tensor],
    outputs: int,
    file: Path,
    threads: int | None,
) -> Callable[..., tuple[Tensor, ...]]:
    """Write a part and open it. Inputs that the part does not use are dropped by the exporter."""
    names, results = [f"v{i}" for i in range(len(example))], [f"r{i}" for i in range(outputs)]
    batch = torch.export.Dim("batch", min=1, max=2**16)
    with onnx.quietly(), torch.no_grad():
        program: Any = torch.onnx.export(
            _Part(network, function),
            tuple(example),
            dynamo=True,
            opset_version=onnx.OPSET,
            input_names=names,
            output_names=results,
            dynamic_shapes=(tuple({0: batch} for _ in example),),
            verbose=False,
        )
    program.save(str(file))
    session = onnxruntime.session(file, "cpu", threads)
    taken = {each.name for each in session.get_inputs()}

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        given = {name: value.contiguous().numpy() for name, value in zip(names, values, strict=True) if name in taken}
        return tuple(torch.from_numpy(value) for value in session.run(results, given))

    return run


def _single(run: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    return lambda *values: run(*values)[0]


def _prove(network: nn.Module, cut: Cut, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Compare the parts with the network, for another batch than that of the example and several times."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((SEVERAL, *inputs[0].shape[1:]), generator=generator)
    for time in (0.0, 0.4, 0.95):
        t = torch.full((SEVERAL,), time * float(inputs[1].abs().max().clamp_min(1)))
        y = torch.arange(SEVERAL) % (int(inputs[2].max()) + 1)
        with torch.inference_mode():
            expected = network(x, t, y)
        error = relative_error(cut(x, t, y), expected)
        if not error <= RELATIVE_L2["fp32"]:
            raise ConvbenchError(
                f"the network in parts is wrong: its error of {error:.1e} is above {RELATIVE_L2['fp32']:.0e}"
            )
