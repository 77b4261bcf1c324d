"""Sampling throughput: the arithmetic of its numbers on a made-up machine, its findings, its command line and files."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from simulated import QUICK, RATES, Simulated, Unwatched
from torch import nn

from convbench import backends, cli
from convbench.catalogue import find
from convbench.errors import UsageError
from convbench.measure import opening, sampling, trajectories
from convbench.sampling.decoders import decoders
from convbench.sampling.guidance import guided
from convbench.sampling.plan import Plan
from convbench.sampling.random_decoder import random_decoder
from convbench.schema import VERDICTS, Backend, Case, SamplingMeasurement
from convbench.store import append
from convbench.timing.calibration import Rates
from convbench.timing.clock import Block, CpuClock

MODEL = find("dico_digits")
ONE = Case("dico_digits", 8, 2, threads=1)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose rates are known and that nobody else uses."""
    monkeypatch.setattr(opening, "calibrate", lambda *_, **__: RATES)
    monkeypatch.setattr(sampling, "Recorder", Unwatched)


def simulated(**seconds: float) -> Simulated:
    """A clock on which each part takes its time, by the order in which the parts of an eager backend first run.

    What runs after them are passes of the checks.
    """
    order = ["step", "forward", "sampler", "backbone", "decoder", "whole"]
    parts = [part for part in order if part in seconds]
    return Simulated(lambda first, steps, lane: steps * seconds[[*parts, *["forward"] * 99][lane]])


def measured(text: str, clock: Simulated | None = None, case: Case = ONE) -> dict[str, Any]:
    asked = replace(case, sampling=str(Plan.of_text(text, MODEL)))
    (row,) = sampling.measure([asked], QUICK, clock=clock)
    return row.to_json()


@pytest.mark.usefixtures("made_up")
def test_the_numbers_follow_from_the_times() -> None:
    clock = simulated(step=0.014, forward=0.011, sampler=0.002, backbone=0.006, decoder=0.05, whole=0.07)
    row = measured("steps=5,cfg=1.5,decode=yes", clock)
    assert (row["status"], row["verdict"], row["reason"]) == ("ok", "VALID", "")
    assert row["finished_images_per_s"] == pytest.approx(2 / (5 * 0.014 + 0.05))
    assert row["finished_images_per_s_low"] == pytest.approx(row["finished_images_per_s"])
    expected = {
        "backbone_s": 5 * 0.006 / 2,
        "guidance_s": 5 * (0.011 - 0.006) / 2,
        "sampler_s": 5 * 0.002 / 2,
        "decoder_s": 0.05 / 2,
        "unattributed_s": 5 * (0.014 - 0.011 - 0.002) / 2,
    }
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert sum(expected.values()) == pytest.approx(1 / row["finished_images_per_s"])
    assert row["whole_s"] == pytest.approx(0.07) and row["step_s"] == pytest.approx(0.014)
    assert row["error_vs_fp32"] == 0 and row["batch"] == 2
    json.dumps(row, allow_nan=False)
    assert set(row) == {"kind", *SamplingMeasurement.keys()}


@pytest.mark.usefixtures("made_up")
def test_without_guidance_and_decoder_there_are_no_shares_for_them() -> None:
    row = measured("steps=5,cfg=1", simulated(step=0.014, forward=0.011, sampler=0.002, whole=0.07))
    assert row["verdict"] == "VALID"
    assert (row["guidance_s"], row["decoder_s"]) == (None, None)
    assert row["backbone_s"] == pytest.approx(5 * 0.011 / 2)
    assert row["finished_images_per_s"] == pytest.approx(2 / (5 * 0.014))


