"""Checks of a finished timing. The checks of the output are in output.py.

Codes: CLK two clocks agree, and with that of another process; LIN twice the steps take twice the time; FLOOR not faster
than the measured rates of the machine allow; COMP no device memory was allocated during timing (measure/ adds: nothing
was compiled again); MONO a larger batch does not take less time; ZERO zeros are not faster; FRESH unseen inputs
are not slower; AA a case timed twice is not told apart; STDY no drift during timing; WIDE the interval is as narrow as
requested.

Noise makes a number NOISY, never SUSPECT: LIN, MONO and STDY count only beyond the noise of the run, which is what its
A/A comparison could not exclude.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from ..schema import Measurement, Second
from ..timing import trend
from ..timing.clock import Block, Clock, Lane, Rules
from ..timing.compare import Comparison
from ..timing.intervals import ratio_interval
from .output import Finding

CLOCKS_AGREE = 0.02
LINEAR = {"cpu": 0.05, "cuda": 0.02}  # of a block's time that does not grow with its steps
LINEAR_PAIRS, CONFIRMING_PAIRS = 3, 9
DRIFT = 1.5  # of the half-width that is asked
TREND_CHANCE = 0.2  # the size of a drift keeps false alarms rare; this leaves out what the run's own noise explains
MONOTONE = 0.02
OUTSIDE_AGREES, OUTSIDE_S = 0.1, 0.2  # share of the timed part, for what is done between blocks; and a fixed part
ZEROS = 0.25  # that zeros may be faster: on a GPU below its power limit they are up to 15 %
FRESH = 0.1  # that unseen inputs may be slower
FRESH_STEPS = 8  # in a block, each with inputs of its own
FRESH_PAIRS, FRESH_CONFIRMING = 3, 9
FLOOR_SLACK = 0.98  # the rates are measured, too, and have an error


def check_clocks(blocks: Sequence[Block]) -> Finding | None:
    """Check CLK: both clocks agree on the total time."""
    if any(block.total_s <= 0 for block in blocks):
        return Finding("CLK", "the clock did not advance during a block")
    total, wall = sum(block.total_s for block in blocks), sum(block.wall_s for block in blocks)
    if abs(wall - total) <= CLOCKS_AGREE * total:
        return None
    return Finding("CLK", f"two clocks disagree: {total:.3f} s and {wall:.3f} s", severity="SUSPECT")


def check_outside(blocks_s: Second, outside_s: Second, gap_s: Second) -> Finding | None:
    """Check CLK: the blocks of all lanes take the time that passes in another process between the first and the last.

    Finds a clock of this process that was tampered with, and work that is done between blocks.

    Args:
        gap_s: the longest that the other process was silent; each of its two marks may be so late.
    """
    if abs(outside_s - blocks_s) <= OUTSIDE_AGREES * outside_s + OUTSIDE_S + 2 * gap_s:
        return None
    text = f"the timed blocks add up to {blocks_s:.3g} s, while {outside_s:.3g} s passed in another process"
    return Finding("CLK", text)


def check_linearity(
    lane: Lane, clock: Clock, device: str, noise: float = 0.0, longest_s: Second = 5.0
) -> Finding | None:
    """Check LIN: twice the steps take twice the time. Skipped where steps are so slow that no constant part matters.

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
    """Measure ZERO: the speed on zeros over that on the case's inputs; None for slow steps."""
    steps = lane.steps_per_block
    if 6 * steps * median(lane.block_s) > longest_s:
        return None
    pairs = [(clock.block(lane.run, steps), clock.block(zeros, steps)) for _ in range(3)]
    return median(given.step_s / zero.step_s for given, zero in pairs)


def check_zeros(
    ratio: float | None, lane: Lane, zeros: Callable[[], object], clock: Clock, noise: float
) -> Finding | None:
    """Check ZERO: a step does not skip work where its inputs are zeros.

    Measured again before it counts: the whole 95 % interval must lie beyond ZEROS and ``noise``.

    Args:
        ratio: from ``zeros_ratio``.
    """
    limit, steps = 1 + max(ZEROS, noise), lane.steps_per_block
    if ratio is None or ratio <= limit:
        return None
    pairs = [(clock.block(lane.run, steps).total_s, clock.block(zeros, steps).total_s) for _ in range(CONFIRMING_PAIRS)]
    ratio, low, _ = ratio_interval(pairs)
    if low <= limit:
        return None
    return Finding("ZERO", f"on zeros it is {ratio:.2f} times as fast: a short cut that inputs decide", "SUSPECT")


