"""Replaying a paper's way of timing: the chain of knobs, its arithmetic, and what is said of it."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from replayed import by_knob, check_experiment, run

from convbench import catalogue, precision
from convbench.measure import training
from convbench.models import create
from convbench.papers import differences, replay, tf32, waterfall, ways
from convbench.run.jobs import Limits
from convbench.schema import Case, ReplayStep
from convbench.store import read
from convbench.timing.clock import Block, CpuClock, CudaClock, Lane
from convbench.timing.telemetry.recorder import Recorder

RES = 64
FLIPPED = {  # on a CPU
    "dic": {"batch"},
    "dic_poster": {"batch"},
    "dico": {"statistic", "conditioning", "input", "autograd", "batch"},
    "fcdm": {"checkpointing", "batch"},
}


def rows_of(paper: str, model: str | None = None) -> list[dict[str, Any]]:
    model = model or differences.default_case(paper, "cpu")[0]
    return [row.to_json() for row in waterfall.rows(replay.replay(paper, model, RES, "cpu", cap_s=0.02, threads=1))]


@pytest.fixture(scope="module")
def dico() -> list[dict[str, Any]]:
    return rows_of("dico")


def typed(rows: list[dict[str, Any]]) -> list[ReplayStep]:
    return [ReplayStep.from_json(row) for row in rows]


@pytest.mark.slow
def test_every_knob_has_a_row_and_those_not_flipped_a_reason(dico: list[dict[str, Any]]) -> None:
    steps = [row["knob"] for row in dico if row["step"] == "knob"]
    assert steps == [*differences.KNOBS, *differences.FIXED]
    for row in (row for row in dico if row["step"] == "knob"):
        assert row["exists_here"] == (row["knob"] in FLIPPED["dico"])
        assert bool(row["reason"]) != row["exists_here"]
    found = by_knob(dico)
    assert found["sync_end"]["reason"] == "on a CPU a step is over when it returns, so waiting changes nothing"
    assert found["precision"]["reason"] == "a CPU has no TF32 units, so the switches change nothing"
    assert found["checkpointing"]["reason"] == "the same in both"
    assert found["cudnn_benchmark"]["reason"] == "a CPU has no cuDNN"


@pytest.mark.slow
def test_ratios_come_with_their_intervals_and_samples(dico: list[dict[str, Any]]) -> None:
    for row in (row for row in dico if row["exists_here"]):
        assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["images_per_s"] > 0
        assert row["blocks"] == len(row["block_s"]) >= 6


@pytest.mark.slow
def test_factors_take_the_replayed_number_to_ours(dico: list[dict[str, Any]]) -> None:
    found = by_knob(dico)
    factors = [row["factor"] for row in dico if row["step"] == "knob" and row["exists_here"]]
    assert found["replayed"]["images_per_s"] * math.prod(factors) == pytest.approx(found["ours"]["images_per_s"])
    before = found["replayed"]
    for row in (row for row in dico if row["exists_here"]):
        assert row["images_per_s_before"] == before["images_per_s"]
        before = row
    assert found["ours"]["images_per_s"] == before["images_per_s"]
    assert found["ours"]["verdict"] in ("VALID", "SUSPECT")  # of a machine that others use too


@pytest.mark.slow
def test_a_flaw_is_named_in_its_row(dico: list[dict[str, Any]]) -> None:
    found = by_knob(dico)
    assert found["conditioning"]["flaw"] == "validity, not speed: the images of the batch are not independent"
    assert (found["conditioning"]["before"], found["conditioning"]["after"]) == ("[1]", "[batch]")
    assert found["statistic"]["before"] == "total of 2 steps"
    assert found["autograd"]["flaw"] is None


@pytest.mark.slow
@pytest.mark.parametrize("paper", ["dic", "dic_poster", "fcdm"])
def test_what_a_card_does_not_know_is_not_flipped(paper: str) -> None:
    found = by_knob(rows_of(paper))
    assert {knob for knob in differences.KNOBS if found[knob]["exists_here"]} == FLIPPED[paper]
    assert found["sync_end"]["before"] == "?"
    assert (
        found["input"]["reason"] == "not stated and not visible in the released code; our setting was used throughout"
    )


@pytest.mark.slow
def test_nothing_is_claimed_without_a_printed_number(dico: list[dict[str, Any]]) -> None:
    found = by_knob(dico)
    assert found["printed"]["images_per_s"] is None
    assert found["unexplained"]["verdict"] == "not comparable"
    assert found["unexplained"]["ratio"] is None
    assert waterfall.summary(typed(dico)).endswith("images/s. Nothing printed to compare with.")


@pytest.mark.slow
def test_words_are_about_this_machine(dico: list[dict[str, Any]]) -> None:
    said = [text for text in waterfall.sentences(typed(dico)) if not text.startswith("SUSPECT: CONT")]
    assert len(said) == len(differences.KNOBS) + len(differences.FIXED)
    assert said[0].startswith("statistic: the released script takes the total of a fixed number of steps; on this")
    assert "sync_end: on a CPU a step is over when it returns, so waiting changes nothing" in said
    unknown = [row | ({"reason": "not stated"} if row["exists_here"] is False else {}) for row in dico]
    assert list(waterfall.sentences(typed(unknown)))[-1] == (
        "sync_end, checkpointing, precision, cudnn_benchmark, software: not stated"
    )
    text = " ".join(said)
    assert not any(word in text for word in ("wrong", "cheat", "error", "mistake"))


# What the sentences and the verdict say, with made-up durations.


@pytest.mark.slow
def test_what_speaks_against_a_session_is_said(dico: list[dict[str, Any]]) -> None:
    rows = [row | ({"verdict": "SUSPECT", "reason": "CONT: why"} if row["step"] == "ours" else {}) for row in dico]
    assert "SUSPECT: CONT: why" in waterfall.sentences(typed(rows))


def made_up(gpu: str, seconds: list[float], paper: str = "dico", model: str = "dico_xl") -> list[dict[str, Any]]:
    """Rows of a replay on a GPU of that name, in which waiting for it doubles each block's time."""

    def variant(way: differences.Way, scale: float) -> replay.TimedWay:
        blocks = [Block(scale * step_s, step_s, step_s, []) for step_s in seconds]
        return ways.TimedWay(way, Lane(lambda: None, blocks=blocks))

    theirs, own = differences.papers_way(paper, model, "cuda"), differences.ours("cuda")
    first, second = variant(theirs, 1), variant({**theirs, "sync_end": "yes"}, 2)
    flips = [replay.Flip(knob, reason="left out") for knob in differences.KNOBS]
    flips[0] = replay.Flip("sync_end", (first, second))
    facts = {"gpus": [{"name": gpu}], "torch": "2.11.0"}
    case = Case(model, 256, 32, device="cuda")
    at = "2026-01-01T00:00:00"
    made = replay.Replay(paper, case, theirs, own, [first, second], flips, None, "VALID", "", facts, at)
    return [row.to_json() for row in waterfall.rows(made)]


