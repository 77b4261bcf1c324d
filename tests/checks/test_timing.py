"""Each check of a timing by itself: what it lets pass and what it finds, with made-up times."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from simulated import QUICK, Simulated

from convbench.checks import machine, timing
from convbench.checks.output import Finding, verdict_of
from convbench.schema import Measurement
from convbench.timing import trend
from convbench.timing.clock import Block, Lane


def block(total_s: float, wall_s: float | None = None) -> Block:
    return Block(total_s, total_s if wall_s is None else wall_s, total_s, [total_s])


def lane(samples: Sequence[float] = (0.01,) * 12, steps: int = 1) -> Lane:
    return Lane(lambda: None, blocks=[block(each) for each in samples], steps_per_block=steps)


def test_two_clocks_may_differ_by_two_percent() -> None:
    assert timing.check_clocks([block(1.0, 1.015), block(1.0, 1.02)]) is None
    assert timing.check_clocks([block(1.0, 1.03), block(1.0, 1.03)]) == Finding(
        "CLK", "two clocks disagree: 2.000 s and 2.060 s", severity="SUSPECT"
    )
    assert timing.check_clocks([block(1.0, 0.97)]) == Finding(
        "CLK", "two clocks disagree: 1.000 s and 0.970 s", severity="SUSPECT"
    )


@pytest.mark.parametrize("total_s", [0.0, -0.5])
def test_a_block_takes_time(total_s: float) -> None:
    assert timing.check_clocks([block(1.0), block(total_s)]) == Finding(
        "CLK", "the clock did not advance during a block"
    )


@pytest.mark.parametrize(
    ("name", "takes", "ratio"),
    [
        ("in proportion", lambda first, steps, lane: 0.01 * steps, None),
        ("a tenth of a step is constant", lambda first, steps, lane: 0.01 * steps + 0.001, None),  # 1.98 with 4 steps
        ("two steps are constant", lambda first, steps, lane: 0.01 * steps + 0.02, "1.67"),
        ("the square of the steps", lambda first, steps, lane: 0.01 * steps**2, "4.00"),
        ("nothing is ever waited for", lambda first, steps, lane: 0.01, "1.00"),
    ],
)
def test_twice_the_steps_take_twice_the_time(name: str, takes: Any, ratio: str | None) -> None:
    found = timing.check_linearity(lane(steps=4), Simulated(takes), "cpu")
    assert found == (ratio and Finding("LIN", f"twice the steps took {ratio} times the time", severity="SUSPECT"))


def test_linearity_is_judged_harder_on_a_gpu() -> None:
    def takes(first: int, steps: int, lane: int) -> float:
        return 0.01 * steps + 0.002  # 1.95 with 4 steps

    assert timing.check_linearity(lane(steps=4), Simulated(takes), "cpu") is None
    assert timing.check_linearity(lane(steps=4), Simulated(takes), "cuda") == Finding(
        "LIN", "twice the steps took 1.95 times the time", severity="SUSPECT"
    )


def test_one_stall_does_not_spoil_linearity() -> None:
    """Three pairs, and the median of each side."""
    assert (
        timing.check_linearity(lane(), Simulated(lambda first, steps, lane: 0.01 * steps + (first == 4)), "cpu") is None
    )


def test_linearity_of_slow_steps_is_not_measured() -> None:
    clock = Simulated(lambda first, steps, lane: 1.0)
    assert timing.check_linearity(lane([1.0] * 6), clock, "cpu") is None
    assert clock.steps == 0


def test_speed_on_zeros_is_noted() -> None:
    clock = Simulated(lambda first, steps, lane: (0.010, 0.008)[lane] * steps)
    assert timing.zeros_ratio(lane(), lambda: None, clock) == pytest.approx(1.25)
    assert clock.order == [0, 1] * 3
    assert timing.zeros_ratio(lane([1.0] * 6), lambda: None, clock) is None


def row(batch: int, seconds: float, **other: Any) -> Measurement:
    same = {"model": "dico_s", "res": 64, "backend": "eager", "precision": "fp32", "device": "cpu", "threads": 1}
    values = {**same, "status": "ok", "batch": batch, "images_per_s": batch / seconds} | other
    return Measurement(case=f"b{batch}", **values)


def test_a_larger_batch_takes_no_less_time() -> None:
    smaller = row(2, 1.0)
    assert timing.check_monotonicity([smaller], row(4, 1.5)) is None
    assert timing.check_monotonicity([smaller], row(4, 0.985)) is None  # within 2 %
    assert timing.check_monotonicity([smaller], row(4, 0.9)) == Finding(
        "MONO", "took less time than the smaller batch 2: 0.9 s against 1 s", severity="SUSPECT"
    )
    assert timing.check_monotonicity([smaller], row(1, 0.9)) is None  # a smaller one may
    assert timing.check_monotonicity([row(2, 4.0)], row(4, 3.0)) is not None
    assert timing.check_monotonicity([row(2, 0.2)], row(4, 0.21)) is None


@pytest.mark.parametrize(
    "other",
    [
        *({"model": "fcdm_s"}, {"res": 128}, {"backend": "compile"}, {"precision": "bf16"}, {"threads": 2}),
        *({"device": "cuda"}, {"weights": "a.pt"}, {"status": "failed"}),
    ],
)
def test_only_rows_that_differ_in_batch_alone_are_compared(other: dict[str, Any]) -> None:
    assert timing.check_monotonicity([row(2, 1.0, **other)], row(4, 0.1)) is None


def test_nothing_is_faster_than_the_floor() -> None:
    assert timing.check_floor(1.0, 1.0) is None
    assert timing.check_floor(0.985, 1.0) is None
    assert timing.check_floor(0.5, 1.0) == Finding(
        "FLOOR", "0.5 s per step is less than the 1 s that the measured rates allow", severity="INVALID"
    )


def test_steps_must_not_become_slower_or_faster_meanwhile() -> None:
    """The median of the last third against that of the first, twice the half-width that was asked: 4 %."""
    assert timing.check_drift([1.0] * 4 + [1.5] * 4 + [1.03] * 4, QUICK) is None
    assert timing.check_drift([1.0] * 4 + [1.0] * 4 + [1.05] * 4, QUICK) == Finding(
        "STDY", "steps became 5.0% slower during timing", severity="SUSPECT"
    )
    assert timing.check_drift([1.0] * 4 + [1.0] * 4 + [0.9] * 4, QUICK) == Finding(
        "STDY", "steps became 10.0% faster during timing", severity="SUSPECT"
    )
    assert timing.check_drift([1.0, 2.0, 3.0, 4.0, 5.0], QUICK) is None  # too few to tell


@pytest.mark.parametrize(
    ("noise", "words"), [(0.0, "steps became 6.0% slower during timing"), (0.055, "6.0%"), (0.065, None)]
)
def test_a_steady_drift_counts_beyond_the_noise_of_the_run(noise: float, words: str | None) -> None:
    """Eleven steps of 0.5 % and a twelfth that the slope adds: exp(12 ln(1.06) / 12)."""
    samples = [1.06 ** (i / 12) for i in range(12)]
    found = timing.check_drift(samples, replace(QUICK, noise=noise))
    assert (found.severity, words in found.text) == ("SUSPECT", True) if found and words else found is words


@pytest.mark.parametrize(("drift", "found"), [(0.029, False), (0.031, True), (-0.029, False), (-0.031, True)])
def test_the_least_drift_that_counts_is_one_and_a_half_half_widths(drift: float, found: bool) -> None:
    samples = [(1 + drift) ** (i / 12) for i in range(12)]
    assert (timing.check_drift(samples, QUICK) is not None) == found


def test_a_change_without_a_trend_is_noise() -> None:
    """Of 15 pairs, 8 rise and 7 fall: p is 1, though the last third is 10 % slower than the first."""
    assert timing.check_drift([1.0, 1.2, 0.9, 1.3, 1.1, 1.0], QUICK) is None


@pytest.mark.parametrize(("constant", "noise", "found"), [(0.050, 0, False), (0.056, 0, True), (0.056, 0.06, False)])
def test_a_constant_part_counts_beyond_five_percent_and_the_noise(constant: float, noise: float, found: bool) -> None:
    """A constant part of c blocks makes twice the steps take 2 - c / (1 + c) times the time."""
    clock = Simulated(lambda first, steps, lane: 0.01 * (steps + constant))
    assert (timing.check_linearity(lane(), clock, "cpu", noise) is not None) == found


@pytest.mark.parametrize("step_s", [0.01, 0.5, 1.0, 3.0])
def test_steps_in_proportion_are_measured_three_times_only(step_s: float) -> None:
    clock = Simulated(lambda first, steps, lane: step_s * steps)
    assert timing.check_linearity(lane(), clock, "cpu") is None
    assert len(clock.order) == 2 * 3


def test_linearity_is_measured_again_before_it_counts() -> None:
    """Stalls in two of the first three pairs, then none: 3 pairs, 9 more, nothing found."""
    clock = Simulated(lambda first, steps, lane: 0.01 * steps + (0.01 if first in (0, 3) else 0.0))
    assert timing.check_linearity(lane(), clock, "cpu") is None
    assert len(clock.order) == 2 * (3 + 9)


def test_a_larger_batch_may_be_faster_within_the_noise_of_the_run() -> None:
    smaller = row(2, 1.0)
    assert timing.check_monotonicity([smaller], row(4, 0.95, smallest_difference=0.06)) is None
    assert timing.check_monotonicity([smaller], row(4, 0.93, smallest_difference=0.06)) is not None


def test_the_interval_is_as_narrow_as_asked() -> None:
    """Of 12 samples, 2 may stand outside on each side: the interval is 0.99 … 1.01, or 0.95 … 1.05."""
    narrow = [1.0, 0.5, 1.0, 2.0, 0.99, 1.0, 1.01, 0.6, 1.0, 1.0, 1.7, 1.0]
    assert timing.check_interval(lane(narrow), QUICK) is None
    wide = [{0.99: 0.95, 1.01: 1.05}.get(each, each) for each in narrow]
    assert timing.check_interval(lane(wide), QUICK) == Finding(
        "WIDE", "interval of ±5.0% exceeds the requested ±2.0%", severity="NOISY"
    )


@pytest.mark.parametrize("cores", [0.0, 0.1, 0.15])
def test_a_little_work_of_others_passes(cores: float) -> None:
    assert machine.check_contention({"cores_of_others": cores}) is None


def test_contention_is_found() -> None:
    assert machine.check_contention({"cores_of_others": 0.73}) == Finding(
        "CONT", "other processes used 0.73 cores", severity="SUSPECT"
    )


def test_the_verdict_is_that_of_the_worst_finding() -> None:
    noisy, suspect = Finding("WIDE", "n", severity="NOISY"), Finding("LIN", "a", severity="SUSPECT")
    invalid = Finding("FLOOR", "b")
    assert verdict_of([]) == ("VALID", "")
    assert verdict_of([noisy]) == ("NOISY", "WIDE: n")
    assert verdict_of([suspect]) == ("SUSPECT", "LIN: a")
    assert verdict_of([suspect, noisy]) == ("SUSPECT", "LIN: a; WIDE: n")
    assert verdict_of([suspect, noisy, invalid]) == ("INVALID", "LIN: a; WIDE: n; FLOOR: b")


@pytest.mark.parametrize(
    ("said", "faster", "noise", "found"),
    [
        (timing.ZEROS + 0.02, timing.ZEROS + 0.02, 0.0, True),
        (timing.ZEROS - 0.02, timing.ZEROS + 0.02, 0.0, False),  # the first look found nothing
        (timing.ZEROS + 0.02, timing.ZEROS - 0.02, 0.0, False),  # the second one did not confirm it
        (timing.ZEROS + 0.02, timing.ZEROS + 0.02, timing.ZEROS + 0.04, False),
    ],
)
def test_a_short_cut_on_zeros_is_measured_again_before_it_counts(
    said: float, faster: float, noise: float, found: bool
) -> None:
    clock = Simulated(lambda first, steps, lane: (0.010, 0.010 / (1 + faster))[lane] * steps)
    assert (timing.check_zeros(1 + said, lane(), lambda: None, clock, noise) is not None) == found


def test_each_limit_is_inclusive() -> None:
    """What is exactly as far off as allowed passes, at the first look and at the second."""
    clock = Simulated(lambda first, steps, lane: {4: 1.0, 8: 2.5}[steps])
    assert timing.check_linearity(lane(steps=4), clock, "cpu", noise=0.5) is None
    assert len(clock.order) == 2 * timing.LINEAR_PAIRS

    clock = Simulated(lambda first, steps, lane: (1.25, 1.0)[lane])
    assert timing.check_zeros(1 + timing.ZEROS, lane(), lambda: None, clock, 0.0) is None
    assert clock.order == []
    assert timing.check_zeros(2.0, lane(), lambda: None, clock, 0.0) is None
    assert len(clock.order) == 2 * timing.CONFIRMING_PAIRS

    takes: Iterator[float] = itertools.cycle([1.5, 1.0])  # first on unseen inputs
    clock = Simulated(lambda first, steps, lane: next(takes))
    assert timing.check_fresh(lane(), lambda: lambda: None, clock, noise=0.5) is None
    assert len(clock.order) == 2 * timing.FRESH_PAIRS
    takes = itertools.chain([2.0, 1.0] * timing.FRESH_PAIRS, itertools.cycle([1.5, 1.0]))
    assert timing.check_fresh(lane(), lambda: lambda: None, clock, noise=0.5) is None
    assert len(clock.order) == 2 * (2 * timing.FRESH_PAIRS + timing.FRESH_CONFIRMING)


def test_the_other_limits_are_inclusive_as_well() -> None:
    assert timing.check_clocks([block(50.0, 51.0)]) is None
    assert timing.check_clocks([block(50.0, 51.01)]) is not None
    assert timing.check_outside(8.0, 10.0, 0.4) is None  # a tenth of 10, 0.2, and both marks late
    assert timing.check_outside(7.99, 10.0, 0.4) is not None
    assert timing.check_outside(12.0, 10.0, 0.4) is None
    assert timing.check_outside(12.01, 10.0, 0.4) is not None
    assert timing.check_floor(0.98, 1.0) is None
    assert timing.check_floor(0.979, 1.0) is not None
    assert timing.check_monotonicity([row(2, 1.0)], row(4, 0.5, smallest_difference=0.5)) is None
    assert timing.check_monotonicity([row(2, 1.0)], row(4, 0.49, smallest_difference=0.5)) is not None
    assert timing.check_allocations(0) is None
    assert timing.check_allocations(1) is not None
    clock = Simulated(lambda first, steps, lane: 1.0)
    assert timing.check_linearity(lane([0.5] * 6), clock, "cpu", longest_s=4.5) is not None
    assert timing.zeros_ratio(lane([0.5] * 6), lambda: None, clock, longest_s=3.0) is not None
    clock = Simulated()
    assert timing.check_fresh(lane([0.5] * 6), lambda: lambda: None, clock, longest_s=3.0) is None
    assert len(clock.order) == 2 * timing.FRESH_PAIRS
    spread = lane([1.0, 1.25] * 6)
    assert timing.check_interval(spread, replace(QUICK, half_width=spread.half_width())) is None
    samples = [1.0] * 6 + [1.25] * 6
    change = trend.total_change(samples)
    assert timing.check_drift(samples, replace(QUICK, noise=change)) is None
    assert timing.check_drift(samples, replace(QUICK, noise=change - 1e-9)) is not None


@pytest.mark.parametrize(("at_two", "found"), [((4, 7, 10), False), ((4, 7), True)])
def test_an_interval_that_touches_two_is_linear(at_two: tuple[int, ...], found: bool) -> None:
    """Of 12 pairs, 2 may lie outside on each side, so the interval begins at the third smallest ratio."""
    pairs = iter(2.0 if number in at_two else 2.25 for number in range(12))
    clock = Simulated(lambda first, steps, lane: 1.0 if steps == 4 else next(pairs))
    assert (timing.check_linearity(lane(steps=4), clock, "cpu") is not None) == found


@pytest.mark.parametrize(("step_s", "found"), [(5 / 9 - 0.001, True), (5 / 9 + 0.001, False)])
def test_linearity_takes_at_most_five_seconds(step_s: float, found: bool) -> None:
    """Three pairs of one block and one of twice its steps: nine steps."""
    clock = Simulated(lambda first, steps, lane: 1.0)
    assert (timing.check_linearity(lane([step_s] * 6), clock, "cpu") is not None) == found


@pytest.mark.parametrize(("step_s", "found"), [(5 / 6 - 0.001, True), (5 / 6 + 0.001, False)])
def test_speed_on_zeros_takes_at_most_five_seconds(step_s: float, found: bool) -> None:
    assert (timing.zeros_ratio(lane([step_s] * 6), lambda: None, Simulated()) is not None) == found


@pytest.mark.parametrize(
    ("step_s", "steps", "pairs"),
    [(5 / 6 - 0.001, 1, 3), (5 / 6 + 0.001, 1, 1), (0.2, 4, 3), (0.22, 4, 1), (0.2, 99, 1)],
)
def test_unseen_inputs_take_at_most_five_seconds(step_s: float, steps: int, pairs: int) -> None:
    """Blocks of at most eight steps."""
    clock = Simulated()
    assert timing.check_fresh(lane([step_s] * 6, steps), lambda: lambda: None, clock) is None
    assert clock.steps == 2 * pairs * min(8, steps)
    assert len(clock.order) == 2 * pairs


def test_a_clock_that_moves_within_its_range_is_not_throttled() -> None:
    top = 2e9
    for low, found in ((top * (1 - machine.CLOCK_RANGE), False), (top * (1 - machine.CLOCK_RANGE) - 1e6, True)):
        summary = {"sm_clock_hz_min": low, "sm_clock_hz_max": top}
        assert (machine.check_throttling(summary) is not None) == found


def test_a_machine_exactly_at_its_limits_is_quiet() -> None:
    for key, limit in (("cores_of_others", machine.CORES_OF_OTHERS), ("cores_stolen", machine.CORES_STOLEN)):
        assert machine.check_contention({key: limit}) is None
        assert machine.check_contention({key: limit + 1e-9}) is not None
    assert machine.check_contention({"cores_waited": 1.0, "cores_of_this": 9.0}) is None
    assert machine.check_contention({"cores_waited": 1.0, "cores_of_this": 8.99}) is not None
    assert machine.check_contention({"cores_waited": 1.0}) is None
    found = machine.check_contention({"cores_of_others": 0.5, "cores_of_others_peak": 0.5})
    assert found and found.text == "other processes used 0.50 cores"
    assert machine.check_throttling({"sm_clock_hz_min": 97.0, "sm_clock_hz_max": 100.0}) is None
    assert machine.check_throttling({"sm_clock_hz_min": 96.9, "sm_clock_hz_max": 100.0}) is not None
    found = machine.check_throttling({"throttle_bits": 0x20})
    assert found and found.text.endswith(" in 0% of the samples")
    found = machine.check_throttling({"sm_clock_hz_min": 900_000_600_000.0, "sm_clock_hz_max": 1980e9})
    assert found and found.text == "the SM clock varied from 900001 to 1980000 MHz"
