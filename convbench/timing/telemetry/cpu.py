"""Counters of a processor and of one process, read from outside that process. Does not load torch.

Counters only grow; a rate is the difference of two readings.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

Sample = dict[str, float | None]
Value = TypeVar("Value")

POWERCAP = Path("/sys/class/powercap")


class Processor:
    """Readings of the machine and of one process by its pid."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.process = value_or_none(lambda: psutil.Process(pid))
        self.rapl = Rapl()
        self.readings = 0

    def read(self) -> Sample:
        """Read counters (seconds of processor time, involuntary switches, J) and current values (load average, Hz)."""
        busy = ("user", "nice", "system", "irq", "softirq", "steal")
        times = self._times()
        # On a large machine this reads every core: one sample in ten is enough.
        frequency = value_or_none(lambda: psutil.cpu_freq().current) if self.readings % 10 == 0 else None
        self.readings += 1
        return {
            "machine_s": sum(getattr(each, name, 0.0) for each in times for name in busy) if times else None,
            "stolen_s": sum(each.steal for each in times) if times and hasattr(times[0], "steal") else None,
            "own_s": _processor_seconds(self.process),
            "sampler_s": time.process_time(),  # this process, which does not count as another one
            "waited_s": waited_s(self.pid),
            "involuntary_switches": involuntary_switches(self.pid),
            "load_average": value_or_none(lambda: os.getloadavg()[0]),
            "frequency_hz": frequency * 1e6 if frequency else None,  # 0 if the system does not report it
            "cpu_energy_j": self.rapl.read(),
        }

    def _times(self) -> Sequence[Any]:
        """Times of the machine; of the process's own cores alone where it is bound to some."""
        bound = value_or_none(self.process.cpu_affinity) if self.process else None
        if not bound or len(bound) == psutil.cpu_count():
            whole = value_or_none(psutil.cpu_times)
            return [whole] if whole else []
        each = value_or_none(lambda: psutil.cpu_times(percpu=True)) or []
        return [each[cpu] for cpu in bound if cpu < len(each)]


def value_or_none(read: Callable[[], Value]) -> Value | None:
    """Call a function; None if this system does not have the value or the process has ended."""
    try:
        return read()
    except (psutil.Error, OSError, AttributeError, NotImplementedError, RuntimeError, ValueError):
        return None


def _processor_seconds(process: psutil.Process | None) -> float | None:
    spent = value_or_none(process.cpu_times) if process else None
    return spent.user + spent.system if spent else None


def waited_s(pid: int, proc: Path = Path("/proc")) -> float | None:
    """Seconds in which threads of a process were ready to run without a core. Linux: second field of schedstat."""
    waits = [text.split()[1] for text in _thread_files(pid, "schedstat", proc)]
    return sum(map(int, waits)) / 1e9 if waits else None


def involuntary_switches(pid: int, proc: Path = Path("/proc")) -> float | None:
    """Number of times a thread of the process was preempted. psutil only counts the main thread."""
    found = [re.search(r"nonvoluntary_ctxt_switches:\s*(\d+)", text) for text in _thread_files(pid, "status", proc)]
    if any(found):
        return sum(int(match[1]) for match in found if match)
    return value_or_none(lambda: psutil.Process(pid).num_ctx_switches().involuntary)


def _thread_files(pid: int, file: str, proc: Path) -> list[str]:
    texts = []
    with suppress(OSError):
        for thread in (proc / str(pid) / "task").iterdir():
            with suppress(OSError):  # a thread may end in between
                texts.append((thread / file).read_text())
    return [text for text in texts if text.strip()]


class Rapl:
    """Energy of the processor packages since the first reading, from Linux powercap. Often only root can read it.

    Counters wrap around at ``max_energy_range_uj``; they are read often enough that this happens at most once.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self.zones = [
            (zone, range_uj)
            for zone in sorted(root.glob("intel-rapl:*"))  # counters of AMD also have this name
            if zone.name.count(":") == 1
            and _text(zone / "name").startswith("package")  # psys would count them again
            and (range_uj := _number(zone / "max_energy_range_uj"))
        ]
        self.last = [_number(zone / "energy_uj") for zone, _ in self.zones]
        self.total_uj: int | None = 0 if self.zones and None not in self.last else None

    def read(self) -> float | None:
        """Read the total energy of all packages in J; None if it is unknown."""
        if self.total_uj is None:
            return None
        now = [_number(zone / "energy_uj") for zone, _ in self.zones]
        for (_, range_uj), before, after in zip(self.zones, self.last, now, strict=True):
            if before is None or after is None:  # a gap could hide a wrap-around
                self.total_uj = None
                return None
            self.total_uj += after - before if after >= before else after - before + range_uj
        self.last = now
        return self.total_uj / 1e6


def _text(path: Path) -> str:
    return value_or_none(lambda: path.read_text().strip()) or ""


def _number(path: Path) -> int | None:
    return value_or_none(lambda: int(path.read_text()))
