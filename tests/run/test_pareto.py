"""Frontiers of sampling: what is planned, the rows of a small run with digits, what is dominated, and the command."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scripted import Scores, fid_files
from sklearn.datasets import load_digits

import convbench
from convbench import cli, store
from convbench.catalogue import find, variants
from convbench.errors import UsageError
from convbench.measure.estimate import Estimate
from convbench.reports.plots.pictures import frontiers
from convbench.reports.runs import read_runs
from convbench.reports.tables.frontier import FID_NOTE, notes
from convbench.run import frontier_plan, pareto
from convbench.run.frontier_plan import FrontierRequest, planned
from convbench.run.pareto import with_frontier
from convbench.sampling.classifier import classifier, set_of
from convbench.sampling.images import sampler_for
from convbench.sampling.plan import Plan
from convbench.schema import QualityRow
from convbench.schema.rowcheck import row_problem

REQUEST = FrontierRequest(
    "dico_digits",
    threads=1,
    images=40,
    batch=20,
    sampling=("steps=4", "steps=5,cache=deep:every=2", "steps=5,cfg-interval=0.2..0.8"),
)


@pytest.fixture(autouse=True)
def not_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose rates are known."""
    monkeypatch.setattr(frontier_plan.survey, "need", lambda case: Estimate(2**20, 0.01, 0, 0, 0, 0))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full sampler of eight steps."""
    table = {**frontier_plan.table(), "noise": {**frontier_plan.table()["noise"], "reference": "steps=8"}}
    monkeypatch.setattr(frontier_plan, "table", lambda: table)


@pytest.mark.parametrize("id", [id for id, variant in variants().items() if set_of(variant, variant.res)])
def test_everything_in_the_table_suits_the_models_that_can_be_judged(id: str) -> None:
    found = planned(FrontierRequest(id, threads=1))
    assert found.ways[0].role == "reference" and found.ways[0].plan.steps == 250
    assert len({way.name for way in found.ways}) == len(found.ways) > 6
    assert {way.role for way in found.ways} == {"reference", "fewer steps", "method"}
    assert found.images % found.variant.signature.classes == 0 and frontier_plan.expected_s(found) > 0
    for way in found.ways:
        sampler_for(find(id), way.plan.sampler, way.plan.steps)


@pytest.mark.usefixtures("short")
def test_a_small_run_has_a_row_for_each_way_and_one_for_its_plain_counterpart() -> None:
    found = planned(REQUEST)
    rows = list(pareto.measured(found, store.Results(None)))
    assert [row.role for row in rows[:4]] == ["reference", "fewer steps", "method", "method"]
    assert all(row.role == "fewer steps" for row in rows[4:])
    first = rows[0]
    assert (first.quality, first.ratio, first.over_plain) == (None, None, None)
    for row in rows:
        assert row.images == row.planned == 40 and len(row.batch_s) == 2
        assert row.images_per_s and row.images_per_s_low is row.images_per_s_high is None  # of two batches
        assert row.frechet_low <= row.frechet <= row.frechet_high  # type: ignore[operator]
        json.dumps(row.to_json(), allow_nan=False)
    for row in rows[1:]:
        assert row.quality in ("better", "same", "worse", "inconclusive") and row.quality_reason
        assert row.compared_with == first.sampling
        assert row.ratio and row.ratio_low is row.ratio_high is None
    for row in rows[2:4]:
        plain = Plan.of_text(row.plain or "", find("dico_digits"))
        assert plain.even and plain.sampler == "iddpm" and row.plain in {each.sampling for each in rows}
        assert row.over_plain in ("better", "same", "worse", "inconclusive") and row.plain_ratio
    assert any(row.on_frontier for row in rows)


@pytest.mark.usefixtures("short")
def test_a_run_is_stored_read_by_reports_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    found = planned(replace(REQUEST, sampling=("steps=4",)))
    rows = list(pareto.measured(found, store.Results(file)))
    assert [row["sampling"] for row in read_runs([file]).qualities] == [row.sampling for row in rows]
    monkeypatch.setattr(pareto, "Race", None)
    assert list(pareto.measured(found, store.Results(file))) == rows


@pytest.mark.usefixtures("short")
def test_an_interrupted_run_keeps_what_all_have_sampled_and_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_batch = pareto.Race.run
    calls: list[int] = []

    def interrupted(race: Any, runner: Any, number: int, report: Any) -> None:
        calls.append(number)
        if len(calls) == 4:  # the second way of the second batch
            raise KeyboardInterrupt
        run_batch(race, runner, number, report)

    monkeypatch.setattr(pareto.Race, "run", interrupted)
    file = tmp_path / "a.jsonl"
    found = planned(replace(REQUEST, sampling=("steps=4",)))
    rows = list(pareto.measured(found, store.Results(file)))
    assert [(row.images, row.planned, row.reason) for row in rows] == [(20, 40, pareto.UNFINISHED)] * 2
    monkeypatch.setattr(pareto.Race, "run", run_batch)
    again = list(pareto.measured(found, store.Results(file)))
    assert [(row.images, row.reason) for row in again] == [(40, "")] * 2
    assert list(pareto.measured(found, store.Results(file))) == again


def quality_row(speed: float, frechet: float, images: int = 40) -> QualityRow:
    facts: dict[str, Any] = {"case": f"{speed}", "model": "dico_digits", "res": 8, "batch": 20, "sampling": "steps=4"}
    facts |= {"role": "method", "evaluations": 4, "seed": 0, "planned": 40, "image_set": "digits"}
    return QualityRow(**facts, images=images, images_per_s=speed, frechet=frechet)


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    rows = [quality_row(1, 1), quality_row(2, 2), quality_row(1.5, 2.5), quality_row(9, 0.5, images=20)]
    assert [row.on_frontier for row in with_frontier(rows)] == [True, True, False, False]


class Fixed:
    """A runner with made-up times and images."""

    def __init__(self, seconds: float, seen: Any) -> None:
        self.stopped, self.way = "", type("Named", (), {"name": "another"})
        self.seconds, self.seen = [seconds, 1.01 * seconds, 0.99 * seconds], seen


def test_what_is_slower_and_worse_is_stopped() -> None:
    data = load_digits()
    kept = torch.cat([(torch.from_numpy(data.target) == digit).nonzero()[:20, 0] for digit in range(10)])
    kept = kept.reshape(10, 20).T.flatten()  # classes take turns
    classes = torch.arange(200) % 10
    good = torch.from_numpy(data.images).float()[kept][:, None] / 8 - 1
    noise = torch.randn(good.shape, generator=torch.Generator().manual_seed(0))
    fine, bad = (classifier("digits").look(pixels, classes) for pixels in (good, good + noise))
    reference, fast = Fixed(4, fine), Fixed(1, fine)
    slow_bad, fast_bad, slow_good = Fixed(2, bad), Fixed(0.5, bad), Fixed(2, fine)
    running: Any = [reference, fast, slow_bad, fast_bad, slow_good]
    kept_running = pareto.without_dominated(running)
    assert kept_running == [reference, fast, fast_bad, slow_good]
    assert slow_bad.stopped == "slower and worse than another" and not fast.stopped


# ---- a feature network and statistics in place of a classifier ----


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Statistics of real digits, and the network whose features they are."""
    pixels = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    return fid_files(tmp_path_factory.mktemp("fid"), pixels)


