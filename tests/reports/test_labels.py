"""Short labels: what differs labels a row, what is shared is said once; ids of cases are read back."""

import itertools
from dataclasses import asdict
from typing import Any

import pytest

from convbench.reports.labels import PARTS, case_parts, counterpart_words, short_labels, word
from convbench.schema import Case

CASE: dict[str, Any] = asdict(Case("dico_s", 256, 1, threads=1))
BACKENDS = [CASE | {"backend": backend} for backend in ("aoti", "eager")]


def pair(**apart: Any) -> tuple[list[str], str]:
    """The labels of DiCo-S with AOTInductor against the same case apart from some parts."""
    labels = short_labels(BACKENDS[:1], [BACKENDS[0] | apart])
    return labels.each, labels.shared


@pytest.mark.parametrize(
    ("rows", "each", "shared"),
    [
        (BACKENDS, ["aoti", "eager"], "DiCo-S, 256 px, batch 1, fp32, CPU, 1 thread"),
        ([CASE], ["DiCo-S"], "256 px, batch 1, eager, fp32, CPU, 1 thread"),
        ([CASE, CASE], ["DiCo-S", "DiCo-S"], "256 px, batch 1, eager, fp32, CPU, 1 thread"),
        (
            [CASE, CASE | {"model": "dit_s_2", "batch": 4}],
            ["DiCo-S batch 1", "DiT-S/2 batch 4"],
            "256 px, eager, fp32, CPU, 1 thread",
        ),
        (
            [CASE, CASE | {"device": "cuda", "threads": None}],
            ["CPU 1 thread", "GPU"],
            "DiCo-S, 256 px, batch 1, eager, fp32",
        ),
        ([CASE | {"mode": None}, CASE | {"mode": "train+ema"}], ["forward", "train+ema"], None),
        ([CASE | {"repeat": None}, CASE | {"repeat": 2}], ["repeat 1", "repeat 2"], None),
        ([CASE, CASE | {"weights": "runs/7/dico.pt"}], ["DiCo-S", "DiCo-S dico.pt"], None),
        ([CASE, CASE | {"model": "dico_s@kernel=7@attention=se"}], ["DiCo-S", "DiCo-S kernel=7 attention=se"], None),
        ([CASE, CASE | {"model": "mynet:small"}], ["DiCo-S", "mynet:small"], None),
        ([{"model": "dic_xl", "res": 256}, {"model": "dic_xl", "res": 512}], ["256 px", "512 px"], "DiC-XL"),
        ([], [], ""),
    ],
)
def test_rows_are_labelled_by_what_differs(rows: list[dict[str, Any]], each: list[str], shared: str | None) -> None:
    labels = short_labels(rows)
    assert labels.each == each
    if shared is not None:
        assert labels.shared == shared


def test_a_case_is_labelled_against_its_counterpart() -> None:
    assert pair(backend="eager") == (["aoti vs eager"], "DiCo-S, 256 px, batch 1, fp32, CPU, 1 thread")
    assert pair(model="dit_s_2") == (["DiCo-S vs DiT-S/2"], "256 px, batch 1, aoti, fp32, CPU, 1 thread")
    assert pair(repeat=2)[0] == ["repeat 1 vs repeat 2"]
    assert pair(backend="eager", precision="bf16")[0] == ["aoti fp32 vs eager bf16"]


def test_cases_of_two_models_have_the_model_in_their_label_and_their_counterparts_have_not() -> None:
    rows = [row | {"model": model} for model in ("dico_s", "dit_s_2") for row in BACKENDS[:1]]
    labels = short_labels(rows, [row | {"backend": "eager"} for row in rows])
    assert labels.each == ["DiCo-S aoti vs eager", "DiT-S/2 aoti vs eager"]
    assert labels.shared == "256 px, batch 1, fp32, CPU, 1 thread"


def test_a_counterpart_that_does_not_differ_is_named_by_its_model() -> None:
    assert counterpart_words(CASE, CASE) == "DiCo-S"


CASES = [
    Case(model, res, 4, backend, precision, device, threads, weights, repeat, mode)
    for (model, res), (backend, precision), (device, threads), (weights, mode, repeat) in itertools.product(
        (("dico_s@kernel=7", 256), ("diffusers:folder/unet.json", 64)),
        (("eager", "fp32"), ("mypackage.backends:backend", "torch-default")),
        (("cpu", 2), ("cuda", None)),
        ((None, "forward", 1), ("runs/7/ema.pt", "train+ema+checkpointing", 3), ("a.pt", "forward", 2)),
    )
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_id_of_a_case_is_read_back(case: Case) -> None:
    parts = case_parts(case.id)
    assert parts == asdict(case)
    assert tuple(parts) == PARTS


def test_a_text_that_is_not_an_id_stands_for_the_model() -> None:
    labels = short_labels([CASE], [case_parts("of another program")])
    assert labels.each == ["DiCo-S vs of another program"]


def test_words_of_parts() -> None:
    said = [word("threads", 1), word("threads", 2), word("batch", 8), word("device", "cuda"), word("mode", "train")]
    assert said == ["1 thread", "2 threads", "batch 8", "GPU", "train"]
