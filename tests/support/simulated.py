"""A simulated machine with given times and rates, so that numbers can be tested exactly on a busy machine."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

from convbench.timing.calibration import Rates
from convbench.timing.clock import Block, CpuClock, Rules

QUICK = Rules(block_s=0.005, warmup_s=0.01, min_s=0.02, cap_s=0.1, min_blocks=6, half_width=0.02)


class Simulated(CpuClock):
    """Clock that runs every step once; ``takes`` gives a block's seconds by first step, number of steps and lane."""

    def __init__(self, takes: Callable[[int, int, int], float] = lambda first, steps, lane: 0.01 * steps) -> None:
        self.takes = takes
        self.steps = 0
        self.lanes: list[object] = []  # callables in order of first appearance
        self.order: list[int] = []  # the lane of each block

    def block(self, run: Callable[[], object], steps: int) -> Block:
        if run not in self.lanes:
            self.lanes.append(run)
        lane = self.lanes.index(run)
        self.order.append(lane)
        for _ in range(steps):
            run()
        total = self.takes(self.steps, steps, lane)
        self.steps += steps
        return Block(total / steps, total, total, [total / steps] * steps)


RATES = Rates(
    matmul_flops_per_s=2e12,
    conv1x1_flops_per_s=1e12,
    conv3x3_flops_per_s=3e12,
    copy_bytes_per_s=1e12,
    launches_per_s=1e6,
)


class Unwatched:
    """An idle machine in place of the sampler, which is a separate process and takes time to start."""

    facts: ClassVar[dict[str, Any]] = {}
    reason = ""

    def __init__(self, device: str) -> None:
        self.timed = nullcontext

    def __enter__(self) -> "Unwatched":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def outside(self) -> tuple[float, float] | None:
        """No other process looks at its clock."""

    def summary(self) -> dict[str, Any]:
        return {"cores_of_others": 0.0}
