"""Cores and GPUs of this machine, and which of them a job gets for itself."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError

SYSTEM = Path("/sys")


@dataclass(frozen=True)
class Slot:
    """Share of this machine for one job: logical processors, and a GPU by the word that CUDA_VISIBLE_DEVICES takes."""

    cpus: tuple[int, ...]
    gpu: str | None = None


def physical_cores(system: Path = SYSTEM) -> list[tuple[int, ...]]:
    """List the logical processors of each physical core that this process may use."""
    allowed = os.sched_getaffinity(0)
    groups = {}
    for cpu in sorted(allowed):
        siblings = _numbers(system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or {cpu}
        groups[min(siblings)] = tuple(sorted(siblings & allowed))
    return list(groups.values())


def core_slots(threads: int, system: Path = SYSTEM) -> list[Slot]:
    """Divide the cores into groups of ``threads`` physical ones. Raises UsageError if not even one group exists."""
    cores = physical_cores(system)
    if threads > len(cores):
        raise UsageError(
            f"{threads} threads need {threads} cores of their own and this process may use {len(cores)}: cores would "
            f"be shared; --threads {len(cores)} or fewer"
        )
    groups = [cores[i : i + threads] for i in range(0, len(cores) - threads + 1, threads)]
    return [Slot(tuple(cpu for core in group for cpu in core)) for group in groups]


def gpu_slots(system: Path = SYSTEM) -> list[Slot]:
    """One slot a GPU, with an equal share of the cores that are nearest to it. Raises UsageError without a GPU."""
    gpus = _gpus()
    if not gpus:
        raise UsageError("nvidia-smi lists no GPU that this process may use")
    cores = physical_cores(system)
    near = {gpu: _nearest(cores, _local_cpus(address, system)) for gpu, address in gpus}
    slots = []
    for gpu, own in near.items():
        sharing = [other for other, theirs in near.items() if theirs == own]
        share = own[sharing.index(gpu) :: len(sharing)] or own  # more GPUs than cores: these only launch
        slots.append(Slot(tuple(cpu for core in share for cpu in core), gpu))
    return slots


def _nearest(cores: list[tuple[int, ...]], local: set[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(core for core in cores if local & set(core)) or tuple(cores)


def _gpus() -> list[tuple[str, str]]:
    """Name and PCI address of each GPU that CUDA_VISIBLE_DEVICES leaves; asked without touching one."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,pci.bus_id", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    found = [tuple(part.strip() for part in line.split(",")) for line in done.stdout.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [(index, address) for index, _, address in found]
    words = [word.strip() for word in visible.split(",")]
    return [(word, address) for word in words for index, uuid, address in found if word in (index, uuid)]


def _local_cpus(address: str, system: Path) -> set[int]:
    """Logical processors of the NUMA node of a PCI device; empty if unknown."""
    return _numbers(system / "bus/pci/devices" / address.lower()[-12:] / "local_cpulist")


def _numbers(path: Path) -> set[int]:
    """Numbers of a list such as 0-3,8: the form of the kernel."""
    try:
        parts = path.read_text().strip().split(",")
        ends = [(part.split("-")[0], part.split("-")[-1]) for part in parts if part]
        return {number for first, last in ends for number in range(int(first), int(last) + 1)}
    except (OSError, ValueError):
        return set()
