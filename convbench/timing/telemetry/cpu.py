"""What a processor and one process on it have done so far, read from outside that process. Loads no torch.

Counters only grow; whoever wants a rate takes the difference of two readings.
"""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

Sample = dict[str, float | None]
T = TypeVar("T")

POWERCAP = Path("/sys/class/powercap")


class Processor:
    """Readings of the machine and of one process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.process = quietly(lambda: psutil.Process(pid))
        self.rapl = Rapl()
        self.readings = 0

    def read(self) -> Sample:
        """Counters: seconds of processor time, involuntary switches, J. Now: load average over a minute, Hz."""
        times = quietly(psutil.cpu_times)
        busy = ("user", "nice", "system", "irq", "softirq", "steal")
        # On a large machine this asks every core: one sample in ten will do.
        frequency = quietly(lambda: psutil.cpu_freq().current) if self.readings % 10 == 0 else None
        self.readings += 1
        return {
            "machine_s": sum(getattr(times, name, 0.0) for name in busy) if times else None,
            "stolen_s": getattr(times, "steal", None),
            "own_s": _seconds(self.process),
            "sampler_s": time.process_time(),  # of this process: it is not one of the others
            "waited_s": waited_s(self.pid),
            "involuntary_switches": involuntary_switches(self.pid),
            "load_average": quietly(lambda: os.getloadavg()[0]),
            "frequency_hz": frequency * 1e6 if frequency else None,  # 0 where the system does not tell
            "cpu_energy_j": self.rapl.read(),
        }


def quietly(ask: Callable[[], T]) -> T | None:
    """The answer, None where this system has none or the process has gone."""
    try:
        return ask()
    except (psutil.Error, OSError, AttributeError, NotImplementedError, RuntimeError, ValueError):
        return None


def _seconds(process: psutil.Process | None) -> float | None:
    spent = quietly(process.cpu_times) if process else None
    return spent.user + spent.system if spent else None


def waited_s(pid: int, proc: Path = Path("/proc")) -> float | None:
    """Seconds that the threads of a process were ready to run and had no core. Linux: second field of schedstat."""
    waits = [text.split()[1] for text in _of_threads(pid, "schedstat", proc)]
    return sum(map(int, waits)) / 1e9 if waits else None


def involuntary_switches(pid: int, proc: Path = Path("/proc")) -> float | None:
    """How often a thread of the process was put off a core. psutil counts the main thread alone."""
    found = [re.search(r"nonvoluntary_ctxt_switches:\s*(\d+)", text) for text in _of_threads(pid, "status", proc)]
    if any(found):
        return sum(int(match[1]) for match in found if match)
    return quietly(lambda: psutil.Process(pid).num_ctx_switches().involuntary)


def _of_threads(pid: int, file: str, proc: Path) -> list[str]:
    texts = []
    with suppress(OSError):
        for thread in (proc / str(pid) / "task").iterdir():
            with suppress(OSError):  # a thread may end meanwhile
                texts.append((thread / file).read_text())
    return [text for text in texts if text.strip()]


class Rapl:
    """Energy of the processor packages since the first reading, from Linux' powercap. Often readable by root only.

    Counters wrap around at ``max_energy_range_uj``; they are read often enough that this happens once at most.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self.zones = [
            (zone, range_uj)
            for zone in sorted(root.glob("intel-rapl:*"))  # AMD's counters bear this name too
            if zone.name.count(":") == 1
            and _text(zone / "name").startswith("package")  # psys would count them twice
            and (range_uj := _number(zone / "max_energy_range_uj"))
        ]
        self.last = [_number(zone / "energy_uj") for zone, _ in self.zones]
        self.total_uj: int | None = 0 if self.zones and None not in self.last else None

    def read(self) -> float | None:
        """J of all packages together."""
        if self.total_uj is None:
            return None
        now = [_number(zone / "energy_uj") for zone, _ in self.zones]
        for (_, range_uj), before, after in zip(self.zones, self.last, now, strict=True):
            if before is None or after is None:  # a gap would hide a wrap
                self.total_uj = None
                return None
            self.total_uj += after - before if after >= before else after - before + range_uj
        self.last = now
        return self.total_uj / 1e6


def _text(path: Path) -> str:
    return quietly(lambda: path.read_text().strip()) or ""


def _number(path: Path) -> int | None:
    return quietly(lambda: int(path.read_text()))
