"""State of an NVIDIA GPU, read through NVML from a process that does not use it. Loads no torch, changes nothing.

On some cards, drivers and partitions NVML does not support many of these values; they are then None.
"""

import os
from collections.abc import Iterable
from typing import Any

from .cpu import Sample

# NVML_CLOCKS_EVENT_REASON_* in nvml.h.
IDLE, APPLICATIONS_CLOCKS = 0x1, 0x2
REASONS = {
    IDLE: "idle",
    APPLICATIONS_CLOCKS: "application clocks setting",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost with other GPUs",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks setting",
    0x200: "board limit",
    0x400: "reliability limit",
}


def reasons_in_words(bits: int) -> list[str]:
    """Name the reasons for lower clocks; an unknown bit is named by its number."""
    bits_set = (1 << n for n in range(bits.bit_length()) if bits >> n & 1)
    return [REASONS.get(bit, f"unknown reason {bit:#x}") for bit in bits_set]


class Gpu:
    """Readings of one GPU, or of one of its MIG instances."""

    def __init__(self, nvml: Any, handle: Any, pid: int) -> None:
        self.nvml, self.handle, self.pid = nvml, handle, pid
        self.is_mig = bool(self.ask("nvmlDeviceIsMigDeviceHandle", handle))
        # Clocks, power and energy exist for the whole card only.
        self.card = self.ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle) if self.is_mig else handle

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function of NVML; None if it fails."""
        try:
            return getattr(self.nvml, name)(*arguments)
        except Exception:  # pynvml has a class for each error code, and others for missing functions
            return None

    def read(self) -> Sample:
        """Read Hz, W, °C, J since the driver was loaded, bytes, utilisation as a share, other compute processes."""
        ask, card, nvml = self.ask, self.card, self.nvml
        bits = ask("nvmlDeviceGetCurrentClocksEventReasons", card)
        if bits is None:  # name before driver 535
            bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons", card)
        celsius = ask("nvmlDeviceGetTemperatureV", card, nvml.NVML_TEMPERATURE_GPU)
        if celsius is None:
            celsius = ask("nvmlDeviceGetTemperature", card, nvml.NVML_TEMPERATURE_GPU)
        memory, used = ask("nvmlDeviceGetMemoryInfo", self.handle), ask("nvmlDeviceGetUtilizationRates", card)
        processes = ask("nvmlDeviceGetComputeRunningProcesses", self.handle)
        return {
            "sm_clock_hz": _scaled(ask("nvmlDeviceGetClockInfo", card, nvml.NVML_CLOCK_SM), 1e6),
            "memory_clock_hz": _scaled(ask("nvmlDeviceGetClockInfo", card, nvml.NVML_CLOCK_MEM), 1e6),
            "power_w": _scaled(ask("nvmlDeviceGetPowerUsage", card), 1e-3),
            "temperature_c": celsius,
            "gpu_utilisation": None if used is None else used.gpu / 100,
            "throttle_bits": bits,
            "other_processes": None if processes is None else other_processes((p.pid for p in processes), self.pid),
            "used_bytes": None if memory is None else memory.used,
            "gpu_energy_j": _scaled(ask("nvmlDeviceGetTotalEnergyConsumption", card), 1e-3),
        }

    def facts(self) -> dict[str, Any]:
        """Read facts that do not change during timing. Switches are bool, None if the card does not have them."""
        ask, card = self.ask, self.card
        mig, ecc = ask("nvmlDeviceGetMigMode", card), ask("nvmlDeviceGetEccMode", card)
        confidential = ask("nvmlSystemGetConfComputeState")
        processes = ask("nvmlDeviceGetComputeRunningProcesses", self.handle)
        return {
            "uuid": ask("nvmlDeviceGetUUID", self.handle),
            "name": ask("nvmlDeviceGetName", card),
            "driver": ask("nvmlSystemGetDriverVersion"),
            "mig": None if mig is None else bool(mig[0]),
            "is_mig_instance": self.is_mig,  # clocks, power and energy then refer to the whole card
            "ecc": None if ecc is None else bool(ecc[0]),
            "persistence": _as_bool(ask("nvmlDeviceGetPersistenceMode", card)),
            "confidential_computing": None if confidential is None else bool(confidential.ccFeature),
            "power_limit_w": _scaled(ask("nvmlDeviceGetEnforcedPowerLimit", card), 1e-3),
            "max_sm_clock_hz": _scaled(ask("nvmlDeviceGetMaxClockInfo", card, self.nvml.NVML_CLOCK_SM), 1e6),
            "pids": pid_namespace((p.pid for p in processes or []), self.pid),
        }


def open_gpu(names: list[str], pid: int) -> tuple[Gpu | None, str]:
    """Open the GPU that a process uses; None and the reason if that fails.

    Args:
        names: names of this GPU, "GPU-…" or "MIG-…" (UUID) or a PCI address, the most reliable first.
        pid: process that uses the GPU.
    """
    try:
        import pynvml
    except ImportError:
        return None, "pynvml is not installed: pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"NVML cannot be initialised: {error}"
    return find_gpu(pynvml, names, pid)


def find_gpu(nvml: Any, names: list[str], pid: int) -> tuple[Gpu | None, str]:
    """Find the first name that NVML knows; without one, the GPU of a machine that has one, never a guess of several."""
    for name in names:
        by_uuid = name.startswith(("GPU-", "MIG-"))
        look_up = nvml.nvmlDeviceGetHandleByUUID if by_uuid else nvml.nvmlDeviceGetHandleByPciBusId
        try:
            return Gpu(nvml, look_up(name), pid), ""
        except nvml.NVMLError:
            continue
    try:
        if nvml.nvmlDeviceGetCount() == 1:
            return Gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(0), pid), ""
    except nvml.NVMLError as error:
        return None, f"NVML: {error}"
    return None, f"NVML does not know any of the GPU names {', '.join(names) or '(none)'}"


def other_processes(pids: Iterable[int], pid: int) -> int | None:
    """Count compute processes on the GPU other than one that is known to use it; None if no process is visible.

    In a container the driver may report the pids of the host, of the container, or of a thread (NVIDIA/nvidia-docker
    #1483, Project-HAMi/HAMi-core #112). If our pid is not among them, one of them still belongs to us.
    """
    seen = set(pids)
    if not seen:
        return None
    own = {each for each in seen if _is_process_or_thread(each, pid)}
    return len(seen) - max(1, len(own))


def pid_namespace(pids: Iterable[int], pid: int) -> str:
    """Namespace of the pids that NVML reports: "own", "of another namespace" or "hidden"."""
    seen = set(pids)
    if not seen:
        return "hidden"
    return "own" if any(_is_process_or_thread(each, pid) for each in seen) else "of another namespace"


def _is_process_or_thread(number: int, pid: int) -> bool:
    return number == pid or os.path.exists(f"/proc/{pid}/task/{number}")


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def _as_bool(value: int | None) -> bool | None:
    return None if value is None else bool(value)
