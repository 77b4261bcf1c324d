"""Ways of timing of a replay, carried out exactly as published, including their flaws."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from torch import nn

from .. import precision
from ..measure.training import checkpointed
from ..schema import Second
from ..timing.clock import Block, Clock, CudaClock, Inputs, Lane
from .differences import Way


class WayStep:
    """Step of a way of timing: a forward pass on the next set of x (B, C, H, W), t (B,) and y (B,)."""

    def __init__(self, way: Way, model: nn.Module, sets: list[Inputs]) -> None:
        words = str(way["statistic"]).split()
        self.steps = (
            int(words[2]) if words[0] == "total" else None
        )  # from "total of 20 steps"; None if the rules decide
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
    """Clock that times each way by the conventions of its WayStep."""

    def __init__(self, own: Clock) -> None:
        self.own = own

    def wait(self) -> None:
        self.own.wait()

    def block(self, run: Callable[[], object], steps: int) -> Block:
        assert isinstance(run, WayStep)
        if isinstance(self.own, CudaClock):
            run()  # allocates memory that the previous block may have released
            self.wait()
        if run.waits and run.steps is None:
            return self.own.block(run, steps)
        if run.steps and isinstance(self.own, CudaClock):
            torch.cuda.empty_cache()  # as in the released script, whose first timed step allocates the memory again
        count = run.steps or steps
        start = perf_counter()
        for _ in range(count):
            run()
        if run.waits:
            self.wait()
        total = perf_counter() - start
        self.wait()  # not timed: queued work must not run into the next block
        return Block(total / count, total, total, [])


@contextmanager
def conditions(way: Way, model: nn.Module) -> Iterator[None]:
    """Set autograd, precision and checkpointing as the way requires."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode() if way["autograd"] == "inference_mode" else torch.no_grad())
        stack.enter_context(precision.applied(str(way["precision"])))
        if way["checkpointing"] == "on":
            stack.enter_context(checkpointed(model))
        yield


@dataclass
class TimedWay:
    """A way of timing and its timed blocks."""

    way: Way
    lane: Lane

    @property
    def image_s(self) -> list[Second]:
        """Seconds per image of each block."""
        return [seconds / int(self.way["batch"]) for seconds in self.lane.block_s]

    @property
    def images_per_s(self) -> float:
        return 1 / median(self.image_s)