@pytest.mark.usefixtures("made_up")
def test_an_interval_is_that_of_its_parts() -> None:
    jitter = [0.9, 1.0, 1.1]
    clock = Simulated(lambda first, steps, lane: 0.014 * steps * (jitter[first % 3] if lane == 0 else 1))
    row = measured("steps=5,cfg=1", clock)
    low, high = row["finished_images_per_s_low"], row["finished_images_per_s_high"]
    assert low < row["finished_images_per_s"] < high
    samples = sorted(row["blocks"]["step"])
    assert 2 / 5 / samples[-1] <= low and high <= 2 / 5 / samples[0]
    assert "WIDE" in row["reason"] and row["verdict"] == "SUSPECT"


@pytest.mark.usefixtures("made_up")
def test_a_whole_trajectory_must_take_what_its_steps_promise() -> None:
    row = measured("steps=5,cfg=1", simulated(step=0.01, forward=0.008, sampler=0.001, whole=0.06))
    assert (
        row["verdict"] == "SUSPECT"
        and "LIN: a whole trajectory took 0.06 s, but its steps predict 0.05 s" in row["reason"]
    )
    row = measured("steps=50,cfg=1", simulated(step=0.01, forward=0.008, sampler=0.001, whole=0.06))
    assert row["whole_s"] is None and row["verdict"] == "VALID"  # longer than the cap of QUICK, 0.1 s


@pytest.mark.usefixtures("made_up")
def test_a_step_faster_than_the_machine_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step under guidance computes 4 images of 2 * 9.09e6 FLOP; at 3e9 FLOP/s it cannot take less than 24 ms."""
    slow = {key: value / 1000 for key, value in asdict(RATES).items()}
    monkeypatch.setattr(opening, "calibrate", lambda *_, **__: Rates(**slow))
    row = measured("steps=5,cfg=1.5", simulated(step=0.02, forward=0.015, sampler=0.001, backbone=0.01, whole=0.1))
    assert row["verdict"] == "INVALID" and row["reason"].startswith("FLOOR: 0.02 s per step is less than")


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("backend", "code"),
    [("ignores_x", "DEP"), ("ignores_y", "DEP"), ("first_label_for_all", "PERM"), ("cached", "DEP")],
)
def test_a_wrong_backend_is_not_timed(backend: str, code: str) -> None:
    row = measured("steps=5,cfg=1.5", simulated(step=0.01), Case("dico_digits", 8, 2, backend=f"faulty:{backend}"))
    assert (row["status"], row["verdict"]) == ("wrong", "INVALID") and code in row["reason"]
    assert row["finished_images_per_s"] is None and row["blocks"] == {}


@pytest.mark.usefixtures("made_up")
def test_a_backend_that_raises_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise LookupError("no engine here")

    monkeypatch.setattr(backends, "find", lambda name: Backend(name, "", broken))
    row = measured("steps=5,cfg=1.5")
    assert (row["status"], row["reason"], row["verdict"]) == ("failed", "LookupError: no engine here", None)


@pytest.mark.usefixtures("made_up")
def test_an_engine_of_one_size_is_asked_for_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is not eager is opened for the batch, closed, and opened for twice the batch."""
    from contextlib import contextmanager

    events: list[object] = []
    eager = backends.find("eager")

    @contextmanager
    def fixed(model: Any, case: Case, inputs: Any) -> Any:
        events.append(("open", case.batch))

        def step(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            assert len(x) == len(t) == len(y) == case.batch
            return model(x, t, y)

        yield step
        events.append(("close", case.batch))

    monkeypatch.setattr(backends, "find", lambda name: Backend(name, "", fixed, eager.unsupported))
    row = measured("steps=5,cfg=1.5", Simulated())
    assert row["status"] == "ok", row["reason"]
    assert events == [("open", 2), ("close", 2), ("open", 4), ("close", 4)]
    assert row["guidance_s"] == 0 and row["backbone_s"] == pytest.approx(5 * 0.01 / 2)


def test_a_random_decoder_has_the_shape_of_the_real_one() -> None:
    pytest.importorskip("diffusers", reason="the extra 'sample' is not installed")
    with torch.device("meta"):
        decode = random_decoder("meta")
        assert decode(torch.empty(2, 4, 8, 8)).shape == (2, 3, 64, 64)


# ---- what is asked for ----


def test_a_plan_reads_and_prints() -> None:
    found = Plan.of_text("steps=20, cfg=4,decode=yes,sampler=ddim", MODEL)
    assert found == Plan(20, 4.0, True, "ddim")
    assert str(found) == "steps=20,cfg=4,decode=yes,sampler=ddim"
    assert Plan.of_text(str(found), MODEL) == found
    named = replace(ONE, sampling=str(found))
    assert named.id == f"{ONE.id}/steps=20,cfg=4,decode=yes,sampler=ddim" != ONE.id


@pytest.mark.parametrize(
    "text", ["", "steps", "steps=", "steps=x", "cfg=a", "decode=maybe", "stps=3", "steps=5,,cfg=1"]
)
def test_a_plan_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match=r"--sampling .*: the form is steps=250,cfg=1\.5,decode=yes"):
        Plan.of_text(text, MODEL)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["throughput", "--model", "dico_digits", "--res", "8", "--threads", "1", "--device", "cpu", *args])
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


