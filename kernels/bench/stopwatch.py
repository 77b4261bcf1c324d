"""Times one op on a GPU: CUDA graphs of many launches, over rotating buffers (cold) and over the same ones (hot).

A graph leaves no gaps between launches, so that short kernels are timed and not Python. Buffers rotate through more
than three times the level-2 cache, so that each launch finds its inputs in memory; outputs rotate with them.
"""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ... import precision
from ...timing.intervals import percentile
from .. import aot
from ..check import BATCH, Arguments, errors
from ..schema import DTYPES
from .bench import ON_CORES, Measured, Timing, Unmeasured, Work

LAUNCHES = 20
REPLAYS = 15
COPY_BYTES = 2**30
PRODUCT_SIDE = {"fp32": 4096, "fp16": 8192, "bf16": 8192}


def buffer_sets(bytes_of_one: int, cache_bytes: int) -> int:
    """How many sets of buffers outgrow three level-2 caches: at least 2, or a launch would find its own inputs."""
    return max(2, -(-3 * cache_bytes // max(1, bytes_of_one)) + 1)


def launches(sets: int) -> int:
    """Launches of one graph: whole turns through the sets, and enough of them."""
    return sets * -(-LAUNCHES // sets)


def tensor_bytes(values: object) -> int:
    """Bytes of every tensor in a tuple of arguments or outputs."""
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    return sum(map(tensor_bytes, values)) if isinstance(values, tuple | list) else 0


class Stopwatch:
    """What one GPU gives: its copy rate, the rate of its products, and the times of one op after another."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = device
        self.cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
        self.source = torch.randn(COPY_BYTES // 4, device=device)
        self.target = torch.empty_like(self.source)
        self.peaks: dict[str, float] = {}

    def measure(self, work: Work, with_compile: bool) -> Measured:
        """Raises Unmeasured where memory runs out or the op itself fails."""
        try:
            with torch.inference_mode(), precision.applied(work.precision):
                return self._measure(work, with_compile)
        except torch.OutOfMemoryError as error:
            raise Unmeasured("out_of_memory", str(error).partition(".")[0]) from None
        except Exception as error:  # a kernel that does not compile or launch here; the row says so
            raise Unmeasured("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        finally:
            torch.compiler.reset()
            torch.cuda.empty_cache()

    def _measure(self, work: Work, with_compile: bool) -> Measured:
        kernel, dtype = work.kernel, DTYPES[work.precision]
        error, error_eager, _ = errors(kernel, kernel.inputs(work.shape, BATCH, dtype, self.device, 0))

        def buffers(seed: int) -> Arguments:
            return kernel.inputs(work.shape, work.batch, dtype, self.device, seed)

        first = buffers(1)
        count = buffer_sets(tensor_bytes(first) + tensor_bytes(kernel.op(*first)), self.cache_bytes)
        sets = [first, *(buffers(seed) for seed in range(2, count + 1))]
        graphs = {
            "cold": captured(kernel.op, sets, keep=count),
            "hot": captured(kernel.op, [first], keep=1),
            "eager": captured(kernel.eager, sets, keep=count),
        }
        why_not = "" if with_compile else "torch.compile is measured at the largest batch"
        if with_compile:
            try:
                graphs["compile"] = captured(torch.compile(kernel.eager, dynamic=False), sets, keep=count)
            except Exception as failure:  # the other columns are good without it
                why_not = f"torch.compile failed: {type(failure).__name__}: {' '.join(str(failure).split())[:150]}"
        timed = dict(zip(graphs, in_turns(list(graphs.values())), strict=True))
        return Measured(
            cold=timed["cold"],
            hot=timed["hot"],
            eager=timed["eager"],
            compiled=timed.get("compile"),
            why_not_compiled=why_not,
            copy_bytes_per_s=self.copy_rate(),
            peak_flops_per_s=self.peak("fp32" if kernel.name in ON_CORES else work.precision),
            error=error,
            error_eager=error_eager,
        )

    def copy_rate(self) -> float:
        """Bytes read and written a second by a copy far larger than the cache; measured anew for every row."""
        (timing,) = in_turns([captured(self.target.copy_, [(self.source,)], keep=1, count=4)])
        return 2 * COPY_BYTES / timing.p50

    def peak(self, label: str) -> float:
        """FLOP/s of a large product of the library in that precision, without TF32."""
        if label not in self.peaks:
            n = PRODUCT_SIDE[label]
            a, b = (torch.randn(n, n, device=self.device).to(DTYPES[label]) for _ in range(2))
            (timing,) = in_turns([captured(torch.mm, [(a, b)], keep=1, count=4)])
            self.peaks[label] = 2 * n**3 / timing.p50
        return self.peaks[label]


def facts(work: Work) -> dict[str, Any]:
    """What the number was measured with; registers and stack as the compile gate has them, null where it has not."""
    import triton

    from ... import __version__

    gpu = torch.cuda.get_device_properties(0)
    target = f"sm_{gpu.major}{gpu.minor}"
    stored = aot.budgeted(work.kernel.name, work.precision, target, triton.__version__)
    return {
        "gpu": gpu.name,
        "target": target,
        "registers": stored.get("registers"),
        "stack": stored.get("stack"),
        "sm_clock_hz": sm_clock(),
        "convbench": __version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def sm_clock() -> float | None:
    """Hz, just after the work; None where NVML or its Python package is missing."""
    try:
        return 1e6 * torch.cuda.clock_rate()
    except Exception:  # pynvml raises classes of its own
        return None


@dataclass(frozen=True)
class Graph:
    """Launches recorded, to be replayed without Python."""

    graph: torch.cuda.CUDAGraph
    launches: int


def captured(run: Callable[..., Any], sets: Sequence[Arguments], keep: int, count: int | None = None) -> Graph:
    """A graph of ``count`` launches over the sets in turn; as many outputs stay alive at a time as ``keep`` says."""
    count = count or launches(len(sets))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for arguments in sets[:3]:  # compiles, loads modules, chooses algorithms: none of it can be captured
            run(*arguments)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    alive: deque[Any] = deque(maxlen=keep)
    with torch.cuda.graph(graph):
        for arguments in itertools.islice(itertools.cycle(sets), count):
            alive.append(run(*arguments))
    return Graph(graph, count)


def in_turns(graphs: Sequence[Graph]) -> list[Timing]:
    """Seconds of one launch in each graph. The graphs are replayed in turns, so that a drift meets all alike."""
    for each in graphs:
        each.graph.replay()
    events = [[_events() for _ in graphs] for _ in range(REPLAYS)]
    for turn in events:
        for each, (start, end) in zip(graphs, turn, strict=True):
            start.record()
            each.graph.replay()
            end.record()
    torch.cuda.synchronize()
    return [
        timing_of([start.elapsed_time(end) / 1e3 / each.launches for start, end in column])
        for each, column in zip(graphs, zip(*events, strict=True), strict=True)
    ]


def timing_of(seconds: Sequence[float]) -> Timing:
    p20, p80 = percentile(seconds, 0.2), percentile(seconds, 0.8)
    assert p20 is not None and p80 is not None
    return Timing(median(seconds), p20, p80)


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
