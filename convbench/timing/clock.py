"""Timing of steps in blocks, interleaved between the lanes of a comparison, until the interval is narrow enough.

Throughput comes from blocks of k steps queued between two waits, latency from single steps with a wait after each.
The table RULES sets block length, warm-up, stopping rule and caps; docs/protocol.md explains them.
"""

import gc
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from ..schema import Second, Step
from .intervals import median_interval

Inputs = tuple[Tensor, Tensor, Tensor]
"""x (B, C, H, W), t (B,) and y (B,) or (B, tokens, width)."""


class StoppedClock(RuntimeError):
    """The clock did not advance during a block."""


LATEST_STEPS = 5  # of the warm-up, that the length of a block follows from
LATENCY_STEPS = 100  # single steps waited for on a GPU, where blocks give no latency
LATENCY_S = 2.0  # no further single step after this time: a slow network has fewer steps, and no 99 % quantile


@dataclass(frozen=True)
class Rules:
    """Rules for warm-up, block length and stopping."""

    block_s: Second  # minimum length of a block
    warmup_s: Second
    min_s: Second  # of timed steps
    cap_s: Second  # maximum of timed steps, even if the interval is still wide
    min_blocks: int
    half_width: float  # of the 95 % interval, as a share of the median
    noise: float = 0.0  # of the run, as a share: what its A/A comparison could not exclude; 0 if unknown
    least_blocks: int = 6  # with six samples, (min, max) is a 95 % interval of the median


RULES = {
    "cpu": Rules(block_s=0.1, warmup_s=0.5, min_s=3, cap_s=20, min_blocks=15, half_width=0.02),
    "cuda": Rules(block_s=0.05, warmup_s=2, min_s=3, cap_s=30, min_blocks=20, half_width=0.005),
}


@dataclass(frozen=True)
class Block:
    """One timed block."""

    step_s: Second  # mean of its steps
    wall_s: Second  # whole block by a second clock, as a check
    total_s: Second  # whole block by the main clock
    singles: list[Second]  # each step, if the device runs them one by one


class CpuClock:
    """Host clock around each step: on a CPU a step has finished when it returns."""

    now = staticmethod(time.perf_counter)
    second = staticmethod(time.monotonic)

    def wait(self) -> None:
        """Do nothing: a CPU has no queue."""

    def block(self, run: Callable[[], object], steps: int) -> Block:
        stamps = [self.now()]
        wall = self.second()
        for _ in range(steps):
            run()
            stamps.append(self.now())
        wall = self.second() - wall
        singles = [b - a for a, b in itertools.pairwise(stamps)]
        total = stamps[-1] - stamps[0]
        return Block(total / steps, wall, total, singles)


class CudaClock:
    """Device events around a block of queued steps, with the host clock around the same block as a check."""

    def wait(self) -> None:
        torch.cuda.synchronize()

    def block(self, run: Callable[[], object], steps: int) -> Block:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        wall = time.perf_counter()
        start.record()
        for _ in range(steps):
            run()
        end.record()
        torch.cuda.synchronize()
        wall = time.perf_counter() - wall
        total = start.elapsed_time(end) / 1e3
        return Block(total / steps, wall, total, [])

    def single(self, run: Callable[[], object]) -> Second:
        """Time one step as its caller sees it, in seconds: from an idle device to the result."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - start


def single_steps(single: Callable[[], Second]) -> list[Second]:
    """Seconds of single steps: at most ``LATENCY_STEPS``, and none after ``LATENCY_S``; at least one."""
    steps = [single()]
    while len(steps) < LATENCY_STEPS and sum(steps) < LATENCY_S:
        steps.append(single())
    return steps


Clock = CpuClock | CudaClock


def clock_of(device: str) -> Clock:
    return CudaClock() if device == "cuda" else CpuClock()


@dataclass
class Lane:
    """A callable to time, and its blocks so far."""

    run: Callable[[], object]
    around: Callable[[], AbstractContextManager[object]] = (
        nullcontext  # entered around each block, outside the timed part
    )
    blocks: list[Block] = field(default_factory=list)
    steps_per_block: int = 1
    after: Callable[[], object] = lambda: None  # called after each timed block, when its clock has stopped

    @property
    def block_s(self) -> list[Second]:
        """Mean seconds per step of each block."""
        return [block.step_s for block in self.blocks]

    @property
    def timed_s(self) -> Second:
        return sum(block.total_s for block in self.blocks)

    def half_width(self) -> float:
        """Half-width of the 95 % interval, as a share of the median."""
        low, high = median_interval(self.block_s)
        return (high - low) / 2 / median(self.block_s)

    def finished(self, rules: Rules) -> bool:
        if len(self.blocks) < rules.least_blocks:
            return False
        if self.timed_s >= rules.cap_s:
            return True
        enough = len(self.blocks) >= rules.min_blocks and self.timed_s >= rules.min_s
        return enough and self.half_width() <= rules.half_width


def time_lanes(
    lanes: Sequence[Lane],
    clock: Clock,
    rules: Rules,
    report: Callable[[float], None] = lambda done: None,
    settled: Callable[[], bool] = lambda: True,
    timed: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Time lanes interleaved, one block each in the order A B B A, until the rules are met for every lane.

    One lane is a plain measurement; two or more are a comparison.

    Args:
        report: called after each round with the elapsed share of the cap.
        settled: a comparison continues until this returns True or a lane reaches the cap.
        timed: context entered around all blocks, without the warm-up.
    """
    for lane in lanes:
        with lane.around():
            _warm_up(lane, clock, rules)
    turn = 0
    with _no_garbage_collection(), timed():
        while not all(lane.finished(rules) for lane in lanes) or not (
            settled() or any(lane.timed_s >= rules.cap_s for lane in lanes)
        ):
            for lane in lanes if turn % 2 == 0 else lanes[::-1]:
                with lane.around():
                    lane.blocks.append(_block(lane, clock, lane.steps_per_block))
                    lane.after()
            turn += 1
            report(min(1.0, min(lane.timed_s for lane in lanes) / rules.cap_s))


@dataclass(eq=False)
class Rotation:
    """A callable that runs the step with the next input set at each call, so that no result can be reused.

    ``sets`` holds x (B, C, H, W), t (B,) and y (B,) or (B, tokens, width) each; ``latest`` is the number of the set
    that was run last, and ``output`` what came out, (B, C or 2C, H, W).
    """

    step: Step
    sets: Sequence[Inputs]
    latest: int = -1
    output: Tensor | None = None

    def __call__(self) -> None:
        self.latest = (self.latest + 1) % len(self.sets)
        self.output = self.step(*self.sets[self.latest])


def _warm_up(lane: Lane, clock: Clock, rules: Rules) -> None:
    """Run single steps. The least of the latest counts: of a stall, blocks would be so short that they never end."""
    spent, latest = 0.0, deque[Second](maxlen=LATEST_STEPS)
    while spent < rules.warmup_s:
        latest.append(_block(lane, clock, 1).total_s)
        spent += latest[-1]
    lane.steps_per_block = math.ceil(rules.block_s / min(latest))


def _block(lane: Lane, clock: Clock, steps: int) -> Block:
    block = clock.block(lane.run, steps)
    if block.total_s <= 0:  # the stopping rules would never be met
        raise StoppedClock("the clock did not advance during a block")
    return block


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