SAME = [64 / 208.47 * f for f in (0.99, 0.995, 1, 1, 1.005, 1.01, 0.99, 1, 1.01)]


def test_the_same_gpu_and_speed_is_reproduced() -> None:
    found = by_knob(made_up("NVIDIA A100-SXM4-80GB", SAME))
    assert found["printed"]["images_per_s"] == 208.47
    assert found["unexplained"]["ratio"] == pytest.approx(1, abs=0.01)
    assert found["unexplained"]["verdict"] == "reproduced"


def test_the_same_gpu_at_another_speed_is_unexplained() -> None:
    found = by_knob(made_up("NVIDIA A100-SXM4-80GB", [2 * s for s in SAME]))
    assert found["unexplained"]["ratio"] == pytest.approx(2, abs=0.02)
    assert found["unexplained"]["verdict"] == "unexplained"


@pytest.mark.parametrize(
    ("paper", "model", "reason"),
    [
        ("dico", "dico_xl", "the paper's GPU is A100, this is NVIDIA H200"),
        ("fcdm", "fcdm_xl", "the paper's GPU is not stated, this is NVIDIA H200"),
    ],
)
def test_another_gpu_is_not_comparable(paper: str, model: str, reason: str) -> None:
    rows = made_up("NVIDIA H200", SAME, paper, model)
    gap = by_knob(rows)["unexplained"]
    assert (gap["verdict"], gap["reason"]) == ("not comparable", reason)
    assert "%" not in waterfall.summary(typed(rows))


