"""GPU targets that the kernels can be compiled for."""

from collections.abc import Sequence

from ...errors import UsageError
from ..product_tiles import OTHER_GPUS, generation
from ..schema import Compilation

# Target -> bytes of shared memory that one block can have (CUDA C++ Programming Guide, table of compute capabilities).
SHARED_BYTES = {
    "sm_80": 163 * 1024,
    "sm_86": 99 * 1024,
    "sm_87": 163 * 1024,
    "sm_89": 99 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_103": 227 * 1024,
    "sm_120": 99 * 1024,
    "sm_121": 99 * 1024,
}


def require_known(targets: Sequence[str]) -> None:
    """Raise UsageError for a name that is not a target such as sm_90."""
    for target in targets:
        if target not in SHARED_BYTES:
            raise UsageError(f"unknown GPU target '{target}'; choose from {', '.join(SHARED_BYTES)}")


def capability(target: str) -> int:
    """Compute capability as Triton takes it: 90 for sm_90."""
    return int(target.removeprefix("sm_"))


def ships_for(compilation: Compilation, target: str) -> bool:
    """Return whether a GPU of that target may launch a compilation."""
    gpu = generation(divmod(capability(target), 10)) or OTHER_GPUS
    return not compilation.gpus or gpu in compilation.gpus