@pytest.mark.slow
def test_the_command_measures_keeps_and_resumes(run: Callable[..., Any], tmp_path: Path) -> None:
    args = ("--sampling", "steps=3,cfg=1.5,decode=yes", "--cap", "0.2s", "--out", "a.jsonl")
    code, out, err = run(*args)
    assert code in (0, 4)
    assert all(word in out for word in ("finished images/s", "backbone", "guidance", "arithmetic", "decoder"))
    assert "not comparable with the images/s of forward passes" in " ".join(out.split())
    assert "[1 of 1] dico_digits/8px/b1/eager/fp32/cpu/1threads/steps=3,cfg=1.5,decode=yes" in err
    kept = (tmp_path / "a.jsonl").read_text("utf-8")
    code, out, _ = run(*args, "--format", "json")
    assert (tmp_path / "a.jsonl").read_text("utf-8") == kept  # not measured again
    (row,) = json.loads(out)
    assert {"schema": 2, **row} == json.loads(kept) and row["verdict"] in VERDICTS
    assert min(row[key] for key in ("finished_images_per_s", "backbone_s", "sampler_s", "decoder_s", "whole_s")) > 0
    assert "images_per_s" not in row and row["kind"] == "sampling"


@pytest.mark.slow
@pytest.mark.usefixtures("made_up")
def test_rows_of_passes_and_of_sampling_may_share_a_file(run: Callable[..., Any], tmp_path: Path) -> None:
    asked = replace(ONE, batch=1, sampling=str(Plan.of_text("steps=3", MODEL)))
    append(tmp_path / "a.jsonl", sampling.measure([asked], QUICK, clock=Simulated())[0])
    quick = ("--cap", "0.05s", "--out", "a.jsonl", "--format", "json")
    _, passes, _ = run(*quick)
    _, images, _ = run("--sampling", "steps=3", *quick)
    kept = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    assert [row["kind"] for row in kept] == ["sampling", "throughput"]
    assert [json.loads(text)[0]["kind"] for text in (passes, images)] == ["throughput", "sampling"]


@pytest.mark.slow
def test_sampling_is_compared_in_three_processes_within_a_budget(run: Callable[..., Any]) -> None:
    """The case over its counterpart, on the row of the case, from the blocks of every process."""
    asked = ("--sampling", "steps=3,cfg=1.5", "--backend", "onnxruntime", "--compare-with", "eager", "--cap", "0.05s")
    code, out, err = run(*asked, "--processes", "2", "--budget", "10m", "--price", "2", "--format", "json")
    assert code in (0, 4), err
    case, counterpart = json.loads(out)
    assert (case["backend"], counterpart["backend"], case["compared_with"]) == (
        "onnxruntime",
        "eager",
        counterpart["case"],
    )
    assert case["ratio_low"] <= case["ratio"] <= case["ratio_high"] and counterpart["ratio"] is None
    assert case["processes"] == counterpart["processes"] == 2
    assert case["difference"] in ("faster", "slower", "same", "unclear")
    assert "at a cost of" in err