def test_a_sentence_tells_what_the_papers_way_does() -> None:
    rows = made_up("NVIDIA H200", SAME)
    assert by_knob(rows)["sync_end"]["ratio"] == 0.5
    assert next(waterfall.sentences(typed(rows))) == (
        "sync_end: the released script reads the clock without waiting for the GPU; on this machine this changes the "
        "result by +100.0% [+100.0%, +100.0%] (clock: work that is still queued is not counted)"
    )


# The ways.


def test_the_papers_ways_on_a_gpu() -> None:
    assert differences.papers_way("dico", "dico_xl", "cuda") == {
        "sync_end": "no",
        "statistic": "total of 20 steps",
        "conditioning": "[1]",
        "input": "uniform [0,1)",
        "checkpointing": "off",
        "autograd": "no_grad",
        "precision": "torch-default",
        "batch": 64,
    }
    own = differences.ours("cuda")
    assert differences.papers_way("fcdm", "fcdm_xl", "cuda") == own | {
        "checkpointing": "on",
        "precision": "torch-default",
        "batch": 64,
    }
    assert differences.papers_way("fcdm", "dico_xl", "cuda")["checkpointing"] == "off"  # belongs to the released model
    assert differences.papers_way("dic", "dic_xl", "cuda", batch=8) == own | {"precision": "torch-default", "batch": 8}


def test_every_knob_can_be_flipped_on_a_gpu() -> None:
    theirs, own = differences.papers_way("dico", "dico_xl", "cuda"), differences.ours("cuda")
    left = {knob: differences.missing(knob, "dico", "cuda", theirs, own) for knob in differences.KNOBS}
    assert {knob for knob, reason in left.items() if reason} == {"checkpointing"}


@pytest.mark.parametrize(
    ("paper", "model", "res", "expected"),
    [
        ("dico", "dico_xl", 256, (208.47, "dico, table 1")),
        ("dico", "dico_xl", 512, (57.45, "dico, table 2")),
        ("dico", "dit_s_2", 256, (1234.01, "dico, table 1")),  # not the isotropic one of Table 3
        ("dico", "dico_s", 256, (1695.73, "dico, tables 1, 4")),
        ("fcdm", "dic_xl", 512, (124.2, "fcdm, table 4")),
        ("fcdm", "fcdm_l", 256, (381.3, "fcdm, tables 2, 10, 11")),
        ("dic_poster", "dic_xl", 512, (84.2, "dic_poster, table Advantages on Larger Images")),
        ("dic", "dic_s", 256, None),
    ],
)
def test_printed(paper: str, model: str, res: int, expected: tuple[float, str] | None) -> None:
    assert differences.printed(paper, model, res) == expected


@pytest.mark.parametrize("paper", catalogue.papers())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_default_cases_exist(paper: str, device: str) -> None:
    model, res = differences.default_case(paper, device)
    catalogue.find(model).require_res(res)
    assert device == "cpu" or differences.printed(paper, model, res)


# The pieces that time.


