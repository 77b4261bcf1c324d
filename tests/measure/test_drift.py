"""Drift along trajectories: right engines stay within the limits, broken ones are caught, and the plot shows it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import BLOCK
from tolerances import FEATURE_SHIFT, RELATIVE_L2, TRAJECTORY_L2
from torch import Tensor

from convbench.catalogue import find
from convbench.checks.output import relative_error
from convbench.errors import WeightsError
from convbench.measure import drift
from convbench.reports.plots.drift import plot
from convbench.sampling import samplers
from convbench.sampling.images import Recipe
from convbench.schema import PRECISIONS

STEPS, COUNT = 8, 10
RECIPE = Recipe(
    model="dic_digits",
    res=8,
    weights_sha256=None,
    sampler="iddpm",
    steps=STEPS,
    cfg_scale=1.5,
    guided_channels=None,
    seed=0,
    labels=tuple(range(10)),
    backend="eager",
    precision="fp32",
    decoded_by=None,
)
MADE = samplers.create("iddpm", STEPS)
RIGHT = [
    *(("engines:turned", "fp32"), ("engines:one_by_one", "fp32"), ("engines:winograd", "fp32")),
    *(("eager", "fp16"), ("eager", "bf16")),
]
BROKEN = [("engines:tanh", "fp32"), ("engines:half_tanh", "fp32"), ("engines:drops_a_block", "fp32")]
FAILING = [("engines:overflows", "fp32"), ("engines:gives_up", "fp32"), ("engines:unwilling", "fp32")]

Row = dict[str, Any]


@pytest.fixture(scope="module")
def finished() -> dict[drift.Engine, Tensor]:
    return {}


@pytest.fixture(scope="module")
def rows(finished: dict[drift.Engine, Tensor]) -> list[Row]:
    engines = [drift.REFERENCE, *RIGHT, *BROKEN, *FAILING]
    return list(drift.drift(RECIPE, engines, MADE, COUNT, weights="shipped", finished=finished))


def of(rows: list[Row], engine: drift.Engine) -> list[Row]:
    return [row for row in rows if (row["backend"], row["precision"]) == engine]


def test_the_reference_is_its_own(rows: list[Row]) -> None:
    own = of(rows, drift.REFERENCE)
    assert [row["step"] for row in own] == list(range(STEPS))
    assert [row["t"] for row in own] == [999, 856, 714, 571, 428, 285, 143, 0]
    assert {(row["error"], row["error_worst"], row["verdict"]) for row in own} == {(0.0, 0.0, "ok")}
    assert {row["batch"] for row in own} == {COUNT}


@pytest.mark.parametrize("engine", RIGHT, ids="-".join)
def test_right_engines_stay_within_the_limit(rows: list[Row], engine: drift.Engine) -> None:
    own = of(rows, engine)
    assert len(own) == STEPS
    for row in own:
        assert row["error"] <= row["error_worst"] < 10 * row["limit"]
        assert row["error"] <= row["limit"] == drift.limit(engine[1], STEPS)
        assert (row["status"], row["verdict"], row["reason"]) == ("ok", "ok", "")
    assert engine[0] == "engines:turned" or max(row["error"] for row in own) > TRAJECTORY_L2[engine[1]] / 100


@pytest.mark.parametrize("engine", BROKEN, ids="-".join)
def test_broken_engines_are_wrong_from_the_first_step(rows: list[Row], engine: drift.Engine) -> None:
    own = of(rows, engine)
    assert [row["verdict"] for row in own] == ["wrong"] * STEPS
    assert own[-1]["error"] > 8 * own[-1]["limit"]
    assert own[-1]["status"] == "ok"  # it ran


def test_a_block_left_out_is_caught_at_the_limit_of_any_precision(rows: list[Row]) -> None:
    assert of(rows, ("engines:drops_a_block", "fp32"))[-1]["error"] > max(
        drift.limit(precision, STEPS) for precision in PRECISIONS
    )
    for id, place in BLOCK.items():  # there is such a block, and it keeps the width
        from convbench import models

        block = models.create(id, device="meta", res=8).get_submodule(place)
        assert sum(p.numel() for p in block.parameters()) > 10_000, id


def test_once_wrong_stays_wrong() -> None:
    """An engine that is right again at the end has still shown other images on the way."""
    found = list(drift.drift(RECIPE, [("engines:stumbles", "fp32")], MADE, COUNT, weights="shipped"))
    errors = [row["error"] for row in found]
    assert errors[:4] == [0.0] * 4
    assert errors[4] > 0.02
    assert errors[-1] < errors[4] / 1.5  # the paths come together again
    assert [row["verdict"] for row in found] == ["ok"] * 4 + ["wrong"] * 4


def test_limits_are_wider_for_few_long_steps() -> None:
    assert drift.limit("fp16", 20) == drift.limit("fp16", 250) == TRAJECTORY_L2["fp16"]
    assert drift.limit("fp16", 4) == pytest.approx(5 * TRAJECTORY_L2["fp16"])


def test_engines_that_cannot_are_told_and_the_others_are_walked(rows: list[Row]) -> None:
    overflows, gives_up, unwilling = (of(rows, engine) for engine in FAILING)
    assert [row["error"] is None for row in overflows] == [False] * 4 + [True] * 4
    assert [row["verdict"] for row in overflows] == ["ok"] * 4 + ["wrong"] * 4
    assert overflows[-1]["reason"] == "the images are not finite"
    assert [row["status"] for row in gives_up] == ["ok", "ok", "failed"]
    assert gives_up[-1]["reason"] == "LookupError: lost the session"
    assert gives_up[-1]["step"] is gives_up[-1]["verdict"] is None
    assert [(row["status"], row["step"]) for row in unwilling] == [("skipped", None)]
    assert unwilling[0]["reason"].endswith("needs a licence")
    json.dumps(rows, allow_nan=False)


def test_the_images_of_those_that_came_to_the_end_are_kept(
    rows: list[Row], finished: dict[drift.Engine, Tensor]
) -> None:
    assert list(finished) == [drift.REFERENCE, *RIGHT, *BROKEN, ("engines:overflows", "fp32")]
    for engine in RIGHT:
        assert relative_error(finished[engine], finished[drift.REFERENCE]) == of(rows, engine)[-1]["error"]
    assert not torch.is_inference_mode_enabled()


def test_a_summary_has_a_row_for_each_engine(rows: list[Row]) -> None:
    found = drift.summary(rows)
    assert [(row["backend"], row["precision"]) for row in found] == [drift.REFERENCE, *RIGHT, *BROKEN, *FAILING]
    by = {(row["backend"], row["precision"]): row for row in found}
    half = of(rows, ("eager", "fp16"))
    assert by["eager", "fp16"]["error_last"] == half[-1]["error"]
    assert by["eager", "fp16"]["error_max"] == max(row["error"] for row in half)
    assert by["eager", "fp16"]["first_wrong_step"] is None
    assert by["engines:tanh", "fp32"]["first_wrong_step"] == 0
    assert by["engines:overflows", "fp32"]["first_wrong_step"] == 4
    assert by["engines:unwilling", "fp32"]["error_max"] is None


def test_an_error_is_that_of_the_state_by_hand(rows: list[Row]) -> None:
    """After the first step: eager fp32 and fp16 walked apart from all of this."""
    pair = [
        next(iter(drift.states(replace(RECIPE, precision=precision), MADE, range(COUNT), "cpu", "shipped")))
        for precision in ("fp32", "fp16")
    ]
    expected = ((pair[1] - pair[0]).square().sum() / pair[0].square().sum()).sqrt().item()
    assert of(rows, ("eager", "fp16"))[0]["error"] == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_distances_name_the_worst_image() -> None:
    reference = torch.ones(4, 1, 2, 2)
    x = reference.clone()
    x[2] += 0.5
    assert drift.distances(x, reference) == (pytest.approx(0.25), pytest.approx(0.5))
    x[0, 0, 0, 0] = math.nan
    assert drift.distances(x, reference) == (None, None)


def test_weights_that_cannot_be_read_stop_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no checkpoint at"):
        list(drift.drift(RECIPE, [drift.REFERENCE], MADE, COUNT, weights=str(tmp_path / "none.safetensors")))


def test_every_precision_has_limits_that_suit_one_another() -> None:
    assert set(TRAJECTORY_L2) >= set(PRECISIONS) == set(FEATURE_SHIFT)
    for limits in (TRAJECTORY_L2, FEATURE_SHIFT):
        assert 100 * limits["fp32"] < limits["fp16"] <= limits["tf32"] < limits["bf16"]
    assert all(TRAJECTORY_L2[key] <= RELATIVE_L2[key] for key in PRECISIONS)


def test_the_small_models_are_those_whose_blocks_are_known() -> None:
    assert set(BLOCK) == {id for id in BLOCK if find(id).shipped}


# ---- the plot ----


def _toy(steps: int) -> list[Row]:
    common = {"model": "dico_s", "sampler": "ddim", "steps": steps, "cfg_scale": 1.5, "backend": "eager"}
    return [
        {**common, "precision": "fp16", "step": i, "error": 1e-3 * i or None, "limit": 2e-3, "verdict": "ok"}
        for i in range(steps)
    ]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_plot_is_written_whole_in_the_format_of_its_name(
    rows: list[Row], tmp_path: Path, suffix: str, start: bytes
) -> None:
    plot(rows, tmp_path / f"drift{suffix}")
    assert (tmp_path / f"drift{suffix}").read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [f"drift{suffix}"]


def test_the_plot_names_every_engine_and_the_limits(rows: list[Row], tmp_path: Path) -> None:
    plot(rows, tmp_path / "drift.svg")
    text = (tmp_path / "drift.svg").read_text("utf-8")
    for words in ("engines:tanh, fp32", "eager, fp16", "eager, bf16", "limit of fp16", "dic_digits, iddpm, 8 steps"):
        assert f"<!-- {words}" in text, words
    assert "engines:unwilling" not in text  # it took no step


def test_rows_without_a_step_give_an_empty_plot(tmp_path: Path) -> None:
    plot([{**_toy(1)[0], "step": None}], tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 1000
