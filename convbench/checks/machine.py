"""What the telemetry of the timed part says about a number. Checks of the form of ``checks.py``; none invalidates.

Codes: THRT the clocks were not held down and did not move; EXCL nothing else used the GPU; CC Confidential Computing
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
WAITED_SHARE = 0.1  # of the time the process wanted a core: as if the wall clock were 1.1 times the processor's


def findings(summary: Summary, facts: Mapping[str, Any]) -> list[Finding]:
    """All checks of one stretch; what could not be measured gives no finding."""
    found = [throttling(summary), exclusive(summary), confidential(facts)]
    if "sm_clock_hz" not in summary:  # on a GPU the processor only launches, and what that costs is timed
        found.append(contention(summary))
    return [each for each in found if each]


def throttling(summary: Summary) -> Finding | None:
    """THRT."""
    bits = int(summary.get("throttle_bits") or 0) & ~HARMLESS
    low, high = summary.get("sm_clock_hz_min"), summary.get("sm_clock_hz_max")
    seen = []
    if bits:
        seen.append(f"{', '.join(reasons_in_words(bits))} in {summary.get('throttled_share') or 0:.0%} of the samples")
    if low is not None and high and high - low > CLOCK_RANGE * high:
        seen.append(f"the SM clock ran from {low / 1e6:.0f} to {high / 1e6:.0f} MHz")
    return Finding("THRT", "; ".join(seen), severity="SUSPECT") if seen else None


def exclusive(summary: Summary) -> Finding | None:
    """EXCL."""
    processes = int(summary.get("other_processes") or 0)
    if not processes:
        return None
    return Finding("EXCL", f"{_plural(processes, 'other process', 'es')} had work on the GPU", severity="SUSPECT")


def confidential(facts: Mapping[str, Any]) -> Finding | None:
    """CC."""
    if not facts.get("confidential_computing"):
        return None
    return Finding("CC", "Confidential Computing is on: trust the wall clock, not device events", severity="SUSPECT")


def contention(summary: Summary) -> Finding | None:
    """CONT."""
    others, stolen, waited = (summary.get(f"cores_{what}") for what in ("of_others", "stolen", "waited"))
    own, peak = summary.get("cores_of_this"), summary.get("cores_of_others_peak")
    seen = []
    if others is not None and others > CORES_OF_OTHERS:
        most = f", {peak:.2f} at most" if peak is not None and peak > others else ""
        seen.append(f"other processes used {others:.2f} cores{most}")
    if stolen is not None and stolen > CORES_STOLEN:
        seen.append(f"the hypervisor took {stolen:.2f} cores")
    if waited and own is not None and waited > WAITED_SHARE * (own + waited):
        seen.append(f"this process waited for a core {waited / (own + waited):.0%} of the time it wanted one")
    return Finding("CONT", "; ".join(seen), severity="SUSPECT") if seen else None


def _plural(number: int, word: str, ending: str) -> str:
    return f"{number} {word}{ending if number > 1 else ''}"