class Queue(CudaClock):
    """A GPU that writes down what is asked of it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def wait(self) -> None:
        self.log.append("wait")

    def block(self, run: Callable[[], object], steps: int) -> Block:
        self.log.append(f"our block of {steps}")
        return Block(1.0, 1.0, 1.0, [])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["step", "wait", "empty", "clock", *["step"] * 20, "clock", "wait"]),
        ({"sync_end": "yes"}, ["step", "wait", "empty", "clock", *["step"] * 20, "wait", "clock", "wait"]),
        ({"sync_end": "yes", "statistic": "median of blocks"}, ["step", "wait", "our block of 3"]),
        ({"statistic": "median of blocks"}, ["step", "wait", "clock", *["step"] * 3, "clock", "wait"]),
    ],
    ids=["as released", "waited for", "ours", "ours without waiting"],
)
def test_order_of_events_in_a_block(
    changes: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue()
    ticks: Iterator[float] = iter([10.0, 14.0])

    def tick() -> float:
        queue.log.append("clock")
        return next(ticks)

    monkeypatch.setattr(ways, "perf_counter", tick)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: queue.log.append("empty"))
    way = differences.papers_way("dico", "dico_s", "cuda") | changes
    model: Any = lambda x, t, y: queue.log.append("step")  # noqa: E731
    run = ways.WayStep(way, model, [(torch.zeros(2, 4, 8, 8), torch.zeros(2), torch.zeros(2))])
    block = ways.ReplayClock(queue).block(run, 3)
    assert queue.log == expected
    if "clock" in expected:
        assert block.step_s == 4 / (20 if run.steps else 3)


def test_inputs_of_a_way() -> None:
    case = Case("dico_s", RES, 8)
    sets = replay.input_sets(case)
    own = ways.WayStep(differences.ours("cpu"), create("dico_s", device="meta"), sets)
    assert [next(own.inputs)[0] is x for x, _, _ in sets] == [True] * 4
    released = ways.WayStep(differences.papers_way("dico", "dico_s", "cpu"), create("dico_s", device="meta"), sets)
    x, t, y = next(released.inputs)
    assert (x.shape, t.shape, y.shape) == ((8, 4, 8, 8), (1,), (1,))
    assert float(x.min()) >= 0 and float(x.max()) < 1
    assert float(x.mean()) == pytest.approx(0.5, abs=0.05)
    assert next(released.inputs)[0] is x


@pytest.mark.parametrize("autograd", [torch.no_grad, torch.inference_mode])
def test_checkpointed_blocks_return_the_same(autograd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = create("fcdm_s", res=RES), []
    original = training.checkpoint
    monkeypatch.setattr(
        training, "checkpoint", lambda *args, **options: (calls.append(1), original(*args, **options))[1]
    )
    inputs = replay.input_sets(Case("fcdm_s", RES, 2))[0]
    with autograd():
        plain = model(*inputs)
        with training.checkpointed(model) as blocks:
            assert torch.equal(model(*inputs), plain)
        assert blocks == len(calls) == sum(catalogue.find("fcdm_s").options["depths"])
        assert torch.equal(model(*inputs), plain)
        assert len(calls) == blocks  # not called any more


@pytest.mark.parametrize("model", ["dic_s", "dico_s", "fcdm_s", "dit_s_2", "dig_s_2"])
def test_one_timestep_and_label_mean_the_same_for_all(model: str) -> None:
    network = create(model, res=RES)
    x, t, y = replay.input_sets(Case(model, RES, 3))[0]
    with torch.inference_mode():
        released = network(x, t[:1], y[:1])
        ours = network(x, t[:1].expand(3), y[:1].expand(3))
    assert float((released - ours).norm() / ours.norm()) < 1e-5


def test_settings_are_put_back() -> None:
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    with replay.settings(1):
        assert (torch.get_num_threads(), torch.backends.cudnn.benchmark) == (1, True)
    assert (torch.get_num_threads(), torch.backends.cudnn.benchmark) == before


class Stand(CudaClock):
    """A GPU's clock with a CPU in its place."""

    def wait(self) -> None:
        pass

    def block(self, run: Callable[[], object], steps: int) -> Block:
        return CpuClock().block(run, steps)


@pytest.mark.slow
def test_the_chain_of_a_gpu_with_a_cpu_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(differences.DEFAULT_BATCH, "cuda", 1)
    monkeypatch.setattr(replay, "unsupported", lambda case: None)
    monkeypatch.setattr(replay, "clock_of", lambda device: Stand())
    monkeypatch.setattr(replay, "create", lambda model, device, res: create(model, res=res))
    monkeypatch.setattr(replay, "Recorder", lambda device: Recorder("cpu"))
    monkeypatch.setattr(replay.precision, "unsupported", lambda label, device, gpu=None: None)
    monkeypatch.setattr(
        replay, "input_sets", lambda case, own=replay.input_sets: own(dataclasses.replace(case, device="cpu"))
    )
    with replay.settings(1):
        found = replay.replay("dico", "dico_s", RES, "cuda", batch=2, cap_s=0.02)
    rows = [row.to_json() for row in waterfall.rows(found)]
    by = by_knob(rows)
    assert [row["knob"] for row in rows if row["exists_here"]] == [
        *("sync_end", "statistic", "conditioning", "input", "autograd", "precision", "batch"),
        "matmul_tf32",
    ]
    assert by["statistic"]["before"] == "total of 20 steps"
    assert (by["precision"]["before"], by["precision"]["after"]) == ("torch-default", "fp32")
    assert (by["batch"]["before"], by["batch"]["after"]) == (2, 1)
    assert by["matmul_tf32"]["images_per_s_before"] == by["precision"]["images_per_s_before"]
    factors = [row["factor"] for row in rows if row["step"] == "knob" and row["exists_here"]]
    assert by["replayed"]["images_per_s"] * math.prod(factors) == pytest.approx(by["ours"]["images_per_s"])
    assert found.chain[-1].way == differences.ours("cuda")
    assert len(list(waterfall.sentences(typed(rows)))) >= len(differences.KNOBS) + len(differences.FIXED) + 1