def check_fresh(
    lane: Lane, fresh: Callable[[], Callable[[], object]], clock: Clock, noise: float = 0.0, longest_s: Second = 5.0
) -> Finding | None:
    """Check FRESH: inputs that were never seen take no longer than those that the lane repeats.

    Measured again before it counts: the whole 95 % interval must lie beyond FRESH and ``noise``. Slow steps have
    fewer pairs.

    Args:
        fresh: draws new inputs, and returns a callable that runs one step on them.
    """
    steps = min(lane.steps_per_block, FRESH_STEPS)
    limit = 1 + max(FRESH, noise)
    is_slow = 2 * FRESH_PAIRS * steps * median(lane.block_s) > longest_s
    few, more = (1, FRESH_PAIRS) if is_slow else (FRESH_PAIRS, FRESH_CONFIRMING)

    def pair() -> tuple[Second, Second]:
        drawn = [fresh() for _ in range(steps)]

        def run() -> None:
            drawn.pop()()

        return clock.block(run, steps).total_s, clock.block(lane.run, steps).total_s

    first = [pair() for _ in range(few)]
    if ratio_interval(first)[0] <= limit:
        return None
    ratio, low, _ = ratio_interval(first + [pair() for _ in range(more)])
    if low <= limit:
        return None
    return Finding("FRESH", f"inputs not seen before took {ratio:.2f} times as long: it keeps results")


def check_repeat(found: Comparison) -> Finding | None:
    """Check AA: a case that was timed twice in a run, interleaved, is as fast the second time."""
    if found.difference not in ("faster", "slower"):
        return None
    text = f"timed twice at once, the second was {found.ratio:.2f} times as fast: the order decides"
    return Finding("AA", text, severity="SUSPECT")


def check_monotonicity(rows: Iterable[Measurement], row: Measurement) -> Finding | None:
    """Check MONO: a batch does not take less time than a smaller one of the same run, beyond the run's noise."""
    same = ("model", "res", "backend", "precision", "device", "threads", "weights", "mode")
    for other in rows:
        smaller = other.status == "ok" and other.batch < row.batch
        if not smaller or any(getattr(other, key) != getattr(row, key) for key in same):
            continue
        seconds, less = (each.batch / (each.images_per_s or 0.0) for each in (row, other))
        if seconds < (1 - max(MONOTONE, row.smallest_difference or MONOTONE)) * less:
            text = f"took less time than the smaller batch {other.batch}: {seconds:.3g} s against {less:.3g} s"
            return Finding("MONO", text, severity="SUSPECT")
    return None


def check_floor(step_s: Second, least_s: Second) -> Finding | None:
    """Check FLOOR: a step takes at least the seconds that the measured rates allow."""
    if step_s >= FLOOR_SLACK * least_s:
        return None
    return Finding("FLOOR", f"{step_s:.3g} s per step is less than the {least_s:.3g} s that the measured rates allow")


def check_allocations(count: int) -> Finding | None:
    """Check COMP on a GPU: allocating device memory stops the device and must happen during warm-up."""
    if count == 0:
        return None
    return Finding("COMP", f"device memory was allocated {count} times during timing", severity="SUSPECT")


def check_drift(samples: Sequence[Second], rules: Rules) -> Finding | None:
    """Check STDY: no change beyond the requested width and the noise of the run, unless chance makes such a trend."""
    change = trend.total_change(samples)
    if abs(change) <= max(DRIFT * rules.half_width, rules.noise) or trend.chance(samples) > TREND_CHANCE:
        return None
    return Finding(
        "STDY", f"steps became {abs(change):.1%} {'slower' if change > 0 else 'faster'} during timing", "SUSPECT"
    )


def check_interval(lane: Lane, rules: Rules) -> Finding | None:
    """Check WIDE: the interval is as narrow as requested."""
    half = lane.half_width()
    if half <= rules.half_width:
        return None
    return Finding("WIDE", f"interval of ±{half:.1%} exceeds the requested ±{rules.half_width:.1%}", severity="NOISY")
