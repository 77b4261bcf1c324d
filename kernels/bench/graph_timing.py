"""Timing with CUDA graphs: many launches without gaps, over rotating buffers (cold) or the same ones (hot).

Buffers rotate through more than three times the level-2 cache, so that each launch finds its inputs in memory; outputs
rotate with them.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...schema import Second
from ...timing.intervals import percentile
from .rows import Timing

LAUNCHES = 20
REPLAYS = 15
WARM_UP_S: Second = 0.15  # a GPU that was idle needs about 0.1 s to reach its clock


def buffer_sets(bytes_of_one: int, cache_bytes: int) -> int:
    """Sets of buffers that exceed three level-2 caches: at least 2, or a launch would find its own inputs."""
    return max(2, -(-3 * cache_bytes // max(1, bytes_of_one)) + 1)


def launches(sets: int) -> int:
    """Launches of one graph: whole rounds through the sets, and at least ``LAUNCHES``."""
    return sets * -(-LAUNCHES // sets)


def tensor_bytes(values: object) -> int:
    """Bytes of every tensor in a tuple of arguments or outputs."""
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    return sum(map(tensor_bytes, values)) if isinstance(values, tuple | list) else 0


@dataclass(frozen=True)
class Graph:
    """Recorded launches, to be replayed without Python."""

    graph: torch.cuda.CUDAGraph
    launches: int


def capture(run: Callable[..., Any], sets: Sequence[tuple[Any, ...]], keep: int, count: int | None = None) -> Graph:
    """Record ``count`` launches that rotate through the sets of arguments.

    Args:
        keep: Outputs that stay alive at a time, so that the next ones get other memory.
        count: Launches; whole rounds through the sets if None.
    """
    count = count or launches(len(sets))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for arguments in sets[:3]:  # compiles, loads modules, chooses algorithms: a graph cannot record that
            run(*arguments)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    alive: deque[Any] = deque(maxlen=keep)
    with torch.cuda.graph(graph):
        for arguments in itertools.islice(itertools.cycle(sets), count):
            alive.append(run(*arguments))
    return Graph(graph, count)


def time_interleaved(graphs: Sequence[Graph]) -> list[Timing]:
    """Time one launch of each graph. Replays are interleaved, so that a drift of the clock affects all graphs alike."""
    _warm_up(graphs)
    rounds = [[_events() for _ in graphs] for _ in range(REPLAYS)]
    for events in rounds:
        for each, (start, end) in zip(graphs, events, strict=True):
            start.record()
            each.graph.replay()
            end.record()
    torch.cuda.synchronize()
    return [
        timing_of([start.elapsed_time(end) / 1e3 / each.launches for start, end in column])
        for each, column in zip(graphs, zip(*rounds, strict=True), strict=True)
    ]


def _warm_up(graphs: Sequence[Graph]) -> None:
    """Replay all graphs for ``WARM_UP_S``, each at least once."""
    ends = time.perf_counter() + WARM_UP_S
    while True:
        for each in graphs:
            each.graph.replay()
        torch.cuda.synchronize()
        if time.perf_counter() >= ends:
            return


def timing_of(seconds: Sequence[float]) -> Timing:
    """Median and quantiles of repeated times."""
    p20, p80 = percentile(seconds, 0.2), percentile(seconds, 0.8)
    assert p20 is not None and p80 is not None
    return Timing(median(seconds), p20, p80)


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
