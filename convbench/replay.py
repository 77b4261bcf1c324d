"""A paper's way of timing and ours, in turns in one process: what each difference does to the number on this machine.

The chain starts with the paper's way, as far as its card knows it, and flips one knob at a time until it has become
ours. All variants are timed in turns, a block each, so that each knob's ratio comes from paired blocks. A variant
with a flaw is timed as it is, and its row names the flaw; our own way is proved, as for every number of ours.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from . import environment, precision, proof
from .clock import RULES, Block, Clock, CudaClock, Inputs, Lane, clock_of, time_lanes
from .errors import NothingMeasured
from .knobs import KNOBS, Way, missing, ours, papers_way
from .models import create
from .runner import unsupported
from .schema import Case, Second

BLOCKS = 12  # of each variant: what is wanted is a ratio with its interval, however narrow that is
MATMUL_TF32 = "matmul_tf32"  # the other way out of torch-default, beside the chain

Report = Callable[[str, float], None]


class Run:
    """Each call is one step of a variant."""

    def __init__(self, way: Way, model: nn.Module, sets: list[Inputs]) -> None:
        words = str(way["statistic"]).split()
        self.steps = int(words[2]) if words[0] == "total" else None  # "total of 20 steps"; None for blocks by the rules
        self.waits = way["sync_end"] == "yes"
        self.model = model
        self.inputs = itertools.cycle(_inputs(way, sets))

    def __call__(self) -> object:
        return self.model(*next(self.inputs))


def _inputs(way: Way, sets: list[Inputs]) -> list[Inputs]:
    if str(way["input"]).startswith("uniform"):
        x, t, y = sets[0]
        sets = [(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device), t, y)]
    return [(x, t[:1], y[:1]) for x, t, y in sets] if way["conditioning"] == "[1]" else sets


class ReplayClock(CudaClock):
    """Times each variant in the way of its Run."""

    def __init__(self, own: Clock) -> None:
        self.own = own

    def wait(self) -> None:
        self.own.wait()

    def block(self, run: Callable[[], object], steps: int) -> Block:
        assert isinstance(run, Run)
        if isinstance(self.own, CudaClock):
            run()  # takes the memory that the block before may have given back
            self.wait()
        if run.waits and run.steps is None:
            return self.own.block(run, steps)
        if run.steps and isinstance(self.own, CudaClock):
            torch.cuda.empty_cache()  # as the released script does: its first timed step takes the memory again
        count = run.steps or steps
        start = perf_counter()
        for _ in range(count):
            run()
        if run.waits:
            self.wait()
        total = perf_counter() - start
        self.wait()  # not timed: what is still queued must not run into the next block
        return Block(total / count, total, total, [])


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[int]:
    """Run each block of a model under activation checkpointing; yields how many blocks there are."""
    blocks = [block for stage in model.modules() if isinstance(stage, nn.ModuleList) for block in stage]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield len(blocks)
    finally:
        for block in blocks:
            del block.forward  # that of the class shows again


@contextmanager
def _around(way: Way, model: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode() if way["autograd"] == "inference_mode" else torch.no_grad())
        stack.enter_context(precision.applied(str(way["precision"])))
        if way["checkpointing"] == "on":
            stack.enter_context(checkpointed(model))
        yield


@dataclass
class Variant:
    """A way, and what timing it gave."""

    way: Way
    lane: Lane

    @property
    def image_s(self) -> list[Second]:
        """Seconds an image, of each block."""
        return [seconds / int(self.way["batch"]) for seconds in self.lane.block_s]

    @property
    def images_per_s(self) -> float:
        return 1 / median(self.image_s)


@dataclass(frozen=True)
class Flip:
    """One knob: the variants before and after it, or the reason why it cannot be flipped here."""

    knob: str
    pair: tuple[Variant, Variant] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Replay:
    """What came of it."""

    paper: str
    case: Case  # ours
    theirs: Way
    own: Way
    chain: list[Variant]  # from the paper's to ours
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
    rules = replace(RULES[device], half_width=1.0, min_s=0.0, min_blocks=BLOCKS)
    rules = rules if cap_s is None else replace(rules, cap_s=cap_s, warmup_s=min(rules.warmup_s, cap_s))
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    with settings(threads):
        report("loading", 0)
        network = create(model, device=device, res=res)
        chain, flips, aside = _chain(paper, case, theirs, own, network)
        report("proving", 0)
        verdict, reason = _proved(case, network)
        lanes = [variant.lane for variant in chain] + ([aside.pair[1].lane] if aside and aside.pair else [])
        try:
            tune(lanes)
            time_lanes(lanes, ReplayClock(clock_of(device)), rules, partial(report, "timing"))
        except torch.OutOfMemoryError:
            raise NothingMeasured(f"{largest.id}: out of memory, try a smaller --batch") from None
    facts = environment.describe()
    return Replay(paper, case, theirs, own, chain, flips, aside, verdict, reason, facts, measured_at)


def tune(lanes: Sequence[Lane]) -> None:
    """One step of each, so that cuDNN has chosen its algorithms before any warm-up is timed."""
    for lane in lanes:
        with lane.around():
            lane.run()


def _chain(
    paper: str, case: Case, theirs: Way, own: Way, model: nn.Module
) -> tuple[list[Variant], list[Flip], Flip | None]:
    def variant(way: Way) -> Variant:
        sets = input_sets(replace(case, batch=int(way["batch"])))
        return Variant(way, Lane(Run(way, model, sets), partial(_around, way, model)))

    reasons = {knob: missing(knob, paper, case.device, theirs, own) for knob in KNOBS}
    reasons["precision"] = reasons["precision"] or precision.unsupported("tf32", case.device)
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


def input_sets(case: Case) -> list[Inputs]:
    """``proof.input_sets`` on the device of the case."""
    return [(x.to(case.device), t.to(case.device), y.to(case.device)) for x, t, y in proof.input_sets(case)]


def _proved(case: Case, model: nn.Module) -> tuple[str, str]:
    """Verdict and reason of our own way."""
    sets = input_sets(case)
    with torch.inference_mode(), precision.applied(case.precision):
        output = model(*sets[0])
        return proof.report(proof.prove(model, sets, output, case.precision, output).findings)


@contextmanager
def settings(threads: int | None) -> Iterator[None]:
    """What a measuring process sets once: threads of a CPU, no denormals, cuDNN tuned for each shape."""
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
