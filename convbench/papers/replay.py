"""A paper's way of timing and ours, interleaved in one process: the effect of each difference on this machine.

The chain starts with the paper's way, as far as its card knows it, and flips one knob at a time until it has become
ours. All variants are timed interleaved, a block each, so that each knob's ratio comes from paired blocks. A variant
with a flaw is timed as it is, and its row names the flaw; our own way is proved, as for every number of ours.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import environment, precision
from ..checks import machine
from ..checks import output as proof
from ..errors import NothingMeasured
from ..measure.feasible import unsupported
from ..models import create
from ..run import process, survey
from ..run.jobs import Allowance, Job, Limits, open_results, run_jobs
from ..run.jobs import Report as JobReport
from ..schema import Case, ReplayStep, Row, Second
from ..timing.clock import RULES, Clock, Inputs, Lane, Rules, clock_of, time_lanes
from ..timing.telemetry.recorder import Recorder
from .differences import FIXED, KNOBS, Way, missing, ours, papers_way
from .ways import ReplayClock, TimedWay, WayStep, conditions

BLOCKS = 12  # of each variant: what is wanted is a ratio with its interval, however narrow that is
WORKER = "convbench.papers.worker"
MATMUL_TF32 = "matmul_tf32"  # the other way out of torch-default, beside the chain

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Flip:
    """One knob: the variants before and after it, or the reason why it cannot be flipped here."""

    knob: str
    pair: tuple[TimedWay, TimedWay] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Replay:
    """Result of a replay."""

    paper: str
    case: Case  # ours
    theirs: Way
    own: Way
    chain: list[TimedWay]  # from the paper's to ours
    flips: list[Flip]
    aside: Flip | None  # TF32 for matrix products too, from the variant before precision
    verdict: str  # of our own way
    reason: str
    environment: dict[str, Any]
    measured_at: str  # UTC


def replay(
    paper: str,
    model: str,
    res: int,
    device: str,
    batch: int | None = None,
    cap_s: Second | None = None,
    threads: int | None = None,
    report: Report = lambda what, done: None,
) -> Replay:
    """Time a paper's way, ours, and every step between them.

    Args:
        model: an id of the zoo.
        res: side of the decoded image in pixels.
        batch: in place of the paper's.
        cap_s: of the timing of one variant, in seconds, over and above six blocks.
        threads: of a CPU; all physical cores unless given.

    Raises:
        UsageError: an unknown model, or a size that it cannot take.
        NothingMeasured: there is no such device here, or too little memory.
    """
    theirs, own = papers_way(paper, model, device, batch), ours(device)
    threads = (threads or environment.cores()) if device == "cpu" else None
    case = Case(model, res, int(own["batch"]), precision=str(own["precision"]), device=device, threads=threads)
    largest = replace(case, batch=max(case.batch, int(theirs["batch"])))
    if reason := unsupported(largest):
        raise NothingMeasured(f"{largest.id}: {reason}")
    rules = few_blocks(device, BLOCKS, cap_s)
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    with settings(threads):
        report("loading", 0)
        network = create(model, device=device, res=res)
        chain, flips, aside = _chain(paper, case, theirs, own, network)
        report("proving", 0)
        found = _proved(case, network)
        lanes = [variant.lane for variant in chain] + ([aside.pair[1].lane] if aside and aside.pair else [])
        try:
            load, seen = time_together(lanes, ReplayClock(clock_of(device)), rules, device, partial(report, "timing"))
        except torch.OutOfMemoryError:
            raise NothingMeasured(f"{largest.id}: out of memory, try a smaller --batch") from None
    verdict, reason = proof.verdict_of([*found, *seen])
    facts = {**environment.describe(), "load": load}
    return Replay(paper, case, theirs, own, chain, flips, aside, verdict, reason, facts, measured_at)


def replayed(
    paper: str,
    model: str,
    res: int,
    device: str,
    batch: int | None = None,
    out: Path | None = None,
    limits: Limits | None = None,
    report: JobReport = lambda *_: None,
) -> list[ReplayStep]:
    """The rows of a replay, measured in a process of its own; a file that holds them is read instead.

    Arguments and errors as of ``replay``; ``out`` is a result file.
    """
    theirs, own = papers_way(paper, model, device, batch), ours(device)
    name = run_name(paper, model, res, int(theirs["batch"]), device)
    gpu = survey.capability() if device == "cuda" else None
    reasons = reasons_not_to_flip(paper, device, theirs, own, gpu)
    aside = [] if reasons["precision"] else [MATMUL_TF32]
    steps = ["printed", "replayed", *KNOBS, *FIXED, *aside, "ours", "unexplained"]

    def measured(allowance: Allowance) -> list[Row]:
        rows: list[Row] = []

        def hear(message: process.Message) -> None:
            if "row" in message:
                rows.append(ReplayStep.from_json(message["row"]))
            else:
                report(name, message["what"], message["done"])

        order = {"paper": paper, "model": model, "res": res, "device": device, "batch": batch, "cap_s": allowance.cap_s}
        time_s = allowance.timeout_s
        try:
            ended = process.ask({"replay": order}, hear, time_s, WORKER)
        except TimeoutError:
            raise NothingMeasured(f"{name} was not finished after {time_s:.0f} s") from None
        if not rows:
            raise NothingMeasured(f"{name}: {ended.status()[1]}")
        return rows

    job = Job(tuple((f"{name}/{step}", None) for step in steps), measured, skip=lambda reason: ())
    rows = run_jobs([job], open_results(out), limits or Limits())
    return [row for row in rows if isinstance(row, ReplayStep)]


def run_name(paper: str, model: str, res: int, batch: int, device: str) -> str:
    """The first part of the ids of all rows of a replay; the knob follows."""
    return f"replay/{paper}/{model}/{res}px/b{batch}/{device}"


def few_blocks(device: str, blocks: int, cap_s: Second | None) -> Rules:
    """Rules that stop after that many blocks, or after the cap and six blocks, however wide the interval is then."""
    rules = replace(RULES[device], half_width=math.inf, min_s=0.0, min_blocks=blocks)
    if cap_s is None:
        return rules
    return replace(rules, cap_s=cap_s, warmup_s=min(rules.warmup_s, cap_s), block_s=min(rules.block_s, cap_s))


def time_together(
    lanes: Sequence[Lane], clock: Clock, rules: Rules, device: str, report: Callable[[float], None]
) -> tuple[dict[str, float | None], list[proof.Finding]]:
    """Time the lanes interleaved. Returns what the machine did meanwhile, and what that says about the numbers."""
    for lane in lanes:  # a step of each, so that cuDNN has chosen its algorithms before any warm-up is timed
        with lane.around():
            lane.run()
    with Recorder(device) as recorder:
        time_lanes(lanes, clock, rules, report, timed=recorder.timed)
    load = recorder.summary()
    return load, machine.check_machine(load, recorder.facts)


def _chain(
    paper: str, case: Case, theirs: Way, own: Way, model: nn.Module
) -> tuple[list[TimedWay], list[Flip], Flip | None]:
    def variant(way: Way) -> TimedWay:
        sets = input_sets(replace(case, batch=int(way["batch"])))
        return TimedWay(way, Lane(WayStep(way, model, sets), partial(conditions, way, model)))

    reasons = reasons_not_to_flip(paper, case.device, theirs, own)
    chain = [variant({knob: own[knob] if reasons[knob] else theirs[knob] for knob in KNOBS})]
    flips: list[Flip] = []
    aside = None
    for knob, reason in reasons.items():
        if reason:
            flips.append(Flip(knob, reason=reason))
            continue
        before = chain[-1]
        chain.append(variant({**before.way, knob: own[knob]}))
        flips.append(Flip(knob, (before, chain[-1])))
        if knob == "precision":
            aside = Flip(MATMUL_TF32, (before, variant({**before.way, knob: "tf32"})))
    return chain, flips, aside


def reasons_not_to_flip(
    paper: str, device: str, theirs: Way, own: Way, gpu: tuple[int, int] | None = None
) -> dict[str, str | None]:
    """Explain for each knob why it cannot be flipped on the device; None if it can.

    Args:
        gpu: its compute capability, for a process that must not use it; None to ask torch.
    """
    reasons = {knob: missing(knob, paper, device, theirs, own) for knob in KNOBS}
    return reasons | {"precision": reasons["precision"] or precision.unsupported("tf32", device, gpu)}


def input_sets(case: Case) -> list[Inputs]:
    """Draw ``proof.input_sets`` on the device of the case: x (B, C, H, W), t (B,) and y (B,) each."""
    return [(x.to(case.device), t.to(case.device), y.to(case.device)) for x, t, y in proof.input_sets(case)]


def _proved(case: Case, model: nn.Module) -> list[proof.Finding]:
    """Findings on the outputs of our own way."""
    sets = input_sets(case)
    with torch.inference_mode(), precision.applied(case.precision):
        output = model(*sets[0])
        return proof.prove(model, sets, output, case.precision, output).findings


@contextmanager
def settings(threads: int | None) -> Iterator[None]:
    """Settings of a measuring process: threads of a CPU, no denormals, cuDNN tuned for each shape."""
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(threads or before[0])
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.benchmark = before[1]
        torch.set_flush_denormal(False)
