"""Steps in a series: found where they are, and not where they are not."""

import math

import pytest
import simulated_history as simulated

from convbench.timing.change_points import FEWEST, level_changes


def wave(count: int, size: float = 0.004) -> list[float]:
    """Values around 1 without chance."""
    return [1 + size * math.sin(2.4 * number) for number in range(count)]


def test_a_step_is_found_where_it_is_with_its_size() -> None:
    values = wave(60) + [0.9 * value for value in wave(40)]
    (step,) = level_changes(values, 0.03)
    assert step.position == 60
    assert step.ratio == pytest.approx(0.9, abs=0.002)
    assert step.low < 0.9 < step.high and step.high - step.low < 0.005
    assert (step.before, step.after) == (pytest.approx(1, abs=0.002), pytest.approx(0.9, abs=0.002))


def test_two_steps_are_two() -> None:
    values = wave(40) + [1.1 * value for value in wave(40)] + wave(40)
    assert [step.position for step in level_changes(values, 0.03)] == [40, 80]


@pytest.mark.parametrize(("size", "found"), [(0.025, 0), (0.04, 1)])
def test_what_is_smaller_than_the_least_difference_is_no_step(size: float, found: int) -> None:
    values = wave(50) + [(1 - size) * value for value in wave(50)]
    assert len(level_changes(values, 0.03)) == found


def test_too_few_points_and_equal_points_have_no_step() -> None:
    assert level_changes([1.0] * (FEWEST - 2) + [2.0], 0.03) == []
    assert level_changes([1.0] * 50, 0.03) == []


def test_recorded_noise_is_that_of_the_results() -> None:
    between = simulated.between_runs()
    assert len(between) == 12  # four models, eager, three times each
    assert 0.005 < math.sqrt(sum(each**2 for each in between) / len(between)) < 0.02


def test_a_thousand_commits_without_a_step_give_at_most_one_percent_of_alarms() -> None:
    (alarms,) = simulated.false_alarms(1, 1000, simulated.noise())
    assert alarms <= 10


def test_steps_of_five_percent_are_found_within_five_commits() -> None:
    assert simulated.found_in_time(60, 0.05, simulated.noise()) >= 0.95


def test_the_simulation_can_fail() -> None:
    """With three times the noise there are alarms, and steps of 5 % are lost in it."""
    assert sum(simulated.false_alarms(10, 1000, simulated.noise(), scale=3.0)) > 0
    assert simulated.found_in_time(30, 0.05, simulated.noise(), scale=3.0) < 0.8
