"""Walls of the roofline: amounts of work by hand, with simulated block times."""

from dataclasses import asdict

import pytest
from simulated import Simulated

from convbench import catalogue
from convbench.models.counts import count_variant
from convbench.timing import calibration
from convbench.timing.calibration import Limit, Rates, calibrate, limit

AMOUNTS = {  # of a CPU: FLOPs of the products, bytes read and written, launches
    "matmul_flops_per_s": 2 * 1536**3,
    "conv1x1_flops_per_s": 2 * 1024 * 256 * 48 * 48,
    "conv3x3_flops_per_s": 2 * 9 * 256 * 256 * 48 * 48,
    "copy_bytes_per_s": 2 * 4 * 2**26,
    "launches_per_s": 2000,
}


@pytest.mark.parametrize(("block_s", "runs"), [(0.15, 3), (4.0, 1)])
def test_a_rate_is_work_over_the_shortest_block(block_s: float, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block at first, then two; work that takes seconds is not repeated."""
    clocks: list[Simulated] = []

    def clock_of(device: str) -> Simulated:
        clocks.append(Simulated(lambda first, steps, lane: block_s * (3 - first)))  # the last one is the shortest
        return clocks[-1]

    monkeypatch.setattr(calibration, "clock_of", clock_of)
    shortest = block_s * (3 - (runs - 1))
    expected = {key: amount / shortest for key, amount in AMOUNTS.items()}
    assert asdict(calibrate("cpu", "fp32", repeats=2 if runs > 1 else 5)) == pytest.approx(expected)
    assert [clock.steps for clock in clocks] == [runs] * 5


def test_real_rates_are_positive_and_the_peak_is_the_highest() -> None:
    rates = calibrate("cpu", "fp32", repeats=1)
    assert min(asdict(rates).values()) > 1e3
    assert rates.peak_flops_per_s == max(value for key, value in asdict(rates).items() if "flops" in key) > 1e9


def test_the_best_of_two_takes_the_higher_rates() -> None:
    assert Rates(1, 20, 3, 40, 5).best(Rates(10, 2, 30, 4, 50)) == Rates(10, 20, 30, 40, 50)


@pytest.mark.parametrize(
    ("rates", "launches", "expected"),
    [
        (Rates(1e9, 2e9, 1e9, 1e18, 1e18), 0, "compute"),
        (Rates(1e18, 1e18, 1e18, 1e9, 1e18), 100, "memory"),
        (Rates(1e18, 1e18, 1e18, 1e18, 1e3), 100, "launch"),
    ],
)
def test_the_floor_is_set_by_the_nearest_wall(rates: Rates, launches: int, expected: str) -> None:
    count = count_variant(catalogue.find("dico_s"), 64)
    seconds = {"compute": 2 * count.macs_full * 8 / 2e9, "memory": count.weight_bytes / 1e9, "launch": launches / 1e3}
    assert limit(count, 8, rates, launches) == Limit(pytest.approx(seconds[expected]), expected)
