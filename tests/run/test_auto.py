"""--backend auto takes the fastest backend that was measured, or all that can be."""

from dataclasses import replace
from typing import Any

import pytest

from convbench.run.auto import resolved
from convbench.schema import Case, Measurement, Row

CASE = Case("dico_s", 256, 1, backend="auto", threads=2)


def row(backend: str, images_per_s: float | None, **other: Any) -> Measurement:
    known = {"status": "ok", "verdict": "VALID", "images_per_s": images_per_s}
    asked = {key: other.pop(key) for key in list(other) if key in Case.__dataclass_fields__}
    return Measurement.of(replace(CASE, backend=backend, **asked), **(known | other))


ROWS: list[Row] = [row("eager", 2.0), row("onnxruntime", 3.0), row("openvino", 4.0)]


def chosen(rows: list[Row], can_run: tuple[str, ...] = ()) -> list[Case]:
    return resolved([CASE], rows, lambda case: None if case.backend in can_run else "not here")


def test_the_fastest_is_taken() -> None:
    assert chosen(ROWS) == [replace(CASE, backend="openvino")]


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
def test_rows_of_other_cases_and_without_a_number_do_not_count(other: dict[str, Any]) -> None:
    known = {"images_per_s": 9.0} | other
    assert [case.backend for case in chosen([*ROWS, row("compile", **known)])] == ["openvino"]


@pytest.mark.parametrize("rows", [[], ROWS[:1]])
def test_with_nothing_to_choose_from_all_ranked_backends_that_can_run_are_measured(rows: list[Row]) -> None:
    found = chosen(rows, ("eager", "onnxruntime", "triton"))  # triton is never ranked on a CPU
    assert [case.backend for case in found] == ["eager", "onnxruntime"]


def test_other_backends_stay_as_they_are() -> None:
    asked = [replace(CASE, backend="compile"), CASE, replace(CASE, backend="openvino")]
    assert resolved(asked, ROWS, lambda case: None) == [
        replace(CASE, backend="compile"),
        replace(CASE, backend="openvino"),
    ]
