"""A GPU for the bench of the kernels whose times are made up."""

from dataclasses import replace
from pathlib import Path

from convbench.kernels.bench.plan import COMPILE_S, ROW_S, Work
from convbench.kernels.bench.rows import Measured, Timing, row_for
from convbench.kernels.schema import Shape
from convbench.run.kernels import held_timings, kernel_timings
from convbench.schema import KernelTiming

SHAPE = Shape("dic_xl", 256, 1, channels=384, height=32, width=32)


def pass_bytes(shape: Shape) -> int:
    """Bytes of one pass over a sample in half precision."""
    return 2 * shape.height * shape.width * shape.channels


def timing(seconds: float) -> Timing:
    return Timing(seconds, 0.9 * seconds, 1.2 * seconds)


MEASURED = Measured(
    cold=timing(50e-6),
    hot=timing(40e-6),
    eager=timing(150e-6),
    compiled=timing(75e-6),
    why_not_compiled="",
    launch_s=1.5e-6,
    copy_bytes_per_s=4e12,
    peak_flops_per_s=6e14,
    error=1.6e-3,
    error_eager=2.5e-3,
)


class SimulatedGpu:
    """Rows take the seconds that the plan expects, times ``slower``."""

    def __init__(self, slower: float = 1.0) -> None:
        self.now, self.slower = 0.0, slower
        self.asked: list[tuple[str, bool]] = []  # id, and whether torch.compile was measured
        self.fails: dict[str, BaseException] = {}

    def measure(self, work: Work) -> KernelTiming:
        return row_for(work, self.time, lambda work: {"gpu": "simulated", "registers": 52})

    def time(self, work: Work) -> Measured:
        self.asked.append((work.id, not work.without_compile))
        self.now += self.slower * (ROW_S + (0 if work.without_compile else COMPILE_S))
        if work.id in self.fails:
            raise self.fails[work.id]
        if work.without_compile:
            return replace(MEASURED, compiled=None, why_not_compiled=work.without_compile)
        return MEASURED

    def run(self, works: list[Work], out: Path | None = None, budget: float = 1e6) -> list[KernelTiming]:
        return list(kernel_timings(works, held_timings(out), self.measure, budget, clock=lambda: self.now))