@pytest.mark.usefixtures("made_up")
def test_auto_takes_the_fastest_that_the_file_holds(run: Callable[..., Any], tmp_path: Path) -> None:
    plan = str(Plan.of_text("steps=3,cfg=1.5", MODEL))
    for backend, step_s in (("eager", 0.02), ("onnxruntime", 0.01)):
        case, clock = replace(ONE, batch=1, backend=backend, sampling=plan), Simulated(lambda _, n, __, s=step_s: n * s)
        (row,) = sampling.measure([case], QUICK, clock=clock)
        append(tmp_path / "a.jsonl", replace(row, verdict="VALID"))
    asked = ("--sampling", "steps=3,cfg=1.5", "--out", "a.jsonl", "--format", "json")
    code, out, err = run("--backend", "auto", *asked)
    assert code == 0 and [row["backend"] for row in json.loads(out)] == ["onnxruntime"]
    assert "0 cases to measure, 1 already in the file" in err


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--sampling", "steps=0"], "--steps 0: must be between 1 and 1000"),
        (["--sampling", "steps=5,sampler=euler"], "predicts noise, euler needs velocity"),
        (["--sampling", "cfg=-1"], "--sampling cfg=-1: the scale must be at least 0"),
        (["--sampling", "steps=5", "--mode", "train"], "--sampling cannot be combined with --mode train"),
        (["--sampling", "steps=5", "--compare-with", "nothing"], "neither a model of `convbench models` nor a backend"),
        (["--sampling", "steps=5", "--out", "nowhere/a.jsonl"], "the folder nowhere does not exist"),
    ],
)
def test_what_cannot_be_is_one_line(run: Callable[..., Any], args: list[str], reason: str) -> None:
    code, out, err = run(*args)
    assert (code, out, len(err.splitlines())) == (2, "", 1) and reason in err


def test_a_dry_run_says_what_would_be_skipped(run: Callable[..., Any]) -> None:
    code, out, _ = run("--sampling", "steps=5", "--precision", "fp32,tf32", "--dry-run", "--format", "json")
    assert code == 0
    assert [row["skipped"] for row in json.loads(out)] == [None, "a CPU has no TF32 units; use fp32"]


def test_a_network_that_takes_captions_is_given_some() -> None:
    """With guidance, the second half of the batch has a caption of zeros."""
    takes = replace(find("sana_600m").signature, caption=(3, 5))
    captions, null = trajectories.conditions_of(takes, Case("sana_600m", 64, 2))
    assert captions.shape == (2, 3, 5) and captions.std() > 0.5
    given: list[torch.Tensor] = []
    guided(lambda x, t, y: given.append(y) or x, captions, null, 4.0)(torch.zeros(2, 32, 2, 2), torch.zeros(2))
    assert torch.equal(given[0], torch.cat([captions, torch.zeros(2, 3, 5)]))
    classes, null = trajectories.conditions_of(MODEL.signature, ONE)
    assert (classes.tolist(), null) == ([0, 1], 10)


def test_a_row_names_its_random_decoder_and_counts_it() -> None:
    pytest.importorskip("diffusers")
    case = Case("dit_s_2", 256, 1, threads=1)
    plan = Plan.of_text("steps=2,cfg=1,decode=yes", find("dit_s_2"))
    facts = decoders()["sd_vae_f8"]
    assert trajectories.decoder_facts(case, plan) == {"decoder": "SD-VAE f8", "decoder_macs": facts.macs}
    assert trajectories.decoder_facts(case, replace(plan, decode=False)) == {}
    assert trajectories.decoder_facts(replace(case, model="jit_b_16"), plan) == {}  # pixels need none