@pytest.mark.usefixtures("short")
def test_with_statistics_the_fid_decides(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(REQUEST, sampling=("steps=4",))
    by_fid = replace(asked, reference=files[0], features=files[1])
    file = tmp_path / "a.jsonl"
    known = list(pareto.measured(planned(asked), store.Results(file)))
    rows = list(pareto.measured(planned(by_fid), store.Results(file)))  # not those of the classifier
    assert [(row.sampling, row.role) for row in rows] == [(row.sampling, row.role) for row in known]
    for row in rows:
        assert row_problem(row.to_json()) is None
        assert (row.image_set, len(str(row.reference_sha256)), len(str(row.features_sha256))) == ("reference", 64, 64)
        assert row.recognised is row.recognised_difference is row.recognised_margin is None
        assert row.frechet_low <= row.frechet <= row.frechet_high  # type: ignore[operator]
        assert row.frechet_floor > 0 and row.frechet_margin == 0.1  # type: ignore[operator]
    assert rows[1].quality in ("better", "same", "worse", "inconclusive")
    assert rows[1].quality_reason.startswith("Fréchet") and "recognised" not in rows[1].quality_reason
    both = [row["image_set"] for row in read_runs([file]).qualities]
    assert sorted(both) == ["digits"] * 2 + ["reference"] * 2
    said = notes([row.to_json() for row in rows])
    assert (
        FID_NOTE in said
        and f"floor: 40 images of the reference itself would have an FID of {rows[0].frechet_floor:.3g}" in said
    )
    names = [picture.name for picture in frontiers(read_runs([file]).qualities)]
    assert len(set(names)) == 2 and names[1] == f"{names[0]}-fid-{str(rows[0].reference_sha256)[:8]}"
    monkeypatch.setattr(pareto, "Race", None)
    assert list(pareto.measured(planned(by_fid), store.Results(file))) == rows
    assert list(pareto.measured(planned(asked), store.Results(file))) == known


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_latents_are_decoded_and_their_fid_is_that_of_the_formula(tmp_path: Path) -> None:
    """Against the images of ``convbench.sample`` and scipy's root; the networks have random weights."""
    from scipy.linalg import sqrtm

    diffusers = pytest.importorskip("diffusers", reason="the extra 'sample' is not installed")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = diffusers.AutoencoderKL(block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4, **blocks)
    vae.save_pretrained(tmp_path / "vae")
    reference, features = fid_files(tmp_path, torch.rand(50, 3, 64, 64) * 2 - 1)
    common: Any = {"model": "dico_s", "res": 64, "weights": "random", "device": "cpu", "vae": str(tmp_path / "vae")}
    asked = FrontierRequest(
        **common, threads=1, images=20, batch=10, sampling=("steps=2",), reference=reference, features=features
    )
    rows = list(pareto.measured(planned(asked), store.Results(None)))
    assert [row.sampling.partition(",sampler")[0] for row in rows] == [
        "steps=8,cfg=1.5,decode=yes",
        "steps=2,cfg=1.5,decode=yes",
    ]
    assert all(row.sampling.endswith(f"vae={tmp_path}/vae") for row in rows)
    images = convbench.sample(**common, count=20, batch=10, labels="all", steps=8)
    found = Scores()(torch.from_numpy(images).permute(0, 3, 1, 2)).double().numpy()
    with np.load(reference) as real:
        mean, sigma = real["mu"], real["sigma"]
    covariance = np.cov(found, rowvar=False)
    expected = (
        ((found.mean(0) - mean) ** 2).sum() + np.trace(covariance + sigma) - 2 * sqrtm(covariance @ sigma).real.trace()
    )
    assert rows[0].frechet == pytest.approx(float(expected), rel=1e-4)


# ---- the command ----


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["pareto", "--threads", "1", "--device", "cpu", *args])
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


