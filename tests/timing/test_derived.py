"""Derived numbers compared with values computed by hand and with files older than derived.py."""

from pathlib import Path
from statistics import median
from typing import Any

import pytest

from convbench.store import read
from convbench.timing.derived import derive, derive_ratio, nearly_equal
from convbench.timing.intervals import median_interval

RESULTS = sorted((Path(__file__).parents[2] / "results").glob("*.jsonl"))
RATES = {
    "matmul_flops_per_s": 1e12,
    "conv1x1_flops_per_s": 2e12,
    "conv3x3_flops_per_s": 4e12,
    "copy_bytes_per_s": 1e11,
    "launches_per_s": 1e5,
}
ROW: dict[str, Any] = {
    "case": "a",
    "status": "ok",
    "device": "cpu",
    "mode": "forward",
    "batch": 8,
    "block_s": [0.125, 0.25, 0.5],
    "process_s": [],
    "processes": 1,
    "steps_per_block": 1,
    "params": 10**6,
    "macs_full": 10**10,
    "rates": RATES,
    "limit_images_per_s": None,
    "limit_wall": "compute",
    "compared_with": None,
    "measured_at": "now",
}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_stored_numbers_follow_from_their_samples(path: Path) -> None:
    rows = [row for row in read(path) if row["status"] == "ok"]
    assert rows
    for row in rows:
        if row.get("kind") == "quality":  # of convbench pareto: each batch is one sample
            assert row["images_per_s"] == pytest.approx(row["batch"] / median(row["batch_s"]))
            assert row["images_per_s_low"] == pytest.approx(row["batch"] / median_interval(row["batch_s"])[1])
            continue
        found = derive(row) | derive_ratio(row, rows)
        assert {"images_per_s", "images_per_s_low", "mfu", "limit_fraction"} <= set(found)
        assert {key: value for key, value in found.items() if not nearly_equal(row[key], value)} == {}


def test_a_forward_pass_by_hand() -> None:
    assert derive(ROW) == {
        "images_per_s": 32.0,  # 8 / 0.25
        "images_per_s_low": 16.0,  # under six blocks, the interval is their range
        "images_per_s_high": 64.0,
        "blocks": 3,
        "latency_s_p50": 0.25,
        "latency_s_p90": None,
        "latency_s_p99": None,
        "flops_per_s": 6.4e11,  # 2 * 1e10 * 32
        "peak_flops_per_s": 4e12,
        "mfu": 0.16,
        "limit_wall": "compute",
        "limit_images_per_s": 200.0,  # 4e12 / 2e10
        "limit_fraction": 0.16,
    }


def test_a_training_step_counts_three_forward_passes_and_six_weight_passes() -> None:
    found = derive(ROW | {"mode": "train+ema"})
    assert (found["flops_per_s"], found["limit_images_per_s"]) == (1.92e12, pytest.approx(200 / 3))
    heavy = derive(ROW | {"mode": "train", "params": 10**10})
    assert (heavy["limit_wall"], heavy["limit_images_per_s"]) == ("memory", pytest.approx(8 / (6 * 4e10 / 1e11)))


def test_a_limit_by_launches_is_a_whole_number_of_operators() -> None:
    """400,000 launches here; a limit between two whole numbers is corrected."""
    launched = ROW | {"limit_wall": "launch", "limit_images_per_s": 2.0}
    assert (derive(launched)["limit_wall"], derive(launched)["limit_images_per_s"]) == ("launch", 2.0)
    between = derive(launched | {"limit_images_per_s": 8e5 / 4e5 * 1.000001})
    assert not nearly_equal(2.000002, between["limit_images_per_s"])


def test_processes_widen_the_interval_and_hide_single_steps() -> None:
    found = derive(ROW | {"processes": 2, "process_s": [0.1, 1.0]})
    assert (found["images_per_s_low"], found["images_per_s_high"]) == (8.0, 80.0)
    assert "latency_s_p50" not in found


def test_ratios_come_from_interleaved_blocks() -> None:
    b = ROW | {"case": "b", "block_s": [0.0625, 0.125, 0.25], "compared_with": "a"}
    assert derive_ratio(b, [ROW, b]) == {"ratio": 2.0, "ratio_low": 2.0, "ratio_high": 2.0, "difference": "faster"}
    for alone in (
        b | {"measured_at": "later"},
        b | {"processes": 3},
        b | {"block_s": [0.1]},
        b | {"compared_with": "c"},
    ):
        assert derive_ratio(alone, [ROW, alone]) == {}


@pytest.mark.parametrize("row", [ROW | {"status": "failed"}, ROW | {"block_s": []}])
def test_a_row_without_timing_has_no_numbers(row: dict[str, Any]) -> None:
    assert derive(row) == {}
