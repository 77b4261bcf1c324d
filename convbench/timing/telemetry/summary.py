"""From samples to numbers: what each key of a telemetry summary means, and what is left out for want of time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from ...schema import Second
from .cpu import Sample
from .gpu import APPLICATIONS_CLOCKS, IDLE

LEAST_ENERGY_S = 10.0
"""Energy counters move in steps of about 0.1 s, so that a shorter stretch would be off by more than 1 %."""
PEAK_WINDOW_S = 0.5

HARMLESS = IDLE | APPLICATIONS_CLOCKS
"""Reasons for a lower clock that are no throttling: nothing to do, or set so on purpose."""

Reduce = Callable[[Sequence[float]], float]


def _any_bit(values: Sequence[float]) -> float:
    bits = 0
    for value in values:
        bits |= int(value)
    return bits


def _throttled_share(values: Sequence[float]) -> float:
    return fmean(bool(int(value) & ~HARMLESS) for value in values)


@dataclass(frozen=True)
class Reading:
    """One key: which values of a sample it is made of, and how."""

    key: str
    of: str
    reduce: Reduce


READINGS = {
    "cpu": (
        Reading("load_average", "load_average", fmean),  # processes that want to run, over a minute
        Reading("frequency_hz", "frequency_hz", median),
        Reading("frequency_hz_min", "frequency_hz", min),
    ),
    "cuda": (
        Reading("sm_clock_hz", "sm_clock_hz", median),
        Reading("sm_clock_hz_min", "sm_clock_hz", min),
        Reading("sm_clock_hz_max", "sm_clock_hz", max),
        Reading("memory_clock_hz", "memory_clock_hz", median),
        Reading("power_w", "power_w", fmean),  # the driver's own average, of up to a second
        Reading("power_w_max", "power_w", max),
        Reading("temperature_c", "temperature_c", max),
        Reading("gpu_utilisation", "gpu_utilisation", fmean),  # share of time with any kernel running
        Reading("throttle_bits", "throttle_bits", _any_bit),  # every reason that was seen
        Reading("throttled_share", "throttle_bits", _throttled_share),
        Reading("other_processes", "other_processes", max),
        Reading("used_bytes", "used_bytes", max),  # of the device, by all processes
    ),
}
GROWN = {  # counters: key -> those added, those taken away; divided by the time
    "cores_of_others": (("machine_s",), ("own_s", "sampler_s")),
    "cores_of_this": (("own_s",), ()),
    "cores_of_sampler": (("sampler_s",), ()),
    "cores_stolen": (("stolen_s",), ()),  # by the hypervisor
    "cores_waited": (("waited_s",), ()),  # threads of the process that were ready and had no core
}
ENERGY = {"cpu": ("cpu_energy_j",), "cuda": ("gpu_energy_j", "cpu_energy_j")}


def summarise(samples: Sequence[Sample], device: str, began: float, ended: float) -> dict[str, float | None]:
    """All keys of the device, over the samples between two times; None where a value is missing throughout."""
    inside = [sample for sample in samples if sample["at"] is not None and began <= sample["at"] <= ended]
    span = _grown(inside, "at") or 0.0
    stretch = min(ended, _at(samples, -1)) - max(began, _at(samples, 0)) if samples else 0.0
    kinds = ("cpu", "cuda") if device == "cuda" else ("cpu",)

    summary: dict[str, float | None] = {"samples": len(inside), "sampled_s": span, "longest_gap_s": _longest(inside)}
    for kind in kinds:
        for reading in READINGS[kind]:
            values = [value for sample in inside if (value := sample.get(reading.of)) is not None]
            summary[reading.key] = reading.reduce(values) if values else None
    for key, (added, taken) in GROWN.items():
        summary[key] = _rate(inside, added, taken)
    windows = _windows(inside)
    summary["cores_of_others_peak"] = max(
        (rate for window in windows if (rate := _rate(window, *GROWN["cores_of_others"])) is not None), default=None
    )
    summary["involuntary_switches"] = _grown(inside, "involuntary_switches")
    enough = stretch >= LEAST_ENERGY_S and span >= 0.9 * stretch
    for key in ENERGY[device]:
        summary[key] = _grown(inside, key) if enough else None
    return summary


def joules_per_image(summary: dict[str, float | None], images_per_s: float, device: str) -> float | None:
    """Energy of the device for one image, everything it draws included: idle power is not taken off."""
    energy, seconds = summary.get(ENERGY[device][0]), summary.get("sampled_s")
    return energy / seconds / images_per_s if energy and seconds else None


def _at(samples: Sequence[Sample], index: int) -> float:
    return samples[index]["at"] or 0.0


def _grown(samples: Sequence[Sample], name: str) -> float | None:
    """By how much a counter grew; None where it is unknown at either end, or was reset."""
    if len(samples) < 2:
        return None
    first, last = samples[0].get(name), samples[-1].get(name)
    return last - first if first is not None and last is not None and last >= first else None


def _rate(samples: Sequence[Sample], added: Sequence[str], taken: Sequence[str]) -> float | None:
    seconds = _grown(samples, "at")
    grown = [_grown(samples, name) for name in (*added, *taken)]
    if not seconds or None in grown:
        return None
    known = [value for value in grown if value is not None]
    return max(0.0, sum(known[: len(added)]) - sum(known[len(added) :])) / seconds


def _longest(samples: Sequence[Sample]) -> Second | None:
    """The longest time without a sample: what may have been missed."""
    times = [sample["at"] or 0.0 for sample in samples]
    return max((after - before for before, after in pairwise(times)), default=None)


def _windows(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    """Successive stretches of half a second, long enough for the system's clock ticks of 0.01 s."""
    found, start = [], 0
    for end in range(1, len(samples)):
        if _at(samples, end) - _at(samples, start) >= PEAK_WINDOW_S:
            found.append(samples[start : end + 1])
            start = end
    return found
