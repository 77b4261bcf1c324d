"""Summary of telemetry samples: the definition of each key, and the minimum time that it needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from ...schema import Second
from .cpu import Sample
from .gpu import APPLICATIONS_CLOCKS, IDLE

LEAST_ENERGY_S = 10.0
"""Energy counters advance about every 0.1 s, so the error over a shorter time would exceed 1 %."""
PEAK_WINDOW_S = 0.5

HARMLESS = IDLE | APPLICATIONS_CLOCKS
"""Reasons for a lower clock that are not throttling: an idle GPU, or a deliberate setting."""

Reduction = Callable[[Sequence[float]], float]


def _any_bit(values: Sequence[float]) -> float:
    bits = 0
    for value in values:
        bits |= int(value)
    return bits


def _throttled_share(values: Sequence[float]) -> float:
    return fmean(bool(int(value) & ~HARMLESS) for value in values)


@dataclass(frozen=True)
class Reading:
    """Definition of a key: its source in the samples, and the function that reduces the values."""

    key: str
    source: str
    reduce: Reduction


READINGS = {
    "cpu": (
        Reading("load_average", "load_average", fmean),  # runnable processes, averaged over a minute
        Reading("frequency_hz", "frequency_hz", median),
        Reading("frequency_hz_min", "frequency_hz", min),
    ),
    "cuda": (
        Reading("sm_clock_hz", "sm_clock_hz", median),
        Reading("sm_clock_hz_min", "sm_clock_hz", min),
        Reading("sm_clock_hz_max", "sm_clock_hz", max),
        Reading("memory_clock_hz", "memory_clock_hz", median),
        Reading("power_w", "power_w", fmean),  # averaged by the driver over up to a second
        Reading("power_w_max", "power_w", max),
        Reading("temperature_c", "temperature_c", max),
        Reading("gpu_utilisation", "gpu_utilisation", fmean),  # share of time with any kernel running
        Reading("throttle_bits", "throttle_bits", _any_bit),  # all reasons seen
        Reading("throttled_share", "throttle_bits", _throttled_share),
        Reading("other_processes", "other_processes", max),
        Reading("used_bytes", "used_bytes", max),  # device memory used by all processes
    ),
}
COUNTERS = {  # key -> counters added, counters subtracted; divided by the time
    "cores_of_others": (("machine_s",), ("own_s", "sampler_s")),
    "cores_of_this": (("own_s",), ()),
    "cores_of_sampler": (("sampler_s",), ()),
    "cores_stolen": (("stolen_s",), ()),  # by the hypervisor
    "cores_waited": (("waited_s",), ()),  # threads of the process that were ready without a core
}
ENERGY = {"cpu": ("cpu_energy_j",), "cuda": ("gpu_energy_j", "cpu_energy_j")}


def summarise(samples: Sequence[Sample], device: str, began: float, ended: float) -> dict[str, float | None]:
    """Compute all keys of a device from the samples between two times; None if a value is missing throughout."""
    inside = [sample for sample in samples if sample["at"] is not None and began <= sample["at"] <= ended]
    span = _increase(inside, "at") or 0.0
    timed = min(ended, _time_at(samples, -1)) - max(began, _time_at(samples, 0)) if samples else 0.0
    kinds = ("cpu", "cuda") if device == "cuda" else ("cpu",)

    summary: dict[str, float | None] = {
        "samples": len(inside),
        "sampled_s": span,
        "longest_gap_s": _longest_gap(inside),
    }
    for kind in kinds:
        for reading in READINGS[kind]:
            values = [value for sample in inside if (value := sample.get(reading.source)) is not None]
            summary[reading.key] = reading.reduce(values) if values else None
    for key, (added, subtracted) in COUNTERS.items():
        summary[key] = _rate(inside, added, subtracted)
    windows = _windows(inside)
    summary["cores_of_others_peak"] = max(
        (rate for window in windows if (rate := _rate(window, *COUNTERS["cores_of_others"])) is not None), default=None
    )
    summary["involuntary_switches"] = _increase(inside, "involuntary_switches")
    enough = timed >= LEAST_ENERGY_S and span >= 0.9 * timed
    for key in ENERGY[device]:
        summary[key] = _increase(inside, key) if enough else None
    return summary


def joules_per_image(summary: dict[str, float | None], images_per_s: float, device: str) -> float | None:
    """Energy of the device per image in J, including idle power."""
    energy, seconds = summary.get(ENERGY[device][0]), summary.get("sampled_s")
    return energy / seconds / images_per_s if energy and seconds else None


def _time_at(samples: Sequence[Sample], index: int) -> float:
    return samples[index]["at"] or 0.0


def _increase(samples: Sequence[Sample], name: str) -> float | None:
    """Increase of a counter; None if it is unknown at either end, or was reset."""
    if len(samples) < 2:
        return None
    first, last = samples[0].get(name), samples[-1].get(name)
    return last - first if first is not None and last is not None and last >= first else None


def _rate(samples: Sequence[Sample], added: Sequence[str], subtracted: Sequence[str]) -> float | None:
    seconds = _increase(samples, "at")
    increases = [_increase(samples, name) for name in (*added, *subtracted)]
    if not seconds or None in increases:
        return None
    known = [value for value in increases if value is not None]
    return max(0.0, sum(known[: len(added)]) - sum(known[len(added) :])) / seconds


def _longest_gap(samples: Sequence[Sample]) -> Second | None:
    """Longest time without a sample, in which events may have been missed."""
    times = [sample["at"] or 0.0 for sample in samples]
    return max((after - before for before, after in pairwise(times)), default=None)


def _windows(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    """Split samples into successive windows of half a second, long enough for the system's clock ticks of 0.01 s."""
    found, start = [], 0
    for end in range(1, len(samples)):
        if _time_at(samples, end) - _time_at(samples, start) >= PEAK_WINDOW_S:
            found.append(samples[start : end + 1])
            start = end
    return found
