"""Sentences above and below the table of ``convbench throughput``."""

import math
from collections.abc import Iterator, Sequence

from ..schema import CaseRow, Measurement, Second

LONGEST_CAP_S = 600.0
"""No longer cap is recommended: over such times other work comes and goes, and an interval stops narrowing."""


def above(rows: Sequence[CaseRow], took_s: Second) -> Iterator[str]:
    """The noise of the machine, and how to repeat a run of ``took_s`` so that its NOISY rows become VALID."""
    least = [row.smallest_difference for row in rows if row.smallest_difference]
    if least:
        noise = f"differences below {max(least):.1%} cannot be detected"
        yield f"Noise of this machine: {noise} (A/A comparison of this run)."
    noisy = [row for row in rows if row.verdict == "NOISY" and isinstance(row, Measurement) and row.block_s]
    if noisy:
        yield _advice(noisy, took_s)


def below(rows: Sequence[CaseRow]) -> Iterator[str]:
    """Each ratio in a sentence, then what the verdicts rest on."""
    from ..reports.labels import case_parts, counterpart_words, short_labels

    labels = short_labels([row.to_json() for row in rows]).each
    for label, row in zip(labels, rows, strict=True):
        if row.ratio is not None and row.compared_with:
            other = counterpart_words(row.to_json(), case_parts(row.compared_with))
            yield f"{label}: {row.ratio:.3g}x {other} [{row.ratio_low:.3g}, {row.ratio_high:.3g}], {row.difference}"
    if any(row.verdict == "NOISY" for row in rows):
        yield "NOISY: the interval is wider than requested; the number is usable within it."
    for label, row in zip(labels, rows, strict=True):
        reason = row.reason
        if row.verdict == "NOISY":  # said once, for all of them
            reason = "; ".join(part for part in reason.split("; ") if not part.startswith("WIDE: "))
        if reason:
            yield f"{label}: {row.verdict or row.status}, {reason}"


def _advice(noisy: Sequence[Measurement], took_s: Second) -> str:
    """Suggest a value of --cap. An interval narrows with the square root of the time."""
    from ..timing.clock import RULES

    asked = RULES[noisy[0].device].half_width
    widths = [_half_width(row) for row in noisy]
    timed = [sum(row.block_s) * (row.steps_per_block or 1) / row.processes for row in noisy]
    needed = [seconds * max(1.0, half / asked) ** 2 for seconds, half in zip(timed, widths, strict=True)]
    cap_s = min(LONGEST_CAP_S, 10.0 * math.ceil(round(max(needed) / 10, 6)))
    more_s = sum(
        row.processes * (min(cap_s, need) - seconds) for row, need, seconds in zip(noisy, needed, timed, strict=True)
    )
    minutes = math.ceil(round((took_s + max(0.0, more_s)) / 60, 6))
    reached = max(half * math.sqrt(min(1.0, seconds / cap_s)) for seconds, half in zip(timed, widths, strict=True))
    text = f"--cap {cap_s:.0f}s, about {minutes} min on this machine"
    if max(needed) <= LONGEST_CAP_S:
        return f"For intervals of ±{asked:.1%}: {text}."
    return f"Intervals of ±{asked:.1%} are out of reach here; for about ±{reached:.1%}: {text}."


def _half_width(row: Measurement) -> float:
    low, high, speed = row.images_per_s_low or 0.0, row.images_per_s_high or 0.0, row.images_per_s or math.inf
    return (high - low) / 2 / speed
