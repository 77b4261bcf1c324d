"""Any artefact as a step: a function of x, t and y, tensors on the device it runs on."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from convbench.errors import UsageError, first_line
from convbench.schema import Step

from . import aoti, folder, mnn, ncnn, onnxruntime, openvino, tensorrt, trust
from .manifest import Manifest


class Unreadable(UsageError):
    """A file that its runtime refuses."""


@contextmanager
def opened(
    artefact: Path, threads: int | None = None, device: str | None = None, trust_native: bool = False
) -> Iterator[Step]:
    """Open the artefact in a folder: a copy of it whose hashes are those of its manifest.

    Args:
        threads: of a processor; None for what the runtime thinks best.
        device: for ONNX files, which run on both; None for what the manifest says.
        trust_native: open machine code that was not built here.

    Raises UsageError, with the reason, for what cannot run here, is damaged or is not to be trusted.
    """
    manifest = folder.read(artefact)
    trust.require(artefact, manifest, trust_native)
    with ExitStack() as stack:
        with folder.sealed(artefact, manifest) as private:  # gone once the runtime has read it
            file = private / manifest.entry
            step = stack.enter_context(open_file(file, manifest, threads, device or manifest.target["device"]))
        yield step


@contextmanager
def open_file(file: Path, manifest: Manifest, threads: int | None, device: str) -> Iterator[Step]:
    """The same for a file and a manifest that need not lie in one folder yet; checks neither hashes nor origin.

    Raises Unreadable where the runtime refuses the file, UsageError where it cannot run here.
    """
    if manifest.to == "aoti":
        aoti.require_runnable(manifest.target)
    elif manifest.to == "tensorrt":
        tensorrt.require_runnable(manifest.target)
    with ExitStack() as stack:
        try:
            step = _opened(file, manifest, threads, device, stack)
        except UsageError:
            raise
        except Exception as error:  # a runtime may raise anything about a file that it cannot read
            raise Unreadable(f"{manifest.to} cannot open {file.name}: {first_line(error, 300)}") from None
        yield step


def _opened(file: Path, manifest: Manifest, threads: int | None, device: str, stack: ExitStack) -> Step:
    if manifest.to == "onnx":
        session = onnxruntime.session(file, device, threads)
        return onnxruntime.step(session) if device == "cpu" else _allocating(session, manifest)
    if manifest.to == "openvino":
        return openvino.step(openvino.session(file, threads))
    if manifest.to == "aoti":
        return aoti.step(file)
    if manifest.to in ("ncnn", "mnn"):
        return (ncnn if manifest.to == "ncnn" else mnn).step(file, threads)
    return stack.enter_context(tensorrt.opened(file, graphs=False))


def _allocating(session: object, manifest: Manifest) -> Step:
    """A session on a GPU that takes any shape: each output has memory of its own."""
    channels = manifest.outputs[0].shape[1]
    assert isinstance(channels, int)

    def run(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = torch.empty((x.shape[0], channels, *x.shape[2:]), device=x.device)
        return onnxruntime.bound_step(session, out)(x, t, y)

    return run