def test_a_plan_of_sampling_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["throughput", "--model", "dico_digits", "--res", "8", "--sampling", "steps=2,cfg=1", "--dry-run"])
    out = capsys.readouterr().out
    assert not stopped.value.code and "steps=2,cfg=1,decode=no" in out


# ---- uneven steps ----


@pytest.mark.usefixtures("made_up")
def test_uneven_steps_are_timed_as_whole_trajectories() -> None:
    """Every second step keeps the inner part: the mean of a step is that of the trajectory, and its parts unknown."""
    row = measured("steps=4,cfg=1.5,cache=deep:every=2", simulated(step=0.04, forward=0.011, whole=0.04))
    assert (row["status"], row["verdict"], row["reason"]) == ("ok", "VALID", "")
    assert row["finished_images_per_s"] == pytest.approx(2 / 0.04) and row["step_s"] == pytest.approx(0.01)
    assert row["blocks"].keys() == {"step"} and row["evaluations"] == 4
    assert row["backbone_s"] is row["guidance_s"] is row["sampler_s"] is row["unattributed_s"] is None
    assert row["sampling"] == "steps=4,cfg=1.5,decode=no,sampler=iddpm,cache=deep:every=2"


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("text", "share"),
    [("cache=deep:every=2", 0.5), ("cfg-interval=0.2..0.8", 0.75), ("cache=deep:every=2,cfg-interval=0..0.3", None)],
)
def test_the_floor_counts_what_passed_through_the_whole_network(
    text: str, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps at 999, 666, 333 and 0: half of them run the inner part; or the first and the last run half the batch."""
    shares: list[float] = []
    check = opening.check_floor
    counted = sampling.limit

    def seen(step_s: float, floor_s: float) -> Any:
        shares.append(floor_s)
        return check(step_s, floor_s)

    monkeypatch.setattr(opening, "check_floor", seen)
    monkeypatch.setattr(sampling, "limit", lambda *args, **kwargs: replace(counted(*args, **kwargs), seconds=1.0))
    measured(f"steps=4,cfg=1.5,{text}", simulated(step=8.0, forward=2.0, whole=8.0))
    assert 0 < shares[0] < 1 and (share is None or shares[0] == pytest.approx(share))


@pytest.mark.usefixtures("made_up")
def test_heun_counts_both_evaluations_of_a_step() -> None:
    clock = simulated(step=0.01, forward=0.008, sampler=0.001, backbone=0.004, whole=0.07)
    row = measured("steps=4,cfg=1.5,sampler=heun-ddim", clock)
    assert (row["steps"], row["evaluations"]) == (4, 7)
    assert row["finished_images_per_s"] == pytest.approx(2 / 0.07) and row["verdict"] == "VALID"


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(("keeps", "code"), [("keeps_results", "FRESH"), ("skips_zeros", "ZERO")])
def test_a_short_cut_of_the_network_is_found(keeps: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the step costs: 10 ms for a pass of the network, 1 ms for anything else that is timed."""
    plan = str(Plan.of_text("steps=5,cfg=1", MODEL))
    asked = Case("dico_digits", 8, 2, backend=f"cheats:{keeps}", threads=1, sampling=plan)
    passes, create = [0], opening.create

    def watched(*which: Any) -> nn.Module:
        model = create(*which)
        model.register_forward_pre_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
        return model

    class Clock(CpuClock):
        def block(self, run: Callable[[], object], steps: int) -> Block:
            before = passes[0]
            for _ in range(steps):
                run()
            total = 0.01 * (passes[0] - before) + 0.001 * steps
            return Block(total / steps, total, total, [total / steps] * steps)

    monkeypatch.setattr(opening, "create", watched)
    (row,) = sampling.measure(
        [replace(asked, sampling=str(Plan.of_text("steps=5,cfg=1", MODEL)))], QUICK, clock=Clock()
    )
    assert code in row.to_json()["reason"]
