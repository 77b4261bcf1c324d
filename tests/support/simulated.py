"""A clock whose time is made up, so that what follows from times can be tested to the digit on a busy machine."""

from collections.abc import Callable

from convbench.timing.clock import Block, CpuClock, Rules

QUICK = Rules(block_s=0.005, warmup_s=0.01, min_s=0.02, cap_s=0.1, min_blocks=6, half_width=0.02)


class Simulated(CpuClock):
    """Runs every step once; the block takes what ``takes`` says of its first step's number, its length and its lane."""

    def __init__(self, takes: Callable[[int, int, int], float] = lambda first, steps, lane: 0.01 * steps) -> None:
        self.takes = takes
        self.steps = 0
        self.lanes: list[object] = []  # what is run, by first appearance
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
