"""The row that others are compared with: the first measurement, a valid one, of the same conditions."""

import subprocess
import sys
from typing import Any

import pytest
from stored import measured

from convbench.reports.baseline import BASELINE, CONDITIONS, NO_BASELINE, NOT_COMPARABLE, beside_baseline
from convbench.reports.runs import frame, records

Row = dict[str, Any]
OTHER = {
    "file": "b.jsonl",
    "device": "cuda",
    "res": 512,
    "batch": 8,
    "backend": "compile",
    "precision": "bf16",
    "threads": 2,
    "mode": "train",
}


def compared(*rows: Row, baseline: str = BASELINE) -> list[Row]:
    return records(beside_baseline(frame([{"file": "a.jsonl", **row} for row in rows]), baseline))


def ratios(*rows: Row) -> list[float | None]:
    return [row["baseline_ratio"] for row in compared(*rows)]


FIRST, AGAIN = measured(BASELINE, 10.0), measured(BASELINE, 20.0, repeat=2)
CASE = measured("dico_s", 40.0)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_the_baseline_is_not_the_aa_repeat_wherever_it_stands(order: tuple[int, ...]) -> None:
    rows = [FIRST, AGAIN, CASE]
    found = dict(zip(order, ratios(*(rows[place] for place in order)), strict=True))
    assert (found[0], found[2]) == (1.0, 4.0)
    assert found[1] == pytest.approx(2.0)  # the repeat is compared like any other row


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)], ids=str)
def test_a_repeat_serves_only_where_the_first_is_not_valid(order: tuple[int, ...]) -> None:
    rows = [measured(BASELINE, 10.0, verdict="INVALID"), AGAIN, CASE]
    found = dict(zip(order, ratios(*(rows[place] for place in order)), strict=True))
    assert found == {0: None, 1: 1.0, 2: 2.0}
    *_, case = compared(*rows[:1], AGAIN | {"verdict": "INVALID"}, CASE)
    assert (case["baseline_ratio"], case["baseline_note"]) == (None, NO_BASELINE)


def test_a_repeat_has_no_rank_and_takes_none() -> None:
    assert [row["rank"] for row in compared(FIRST, AGAIN, CASE, measured("dic_s", 5.0))] == [2, None, 1, 3]


def test_a_row_that_was_measured_twice_keeps_the_valid_one() -> None:
    slow = measured(BASELINE, 1.0, verdict="INVALID")
    assert ratios(slow, FIRST, CASE)[-1] == ratios(FIRST, slow, CASE)[-1] == 4.0


@pytest.mark.parametrize("key", CONDITIONS)
def test_a_row_is_compared_under_its_own_conditions_alone(key: str) -> None:
    assert sorted(CONDITIONS) == sorted(OTHER)
    elsewhere = {"file": "a.jsonl", **CASE, key: OTHER[key]}
    first, other = compared(FIRST, elsewhere)
    assert (first["baseline_ratio"], first["rank"]) == (1.0, 1)
    assert (other["baseline_ratio"], other["baseline_note"], other["rank"]) == (None, NOT_COMPARABLE, 1)


@pytest.mark.parametrize("key", ["cpu", "cores", "torch", "cuda", "convbench"])
def test_a_row_of_another_machine_or_version_is_not_compared(key: str) -> None:
    other = CASE | {"environment": CASE["environment"] | {key: "another"}}
    assert compared(FIRST, other)[1]["baseline_note"] == NOT_COMPARABLE


def test_of_two_equal_baselines_the_first_counts() -> None:
    assert ratios(FIRST, measured(BASELINE, 5.0), CASE) == [1.0, 0.5, 4.0]


def test_a_row_of_before_repeats_were_counted_is_a_first() -> None:
    old = CASE | {"repeat": None}
    assert [row["rank"] for row in compared(FIRST, old)] == [2, 1]
    assert ratios(FIRST, measured(BASELINE, 5.0) | {"repeat": None}, CASE)[2] == 4.0


def test_importing_it_does_not_import_pandas() -> None:
    """Which takes as long as a whole command otherwise."""
    code = "import sys, convbench.reports.baseline; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_intervals_of_both_add_in_quadrature() -> None:
    _, case = compared(measured(BASELINE, 10.0, half=0.03), measured("dico_s", 40.0, half=0.04))
    assert case["baseline_ratio_low"] == pytest.approx(4 * 0.95, rel=2e-3)
    assert case["baseline_ratio_high"] == pytest.approx(4 * 1.05, rel=2e-3)