def test_a_dry_run_says_how_many_images_and_how_long(run: Callable[..., Any]) -> None:
    code, out, err = run("--model", "dico_digits", "--dry-run", "--format", "json")
    rows = json.loads(out)
    assert code == 0 and rows[0]["role"] == "reference" and rows[0]["evaluations"] == 250
    assert (
        f"{len(rows)} ways to sample {rows[0]['images']} images each (margins: 3 points recognised and 10% Fréchet)"
        in err
    )
    assert "about" in err


def test_models_and_seeds_are_axes(run: Callable[..., Any]) -> None:
    asked = ("--model", "dico_digits", "--seed", "0,1", "--sampling", "steps=4", "--dry-run", "--format", "json")
    code, out, err = run(*asked, "--launcher", "slurm", "--on", "a,b", "--out", "a.jsonl")
    assert code == 0
    assert [(row["seed"], row["on"]) for row in json.loads(out) if row["role"] == "reference"] == [
        (0, "a"),
        (0, "b"),
        (1, "a"),
        (1, "b"),
    ]
    assert "4 times 2 ways to sample" in err


def test_races_in_one_process_share_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[float | None] = []
    monkeypatch.setattr(pareto, "measured", lambda found, *_: iter(budgets.append(found.wanted.budget_s) or ()))
    races = [planned(replace(REQUEST, seed=seed, budget_s=60.0)) for seed in range(3)]
    assert list(pareto.measured_all(races, store.Results(None))) == []
    assert [pytest.approx(wanted, rel=0.1) for wanted in (20, 30, 60)] == budgets


