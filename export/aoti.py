"""AOTInductor: the network compiled ahead of time into a .pt2 file, its weights packed for this kind of processor."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convbench.errors import UsageError
from convbench.kernels.cpu import compiled
from convbench.schema import Step

from .manifest import ENTRIES
from .shapes import Shapes

ENTRY = ENTRIES["aoti"]
CAPABILITIES = ("DEFAULT", "NO AVX", "AVX2", "AVX512")  # of torch, each running what is compiled for those before it
PACKED = re.compile(
    rb"aoti_torch_cpu_mkldnn__convolution_pointwise\w*\(|aoti_torch_cpu__(?:mkl_)?linear_pointwise\w*\("
)


def write(model: nn.Module, shapes: Shapes, file: Path) -> dict[str, Any]:
    """Compile a network for the device that its weights lie on.

    On a processor, freezing packs the weights of convolutions and linear layers once and for all; raises UsageError
    where the file does not hold at least a packed operator for each convolution.
    """
    import torch._inductor.config as inductor

    device = next(model.parameters()).device.type
    example = tuple(v.to(device) for v in shapes.example())
    # The number of threads is that of the process that runs it, not of this one.
    settings = {"freezing": device == "cpu", "cpp.dynamic_threads": True}
    with torch.no_grad(), inductor.patch(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler deprecates parts of itself
        program = torch.export.export(model, example, dynamic_shapes=shapes.dynamic())
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))
    if device != "cpu":
        return {}
    packed = packed_operators(file)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    if packed < convolutions:
        raise UsageError(
            f"freezing did not work: {packed} packed operators for {convolutions} convolutions; "
            "this build of torch lacks oneDNN"
        )
    return {"packed_operators": packed, "convolutions": convolutions}


def packed_operators(file: Path) -> int:
    """Number of calls of operators with packed weights in the compiled code."""
    with zipfile.ZipFile(file) as package:
        sources = [name for name in package.namelist() if name.endswith(".wrapper.cpp")]
        return sum(len(PACKED.findall(package.read(name))) for name in sources)


def target(device: str) -> dict[str, str]:
    """Requirements of a file that is compiled here."""
    if device == "cuda":
        return {"device": "cuda", "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    return {"device": "cpu", "capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}


def require_runnable(wanted: dict[str, str]) -> None:
    """Raise UsageError where this machine or this torch cannot run a file compiled for ``wanted``."""
    if wanted["torch"].partition("+")[0] != torch.__version__.partition("+")[0]:
        raise UsageError(
            f"this .pt2 file was compiled by torch {wanted['torch']} and does not run with torch {torch.__version__}: "
            f"export it again"
        )
    if wanted["device"] == "cuda":
        here = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
        if here != wanted["gpu"]:
            raise UsageError(
                f"this .pt2 file was compiled for the GPU {wanted['gpu']}, here is {here}: export it again"
            )
        return
    if wanted.get("kernels") not in (None, compiled.target()):
        raise UsageError(
            f"this .pt2 file holds weights packed for our kernels for {wanted['kernels']}, "
            f"this process uses those for {compiled.target()}: export it again"
        )
    here = torch.backends.cpu.get_cpu_capability()
    places = [CAPABILITIES.index(name) if name in CAPABILITIES else -1 for name in (wanted["capability"], here)]
    if here != wanted["capability"] and (min(places) < 0 or places[1] < places[0]):
        raise UsageError(
            f"this .pt2 file was compiled for a processor with {wanted['capability']}, "
            f"this one has {here}: export it again"
        )


def step(file: Path) -> Step:
    """The compiled network as a step."""
    import convbench.kernels.cpu.convolution  # noqa: F401 # the operator of files with --conv winograd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Step = torch._inductor.aoti_load_package(str(file))
    return loaded
