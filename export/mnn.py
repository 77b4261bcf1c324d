"""MNN: its own format, made from an ONNX file by its converter, for one batch and size; run in float32."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convbench import packages
from convbench.errors import UsageError
from convbench.schema import Step

from .manifest import ENTRIES

ENTRY = ENTRIES["mnn"]
OPSET = 18  # the newest without a GroupNormalization, which MNN does not know
LONGEST_S = 900
# The command `mnnconvert` installs a package with pip and sends what it did to a server; what it calls does neither.
CONVERT = "import sys; sys.modules['MNN.tools.utils.log'] = None; import _tools; _tools.mnnconvert(sys.argv)"
WINOGRAD_HINT = 3  # of how much memory Winograd may take: 0 is none


def write(source: Path, folder: Path) -> None:
    """Convert an ONNX file of opset 18. Raises UsageError where MNN's converter refuses it."""
    plain = source.with_name("plain.onnx")
    without_norms(source, plain)
    files = ["--modelFile", str(plain), "--MNNModel", str(folder / ENTRY)]
    line = [sys.executable, "-c", CONVERT, "-f", "ONNX", *files, "--bizCode", "convbench"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    if done.returncode or not (folder / ENTRY).is_file():
        said = [*done.stderr.splitlines(), *done.stdout.splitlines()[-1:], "no reason given"]
        raise UsageError(f"MNN cannot convert this network: {said[0]}")


def without_norms(source: Path, target: Path) -> None:
    """Write ReduceL2 as sqrt(sum(x x)): MNN 3.6.1 converts one with its axes as an input to something else."""
    onnx = packages.require("onnx")
    model = onnx.load(str(source))
    nodes = []
    for node in model.graph.node:
        if node.op_type != "ReduceL2":
            nodes.append(node)
            continue
        x, out = node.input[0], node.output[0]
        nodes.append(onnx.helper.make_node("Mul", [x, x], [f"{out}_squares"]))
        nodes.append(onnx.helper.make_node("ReduceSum", [f"{out}_squares", *node.input[1:]], [f"{out}_sum"]))
        nodes[-1].attribute.extend(node.attribute)
        nodes.append(onnx.helper.make_node("Sqrt", [f"{out}_sum"], [out]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(target), save_as_external_data=model.ByteSize() > 2**30, location=f"{target.name}.data")


def step(file: Path, threads: int | None = None, winograd: bool = True) -> Step:
    """The network as a step, in float32."""
    with _quietly():
        network, expr = packages.require("MNN.nn"), packages.require("MNN.expr")
        settings = {"precision": "high", "backend": "CPU", "numThread": threads or torch.get_num_threads()}
        runtime = network.create_runtime_manager((settings,))
        if not winograd:
            runtime.set_hint(WINOGRAD_HINT, 0)
        module = network.load_module_from_file(str(file), ["x", "t", "y"], ["out"], runtime_manager=runtime)

    def given(value: Tensor) -> Any:
        kind, whole = (expr.int, value.int()) if value.dtype == torch.int64 else (expr.float, value)
        return expr.const(whole.contiguous().numpy(), list(value.shape), expr.NCHW, kind)

    def run(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out = expr.convert(module.forward([given(x), given(t), given(y)])[0], expr.NCHW)
        return torch.from_numpy(out.read().reshape(x.shape[0], -1, *x.shape[2:]).copy())

    return run


@contextmanager
def _quietly() -> Iterator[None]:
    """Send what MNN prints on stdout, which belongs to tables and to the protocol of workers, to nowhere."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
