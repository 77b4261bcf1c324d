"""--backend auto takes the fastest backend that was measured, and nothing that was not."""

from typing import Any

import pytest

from convbench.errors import UsageError
from convbench.run.auto import resolved
from convbench.schema import Case

CASE = Case("dico_s", 256, 1, backend="auto", threads=2)


def row(backend: str, images_per_s: float | None, **other: Any) -> dict[str, Any]:
    known = {"model": "dico_s", "res": 256, "batch": 1, "precision": "fp32", "device": "cpu", "threads": 2}
    known |= {"weights": None, "mode": "forward", "status": "ok", "verdict": "VALID", "unranked": None}
    return known | {"backend": backend, "images_per_s": images_per_s} | other


ROWS = [row("eager", 2.0), row("onnxruntime", 3.0), row("openvino", 4.0)]


def test_the_fastest_is_taken() -> None:
    assert resolved(CASE, ROWS) == Case("dico_s", 256, 1, backend="openvino", threads=2)


@pytest.mark.parametrize(
    "other",
    [
        {"verdict": "INVALID"},
        {"unranked": "reference path"},
        {"status": "wrong", "images_per_s": None},
        {"batch": 2},
        {"res": 512},
        {"precision": "bf16"},
        {"threads": 1},
        {"mode": "train"},
        {"weights": "other.pt"},
        {"model": "dico_b"},
    ],
)
def test_what_is_another_case_or_no_number_is_not(other: dict[str, Any]) -> None:
    assert resolved(CASE, [*ROWS, row("faster", 9.0) | other]).backend == "openvino"


@pytest.mark.parametrize(("rows", "found"), [([], "no backend"), (ROWS[:1], "only eager")])
def test_nothing_to_choose_from_is_one_line(rows: list[dict[str, Any]], found: str) -> None:
    with pytest.raises(UsageError, match=f"dico_s at 256 px, batch 1, fp32: {found} is measured"):
        resolved(CASE, rows)
