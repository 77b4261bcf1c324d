"""Checks of the telemetry of the timed part; none of them invalidates a number.

Codes: THRT the clocks were not throttled and did not move; EXCL nothing else used the GPU; CC Confidential Computing
is off; CONT nothing else used the processor.
"""

from collections.abc import Mapping
from typing import Any

from ..timing.telemetry.gpu import reasons_in_words
from ..timing.telemetry.summary import HARMLESS
from .output import Finding

Summary = Mapping[str, float | None]

CLOCK_RANGE = 0.03
CORES_OF_OTHERS = 0.15
CORES_STOLEN = 0.05
WAITED_SHARE = 0.1  # of the time in which the process was running or ready to run


def check_machine(summary: Summary, facts: Mapping[str, Any]) -> list[Finding]:
    """Run all checks of one timed part; values that could not be measured give no finding."""
    found = [check_throttling(summary), check_exclusive(summary), check_confidential_computing(facts)]
    if "sm_clock_hz" not in summary:  # on a GPU the processor only launches, and the cost of that is timed
        found.append(check_contention(summary))
    return [each for each in found if each]


def check_throttling(summary: Summary) -> Finding | None:
    """Check THRT: the clocks were not throttled and did not move."""
    bits = int(summary.get("throttle_bits") or 0) & ~HARMLESS
    low, high = summary.get("sm_clock_hz_min"), summary.get("sm_clock_hz_max")
    seen = []
    if bits:
        seen.append(f"{', '.join(reasons_in_words(bits))} in {summary.get('throttled_share') or 0:.0%} of the samples")
    if low is not None and high and high - low > CLOCK_RANGE * high:
        seen.append(f"the SM clock varied from {low / 1e6:.0f} to {high / 1e6:.0f} MHz")
    return Finding("THRT", "; ".join(seen), severity="SUSPECT") if seen else None


def check_exclusive(summary: Summary) -> Finding | None:
    """Check EXCL: no other process used the GPU."""
    processes = int(summary.get("other_processes") or 0)
    if not processes:
        return None
    return Finding("EXCL", f"{_plural(processes, 'other process', 'es')} used the GPU", severity="SUSPECT")


def check_confidential_computing(facts: Mapping[str, Any]) -> Finding | None:
    """Check CC: Confidential Computing is off."""
    if not facts.get("confidential_computing"):
        return None
    return Finding("CC", "Confidential Computing is on: trust the wall clock, not device events", severity="SUSPECT")


def check_contention(summary: Summary) -> Finding | None:
    """Check CONT: no other process used the processor."""
    others, stolen, waited = (summary.get(f"cores_{what}") for what in ("of_others", "stolen", "waited"))
    own, peak = summary.get("cores_of_this"), summary.get("cores_of_others_peak")
    seen = []
    if others is not None and others > CORES_OF_OTHERS:
        most = f", {peak:.2f} at the peak" if peak is not None and peak > others else ""
        seen.append(f"other processes used {others:.2f} cores{most}")
    if stolen is not None and stolen > CORES_STOLEN:
        seen.append(f"the hypervisor took {stolen:.2f} cores")
    if waited and own is not None and waited > WAITED_SHARE * (own + waited):
        seen.append(f"this process waited for a core during {waited / (own + waited):.0%} of its runnable time")
    return Finding("CONT", "; ".join(seen), severity="SUSPECT") if seen else None


def _plural(number: int, word: str, ending: str) -> str:
    return f"{number} {word}{ending if number > 1 else ''}"
