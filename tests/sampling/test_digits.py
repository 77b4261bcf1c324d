"""The backbones that ship with trained weights: their files and records, and the images of each runtime.

A classifier trained on real digits compares the images of every runtime; a table is printed per model. Broken engines
must be detected.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tolerances import FEATURE_SHIFT, TRAJECTORY_L2
from torch import Tensor

from convbench import backends, models
from convbench.catalogue import find, variants
from convbench.measure import drift
from convbench.reports.tables.text import render
from convbench.sampling.classifier import classifier
from convbench.sampling.images import Recipe, sampler_for
from convbench.sampling.quality import compare_engines
from convbench.schema import PRECISIONS
from convbench.weights.read import read_state_dict

EXAMPLES = Path(__file__).parents[2] / "examples"
WEIGHTS = Path(models.__file__).parents[1] / "weights" / "shipped"
DIGITS = ["dic_digits", "dico_digits", "fcdm_digits"]
STEPS, COUNT = 20, 100
RUNTIMES = [("eager", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32")]
BROKEN = [("engines:tanh", "fp32"), ("engines:drops_a_block", "fp32"), ("engines:half_tanh", "fp32")]
HALF = "dic_digits"  # half precision on a CPU is slow, so only one model uses it
KEYS = ("model", "backend", "precision", "images", "recognised", "recognised_interval", "frechet", "frechet_interval")
KEYS += ("shift", "error_max", "first_wrong_step", "verdict")

Row = dict[str, Any]


# ---- files ----


def test_one_small_model_of_each_convolutional_family_ships() -> None:
    assert [id for id in variants() if id.endswith("_digits")] == DIGITS
    files = sorted(WEIGHTS.glob("*digits*.safetensors"))
    assert [file.stem for file in files] == sorted([*DIGITS, "digits_classifier"])
    assert sum(file.stat().st_size for file in files) < 6e6
    for id in DIGITS:
        assert find(id).shipped_weights == WEIGHTS / f"{id}.safetensors"
        assert 0.8e6 < find(id).params < 1.2e6


@pytest.mark.parametrize("id", DIGITS)
def test_the_record_matches_the_file_and_describes_its_training(id: str) -> None:
    file = WEIGHTS / f"{id}.safetensors"
    record = json.loads(file.with_suffix(".json").read_text("utf-8"))
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (record["model"], record["params"]) == (id, find(id).params)
    assert (record["objective"], record["seed"]) == (find(id).signature.predicts, 0)
    assert record["command"] == f"python examples/train_digits.py {id}"
    steps, losses = zip(*record["losses"], strict=True)
    assert steps[-1] == record["steps"] and len(steps) >= 30
    assert losses[-1] < losses[0] / 2
    assert min(losses) == pytest.approx(losses[-1], rel=0.1)  # training stopped near the best loss


@pytest.mark.parametrize("id", DIGITS)
def test_the_weights_are_exact_in_half_precision(id: str) -> None:
    """They are stored as float16, so an fp16 engine does not round them further."""
    stored = read_state_dict(str(WEIGHTS / f"{id}.safetensors"))
    assert {value.dtype for value in stored.values()} == {torch.float16}
    model = models.create(id, weights="shipped", res=8)
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert value.isfinite().all() and torch.equal(value.half().float(), value)
        assert value.abs().max() > 0, key  # no weight still has its initial value


# ---- the training script ----


@cache
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_digits", EXAMPLES / "train_digits.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(EXAMPLES))  # as when it is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


def training() -> ModuleType:
    """What the scripts share."""
    script()
    return sys.modules["training"]


def test_the_script_writes_weights_that_load_and_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training(), "mean_loss", lambda *_: 0.5)  # takes longer than the rest and is tested below
    arguments = ["dic_digits", "--steps", "3", "--batch", "8", "--out", str(tmp_path)]
    done = CliRunner().invoke(script().main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dic_digits.json", "dic_digits.safetensors"]
    model = models.create("dic_digits", weights=str(tmp_path / "dic_digits.safetensors"), res=8)
    record = json.loads((tmp_path / "dic_digits.json").read_text("utf-8"))
    known = json.loads((WEIGHTS / "dic_digits.json").read_text("utf-8"))
    assert list(record) == list(known)
    assert [step for step, _ in record["losses"]] == [1, 2, 3]
    # At the start the network returns zeros, so the squared error is that of the noise: 1.
    assert record["losses"][0][1] == pytest.approx(1, abs=0.3)
    assert sum(p.numel() for p in model.parameters()) == record["params"] == known["params"]


def test_the_recorded_loss_is_that_of_the_shipped_weights() -> None:
    record = json.loads((WEIGHTS / "dic_digits.json").read_text("utf-8"))
    model = models.create("dic_digits", weights="shipped", res=8)
    found = training().mean_loss(model, *script().digits(), training().diffusion_loss)
    assert found == pytest.approx(record["loss_of_averaged_float16_weights"], rel=1e-4)


@pytest.mark.parametrize("id", ["dic_digits", "fcdm_digits"])
def test_training_is_reproducible_from_its_seed(id: str) -> None:
    train: Callable[..., Any] = training().train
    loss = training().flow_loss if id.startswith("fcdm") else training().diffusion_loss
    images, classes = script().digits()
    ends = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network = models.build(find(id), 8).train()
        training().start_at_zero(network)
        assert network(images[:2], torch.zeros(2), classes[:2]).abs().max() == 0
        averaged, curve = train(network, images, classes, find(id), loss, 2, 8, 1e-3, seed)
        assert not averaged.training and len(curve) == 2
        ends.append(averaged.state_dict())
    same, other = (all(torch.equal(ends[0][key], end[key]) for key in end) for end in ends[1:])
    assert (same, other) == (True, False)


# ---- images of every runtime ----


@dataclass
class Walked:
    """Results of all engines from the same noise."""

    steps: list[Row]  # rows of drift
    rows: dict[drift.Engine, Row]  # quality of the engines that finished, with their drift
    images: dict[drift.Engine, Tensor]


@pytest.fixture(scope="module", params=DIGITS)
def walked(request: pytest.FixtureRequest) -> Walked:
    id = request.param
    made = sampler_for(find(id), None, STEPS)
    recipe = Recipe(
        model=id,
        res=8,
        weights_sha256=None,
        sampler=made.name,
        steps=made.steps,
        cfg_scale=1.5,
        guided_channels=None,
        seed=0,
        labels=tuple(range(10)),
        backend="eager",
        precision="fp32",
        decoded_by=None,
    )
    engines = [e for e in RUNTIMES if e[0] in backends.names()]
    engines += BROKEN[: 3 if id == HALF else 2]
    images: dict[drift.Engine, Tensor] = {}
    steps = list(drift.drift(recipe, engines, made, COUNT, weights="shipped", finished=images))
    known = {(row["backend"], row["precision"]): row for row in drift.summary(steps)}
    figures = compare_engines(classifier("digits"), images, images[drift.REFERENCE], torch.arange(COUNT) % 10)
    rows = {}
    for row in figures:
        engine = row["backend"], row["precision"]
        rows[engine] = {**known[engine], **row, "drift": known[engine]["verdict"]}
    print(f"\n{render(list(rows.values()), KEYS, 'markdown')}")
    return Walked(steps, rows, images)


@pytest.mark.slow
@pytest.mark.parametrize("engine", RUNTIMES, ids="-".join)
def test_every_runtime_draws_recognisable_digits(walked: Walked, engine: drift.Engine) -> None:
    if engine[0] not in backends.names():
        pytest.skip(f"there is no backend {engine[0]}")
    ran = [row for row in walked.steps if (row["backend"], row["precision"]) == engine]
    if ran[-1]["status"] == "skipped":
        pytest.skip(ran[-1]["reason"])
    assert [row["status"] for row in ran] == ["ok"] * STEPS, ran[-1]["reason"]
    row, reference = walked.rows[engine], walked.rows[drift.REFERENCE]
    assert row["images"] == COUNT
    assert row["recognised"] >= 0.9
    # Neither the Fréchet distance nor any other figure differs.
    assert row["frechet_low"] < reference["frechet"] < row["frechet_high"]
    assert reference["frechet_low"] < row["frechet"] < reference["frechet_high"]
    assert (row["verdict"], row["drift"], row["reason"]) == ("ok", "ok", "")
    if engine != drift.REFERENCE and engine[0] != "eager":
        assert row["error_max"] > 0  # it really computed


@pytest.mark.slow
@pytest.mark.parametrize("engine", BROKEN, ids="-".join)
def test_a_broken_engine_is_detected_by_drift_and_by_quality(walked: Walked, engine: drift.Engine) -> None:
    if engine not in walked.rows:
        assert walked.steps[0]["model"] != HALF
        return
    row = walked.rows[engine]
    assert row["drift"] == "wrong"
    assert row["first_wrong_step"] <= 1
    assert row["error_last"] > 20 * row["limit"]
    assert row["verdict"] == "wrong"
    assert row["shift"] > 10 * row["shift_limit"]
    assert "shift" in row["reason"]


@pytest.mark.slow
def test_a_missing_block_would_be_detected_in_any_precision(walked: Walked) -> None:
    row = walked.rows["engines:drops_a_block", "fp32"]
    assert row["error_last"] > max(TRAJECTORY_L2[precision] for precision in PRECISIONS)
    assert row["shift"] > max(FEATURE_SHIFT.values())


@pytest.mark.slow
def test_the_images_show_ten_classes_and_differ(walked: Walked) -> None:
    images = walked.images[drift.REFERENCE]
    assert images.shape == (COUNT, 1, 8, 8)
    assert -1.5 < images.min() < -0.9 and 0.9 < images.max() < 1.5
    apart = torch.cdist(images.flatten(1), images.flatten(1)) + 10 * torch.eye(COUNT)
    assert apart.min() > 0.2  # no duplicates: the model has not memorised one picture per class
    real = script().digits()[0].flatten(1)
    assert torch.cdist(images.clamp(-1, 1).flatten(1), real).min() > 0.5  # no copy of a real digit
    same_class = apart[torch.arange(COUNT)[:, None] % 10 == torch.arange(COUNT)[None] % 10]
    assert same_class.mean() < apart.mean()


@pytest.mark.slow
def test_the_table_has_every_engine(walked: Walked) -> None:
    text = render(list(walked.rows.values()), KEYS, "markdown")
    lines = [line for line in text.splitlines() if line.startswith("| ") and "%" in line and "---" not in line]
    assert len(lines) - 1 == len(walked.rows)
    assert all(str(COUNT) in line for line in lines[1:])


@pytest.mark.slow
def test_a_compiled_network_draws_the_same_digits() -> None:
    made = sampler_for(find("dic_digits"), "ddim", 5)
    recipe = Recipe("dic_digits", 8, None, "ddim", 5, 1.5, None, 0, tuple(range(10)), "eager", "fp32", None)
    rows = list(drift.drift(recipe, [("compile", "fp32")], made, 10, weights="shipped"))
    assert [(row["status"], row["verdict"], row["reason"]) for row in rows] == [("ok", "ok", "")] * 5
    assert rows[-1]["error"] > 0
