"""Peak memory of a part of the work."""

import resource
import sys
from pathlib import Path

import torch

PROC_SELF = Path("/proc/self")


def reset_peak(device: str) -> None:
    """Reset the peak memory of the device, or of the process on a CPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif (PROC_SELF / "clear_refs").exists():
        try:
            (PROC_SELF / "clear_refs").write_text("5")  # sets the high-water mark to the current size
        except OSError:
            return  # then the mark covers the whole process: higher, never lower


def device_allocations(device: str) -> int:
    """Number of times torch has allocated memory from the GPU driver so far; 0 on a CPU."""
    return int(torch.cuda.memory_stats().get("num_device_alloc", 0)) if device == "cuda" else 0


def peak_bytes(device: str) -> int:
    """Peak bytes since the last reset: allocated on a GPU; resident in the process, weights included, on a CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = (PROC_SELF / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
