"""Any artefact as a step: a function of x, t and y, tensors on the device it runs on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from convbench.schema import Step

from . import aoti, folder, onnxruntime, openvino, tensorrt
from .folder import Manifest


@contextmanager
def opened(artefact: Path, threads: int | None = None, device: str | None = None) -> Iterator[Step]:
    """Open the artefact in a folder.

    Args:
        threads: of a processor; None for what the runtime thinks best.
        device: for ONNX files, which run on both; None for what the manifest says.

    Raises UsageError, with the reason, for what cannot run here.
    """
    manifest = folder.read(artefact)
    with open_file(artefact / manifest.entry, manifest, threads, device or manifest.target["device"]) as step:
        yield step


@contextmanager
def open_file(file: Path, manifest: Manifest, threads: int | None, device: str) -> Iterator[Step]:
    """The same for a file and a manifest that need not lie in one folder yet."""
    if manifest.to == "onnx":
        session = onnxruntime.session(file, device, threads)
        yield onnxruntime.step(session) if device == "cpu" else _allocating(session, manifest)
    elif manifest.to == "openvino":
        yield openvino.step(openvino.session(file, threads))
    elif manifest.to == "aoti":
        aoti.require_runnable(manifest.target)
        yield aoti.step(file)
    else:
        tensorrt.require_runnable(manifest.target)
        with tensorrt.opened(file, graphs=False) as step:
            yield step


def _allocating(session: object, manifest: Manifest) -> Step:
    """A session on a GPU that takes any shape: each output has memory of its own."""
    channels = manifest.outputs[0].shape[1]
    assert isinstance(channels, int)

    def run(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = torch.empty((x.shape[0], channels, *x.shape[2:]), device=x.device)
        return onnxruntime.bound_step(session, out)(x, t, y)

    return run
