"""Sessions of ONNX Runtime, for its own files on a processor and on a GPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convbench import packages
from convbench.errors import UsageError, first_line
from convbench.schema import Step

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def missing_provider(device: str) -> str | None:
    """Reason why ONNX Runtime cannot run on the device, or None."""
    if reason := packages.missing("onnxruntime"):
        return reason
    ort = packages.require("onnxruntime")
    if PROVIDERS[device] in ort.get_available_providers():
        return None
    return "this ONNX Runtime has no CUDA provider: pip uninstall onnxruntime, then pip install onnxruntime-gpu"


def session(
    file: Path,
    device: str = "cpu",
    threads: int | None = None,
    fixed: Mapping[str, int] | None = None,
    taps: Sequence[str] = (),
    tf32: bool = False,
    optimise: bool = True,
) -> Any:
    """An open session on exactly the device that was asked for.

    Args:
        fixed: what named dimensions are; kernels are then chosen for these sizes.
        taps: names of values to return behind the output.

    Raises UsageError where the provider is not there, or where part of the graph would run elsewhere.
    """
    if reason := missing_provider(device):
        raise UsageError(reason)
    ort = packages.require("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    if threads:
        options.intra_op_num_threads = threads
    # Threads that spin between steps take the processor from whatever is timed in turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in (fixed or {}).items():
        options.add_free_dimension_override_by_name(name, value)
    wanted: list[Any] = [PROVIDERS[device]]
    stream = torch.cuda.Stream() if device == "cuda" else None
    if stream:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # A stream of our own, never PyTorch's default one: that has the address 0, which the provider takes for none
        # (cuda_execution_provider_info.cc: has_user_compute_stream = (user_compute_stream != nullptr)) and then creates
        # a non-blocking stream, which waits for nothing that PyTorch has queued.
        asked = {"user_compute_stream": str(stream.cuda_stream), "use_tf32": str(int(tf32))}
        wanted = [(PROVIDERS[device], asked)]
    try:
        opened = ort.InferenceSession(_tapped(file, taps, options) if taps else str(file), options, providers=wanted)
    except Exception as error:  # its errors have no common class
        if "fallback" in str(error).lower():
            raise UsageError(f"{file.name}: the CUDA provider cannot run every operator: {first_line(error)}") from None
        raise
    opened.disable_fallback()
    opened.stream = stream
    ran = opened.get_providers()[0]
    if ran != PROVIDERS[device]:
        raise UsageError(f"ONNX Runtime silently fell back to {ran}: {PROVIDERS[device]} is unavailable")
    return opened


def _tapped(file: Path, taps: Sequence[str], options: Any) -> bytes:
    """The model with more outputs. Its weights stay where they are."""
    onnx = packages.require("onnx")
    model = onnx.load(str(file), load_external_data=False)
    held = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps if name not in held)
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(file.parent.absolute())
    )
    return bytes(model.SerializeToString())


def step(opened: Any) -> Step:
    """A session on the processor as a step."""

    def run(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        (out,) = opened.run(["out"], {"x": x.float().numpy(), "t": t.float().numpy(), "y": y.numpy()})
        return torch.from_numpy(out)

    return run


def bound_step(opened: Any, out: Tensor) -> Step:
    """Wrap a session on a GPU as a step that reads and writes device memory without copies.

    The session has a stream of its own: it waits for what PyTorch has queued, such as the conversion of the inputs,
    and PyTorch's stream waits for it, so that later steps, reads of the output and events come after it.

    Args:
        opened: by ``session``.
        out: output (B, C or 2C, H, W), float32, contiguous, on the device; every call overwrites it.
    """
    import numpy as np

    kinds = {torch.float32: np.float32, torch.int64: np.int64}
    binding = opened.io_binding()
    binding.bind_output("out", "cuda", 0, np.float32, tuple(out.shape), out.data_ptr())

    def run(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        held = {"x": x.float().contiguous(), "t": t.float().contiguous(), "y": y.contiguous()}
        for name, value in held.items():
            binding.bind_input(name, "cuda", 0, kinds[value.dtype], tuple(value.shape), value.data_ptr())
        current = torch.cuda.current_stream()
        opened.stream.wait_stream(current)
        opened.run_with_iobinding(binding)
        current.wait_stream(opened.stream)
        for value in held.values():  # their memory is not used again before the session has read it
            value.record_stream(opened.stream)
        return out

    return run
