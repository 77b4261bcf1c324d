"""What is checked of a timing once it is done. The checks of the output are in proof.py.

Codes: CLK two clocks agree; LIN twice the steps take twice the time; FLOOR no faster than the measured rates of the
machine allow; COMP no device memory was allocated meanwhile (measure.py adds: nothing was compiled again); MONO a
larger batch takes no less time; ZERO what zeros would have given; STDY no drift over the timed part; WIDE the
interval is as narrow as asked.

Noise makes a number NOISY, never SUSPECT: LIN, MONO and STDY count only beyond the noise of the run, which is what its
A/A comparison could not exclude.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from ..schema import Measurement, Second
from ..timing import trend
from ..timing.clock import Block, Clock, Lane, Rules
from ..timing.intervals import ratio_interval
from .output import Finding

CLOCKS_AGREE = 0.02
LINEAR = {"cpu": 0.05, "cuda": 0.02}  # of a block's time that does not grow with its steps
LINEAR_PAIRS, CONFIRMING_PAIRS = 3, 9
DRIFT = 1.5  # of the half-width that is asked
TREND_CHANCE = 0.2  # the size of a drift keeps false alarms rare; this leaves out what the run's own noise explains
MONOTONE = 0.02
FLOOR_SLACK = 0.98  # rates are measured too, and not without error


def clocks(blocks: Sequence[Block]) -> Finding | None:
    """CLK."""
    if any(block.total_s <= 0 for block in blocks):
        return Finding("CLK", "a block took no time at all")
    total, wall = sum(block.total_s for block in blocks), sum(block.wall_s for block in blocks)
    if abs(wall - total) <= CLOCKS_AGREE * total:
        return None
    return Finding("CLK", f"two clocks disagree: {total:.3f} s and {wall:.3f} s", severity="SUSPECT")


def linearity(lane: Lane, clock: Clock, device: str, noise: float = 0.0, longest_s: Second = 5.0) -> Finding | None:
    """LIN. Left out where a step is so slow that no constant part of it could matter.

    Measured again before it counts: the ratio must lie beyond LINEAR and ``noise`` in a few pairs and in all, and the
    95 % interval of all must exclude 2.
    """
    steps = lane.steps_per_block
    if 3 * LINEAR_PAIRS * steps * median(lane.block_s) > longest_s:
        return None
    limit = max(LINEAR[device], noise)

    def pair() -> tuple[Second, Second]:
        once = clock.block(lane.run, steps).total_s
        return clock.block(lane.run, 2 * steps).total_s, once

    pairs = [pair() for _ in range(LINEAR_PAIRS)]
    twice, once = (median(each) for each in zip(*pairs, strict=True))
    if abs(twice / once - 2) <= limit:
        return None
    ratio, low, high = ratio_interval(pairs + [pair() for _ in range(CONFIRMING_PAIRS)])
    if abs(ratio - 2) <= limit or low <= 2 <= high:
        return None
    return Finding("LIN", f"twice the steps took {ratio:.2f} times the time", severity="SUSPECT")


def zeros_ratio(lane: Lane, zeros: Callable[[], object], clock: Clock, longest_s: Second = 5.0) -> float | None:
    """ZERO: speed on zeros over speed on the case's inputs. A note, not a finding; None where a step is slow."""
    steps = lane.steps_per_block
    if 6 * steps * median(lane.block_s) > longest_s:
        return None
    pairs = [(clock.block(lane.run, steps), clock.block(zeros, steps)) for _ in range(3)]
    return median(given.step_s / zero.step_s for given, zero in pairs)


def monotony(rows: Iterable[Measurement], row: Measurement) -> Finding | None:
    """MONO: a batch does not take less time than a smaller one of the same run, beyond the noise of that run."""
    same = ("model", "res", "backend", "precision", "device", "threads", "weights", "mode")
    for other in rows:
        smaller = other.status == "ok" and other.batch < row.batch
        if not smaller or any(getattr(other, key) != getattr(row, key) for key in same):
            continue
        seconds, less = (each.batch / (each.images_per_s or 0.0) for each in (row, other))
        if seconds < (1 - max(MONOTONE, row.smallest_difference or 0.0)) * less:
            text = f"faster in total than batch {other.batch}: {seconds:.3g} s, {less:.3g} s"
            return Finding("MONO", text, severity="SUSPECT")
    return None


def floor(step_s: Second, least_s: Second) -> Finding | None:
    """FLOOR."""
    if step_s >= FLOOR_SLACK * least_s:
        return None
    return Finding("FLOOR", f"{step_s:.3g} s a step, but the measured rates allow no less than {least_s:.3g} s")


def allocations(count: int) -> Finding | None:
    """COMP, for a GPU: asking its driver for memory stops the device, and belongs into the warm-up."""
    if count == 0:
        return None
    return Finding("COMP", f"device memory was allocated {count} times inside the timed part", severity="SUSPECT")


def drift(samples: Sequence[Second], rules: Rules) -> Finding | None:
    """STDY: a change beyond what is asked and beyond the noise of the run, with a trend that chance seldom makes."""
    change = trend.total_change(samples)
    if abs(change) <= max(DRIFT * rules.half_width, rules.noise) or trend.chance(samples) > TREND_CHANCE:
        return None
    return Finding(
        "STDY", f"steps became {abs(change):.1%} {'slower' if change > 0 else 'faster'} meanwhile", "SUSPECT"
    )


def width(lane: Lane, rules: Rules) -> Finding | None:
    """WIDE."""
    half = lane.half_width()
    if half <= rules.half_width:
        return None
    return Finding("WIDE", f"interval ±{half:.1%}, where ±{rules.half_width:.1%} is asked", severity="NOISY")