# The command.


@pytest.mark.slow
def test_the_command_appends_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "replay.jsonl"
    args = ["replay", "fcdm", "--res", str(RES), "--device", "cpu", "--cap", "0.02s", "--out", str(out)]
    code, text, said = run([*args, "--format", "json"], capsys)
    rows = json.loads(text)
    assert code == 0
    assert "On a CPU: batch 2 instead of 64, the S model at 256 px unless" in said
    assert [json.loads(line)["knob"] for line in out.read_text().splitlines()] == [row["knob"] for row in rows]
    assert len({row["case"] for row in read(out)}) == len(rows)
    kept = out.read_bytes()
    code, text, _ = run(args, capsys)
    assert out.read_bytes() == kept  # not measured again
    assert text.splitlines()[0].split()[:3] == ["knob", "paper's", "way"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "missing PAPER, e.g. convbench replay dico"),
        (["dici"], 2, "unknown paper 'dici'; choose from dic, dic_poster, dico, fcdm"),
        (["dico", "--res", "70"], 2, "--res 70 is invalid for dico_s"),
        (["dico", "--model", "dico_x"], 2, "unknown model 'dico_x'"),
        (["dico", "--tf32-experiment"], 2, "--tf32-experiment cannot be combined with a paper"),
        (["dico", "--budget", "9m"], 2, "--budget bounds the TF32 experiment; use --timeout for a replay"),
        (["dico", "--model", "dico_s,dico_b"], 2, "a replay takes one --model, not 2"),
        (["--tf32-experiment"], 3, "needs an NVIDIA GPU of compute capability 8.0"),
        (["dico", "--out", "/nowhere/at/all.jsonl"], 2, "does not exist"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    args: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, err = run(["replay", *args, "--device", "cpu"], capsys)
    assert (got, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1


# The TF32 experiment.


def test_switches_are_set_read_back_and_put_back() -> None:
    before, unset = precision.read_switches(), {}
    for key, value in before.items():
        unset |= {key: "ieee"} if value == "none" else {}
    for conv, matmul in tf32.SWITCHES:
        flags: dict[str, str] = {}
        with tf32.switched(conv, matmul, flags):
            assert (flags["cudnn.allow_tf32"], flags["cuda.matmul.allow_tf32"]) == (str(conv), str(matmul))
    # Once an older name is set, torch reads "ieee" where it read "none"; both mean IEEE float32.
    assert {**precision.read_switches(), **unset} == {**before, **unset}


@pytest.mark.slow
def test_the_experiment_has_every_cell() -> None:
    models = ["dit_s_2", "dico_s"]
    cells = [cell for batch in (1, 2) for cell in tf32.measure_batch(models, batch, RES, "cpu", cap_s=0.01, blocks=6)]
    rows = [cell.to_json() for cell in cells]
    check_experiment(rows, models, [1, 2])
    said = tf32.notes([dataclasses.replace(cell, reason="") for cell in cells])
    assert [text.partition(":")[0] for text in said] == [f"dico_s over dit_s_2, batch {batch}" for batch in (1, 2)]
    assert "at torch's defaults" in said[0]
    json.dumps(rows, allow_nan=False)


@pytest.mark.slow
def test_the_experiment_runs_in_a_process_that_ends_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "tf32.jsonl"
    limits = Limits(cap_s=0.01, timeout_s=300)
    asked = (["dit_s_2", "dico_s"], [1], RES, "cpu", out, limits)
    rows = list(tf32.experiment(*asked))
    check_experiment([row.to_json() for row in rows], ["dit_s_2", "dico_s"], [1])
    kept = out.read_bytes()
    assert list(tf32.experiment(*asked)) == rows
    assert out.read_bytes() == kept


@pytest.mark.parametrize(
    ("model", "expected"),
    [("dic_xl", 313.7 / 66.8), ("dico_xl", 208.47 / 76.9), ("fcdm_xl", 272.7 / 76.9), ("dig_xl_2", 71.74 / 76.9)],
)
def test_the_ratio_that_is_printed(model: str, expected: float) -> None:
    assert tf32._printed_ratio(model, "dit_xl_2", 256) == pytest.approx(expected)