@pytest.mark.usefixtures("short")
def test_the_command_prints_stores_and_draws(run: Callable[..., Any], tmp_path: Path) -> None:
    asked = ("--model", "dico_digits", "--images", "40", "--batch", "20", "--sampling", "steps=4", "--sampling")
    code, out, _ = run(*asked, "steps=5,cache=deep:every=2", "--out", "a.jsonl", "--plot", "a.png")
    assert code == 0
    assert all(word in out for word in ("recognised", "Fréchet", "quality", "steps=5,cfg=1.5,decode=no,sampler=iddpm"))
    assert "not shown to be better than fewer steps in the same time" in " ".join(out.split()) or "better" in out
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert width > 1000 and height > 600
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    assert {row["kind"] for row in rows} == {"quality"} and len(rows) >= 3


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--model", "dic_s"], "no classifier judges the images of dic_s at 256 px: give --reference with"),
        (["--model", "dit_glyphs", "--sampling", "cache=deep"], "cache=deep does not suit dit_glyphs"),
        (["--model", "dico_digits", "--sampling", "cache=depe"], "--sampling cache=depe: unknown cache 'depe'"),
        (["--model", "dico_digits", "--sampling", "sampler=euler"], "predicts noise, euler needs velocity"),
        (["--model", "dico_digits", "--engine", "eager/int9"], "--engine eager/int9: unknown precision 'int9'"),
        (["--model", "dico_digits", "--cfg-scale", "1", "--sampling", "cfg-interval=0..0.5"], "cfg=1 is none"),
        (["--model", "dico_digits", "--artefact", "."], "manifest.json"),
        (["--model", "dico_digits", "--reference", "real.npz"], "--reference and --features belong together"),
        (["--model", "dico_digits", "--features", "net.pt"], "--reference and --features belong together"),
        (
            ["--model", "dico_digits", "--reference", "real.npz", "--features", "net.pt"],
            "cannot read real.npz: No such file or directory",
        ),
        (["--model", "dico_digits", "--vae", "vae"], "--vae decodes latents, and dico_digits samples pixels: omit it"),
        (
            ["--model", "dic_s", "--reference", "real.npz", "--features", "net.pt"],
            "the samples are latents: give --vae with a folder of diffusers' AutoencoderKL, or hf:",
        ),
        (
            [
                "--model",
                "dico_digits",
                "--reference",
                "a",
                "--features",
                "b",
                "--launcher",
                "local",
                "--out",
                "a.jsonl",
            ],
            "--features is a program, which no job is given: omit --launcher",
        ),
        (["--model", "dico_digits", "--seed", "0,-1"], "--seed must be at least 0"),
        (["--model", "dico_digits,dit_glyphs", "--weights", "w.pt"], "a checkpoint of one model, but --model names 2"),
    ],
)
def test_what_cannot_be_is_one_line(run: Callable[..., Any], args: list[str], reason: str) -> None:
    code, out, err = run(*args)
    assert (code, out, len(err.splitlines())) == (2, "", 1) and reason in err


def test_another_batch_makes_whole_batches() -> None:
    assert planned(replace(REQUEST, images=50)).images == 60
    with pytest.raises(UsageError, match="predicts"):
        planned(replace(REQUEST, sampling=("sampler=heun",)))


def test_six_batches_have_an_interval_and_five_have_none() -> None:
    reference: Any = SimpleNamespace(seconds=[4.0] * 6)
    runner: Any = SimpleNamespace(seconds=[2.0, 2.0, 2.0, 2.0, 1.0, 4.0])
    assert pareto.speed_ratio("ratio", runner, reference) == {"ratio": 2.0, "ratio_low": 1.0, "ratio_high": 4.0}
    runner.seconds.pop()
    assert pareto.speed_ratio("ratio", runner, reference) == {"ratio": 2.0, "ratio_low": None, "ratio_high": None}
