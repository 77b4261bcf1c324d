"""Peak memory of a stretch of work."""

import resource
import sys
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def reset_peak(device: str) -> None:
    """Start a new stretch."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif (PROCESS / "clear_refs").exists():
        try:
            (PROCESS / "clear_refs").write_text("5")  # sets the high-water mark to the present size
        except OSError:
            return  # then the mark is that of the whole process: higher, never lower


def device_allocations(device: str) -> int:
    """How often torch has asked the driver of a GPU for memory so far; 0 on a CPU."""
    return int(torch.cuda.memory_stats().get("num_device_alloc", 0)) if device == "cuda" else 0


def peak_bytes(device: str) -> int:
    """Most bytes since the last reset: allocated on a GPU; resident in the process, weights and all, on a CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = (PROCESS / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
