"""Runs with the recorded noise of a shared 2-core machine, honest or with one bias, and the verdict each one gets.

The noise is that of the blocks of every row in results/: each row's series, divided by its median and by its own
drift, and drawn from by a moving-block bootstrap, which keeps the autocorrelation (Künsch 1989). Blocks are set to
0.1 s. The checks are those of the program: only the clock and the neighbour are made up.
"""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from convbench.checks import machine, output, timing
from convbench.timing import compare
from convbench.timing.clock import RULES, Block, CpuClock, Lane

RESULTS = Path(__file__).resolve().parents[2] / "results"
DRAWN = 4  # blocks that stay together in the bootstrap
BLOCK_S = 0.1
BIAS = 0.05
CONSTANT = 0.1  # of a block, that does not grow with its steps
NEIGHBOUR = 0.5  # cores
SKIPPED = 0.5  # of the work of a step, on zeros
KEPT = 0.25  # of the time of a step, saved on inputs seen before
ORDER = 0.1  # that the second of two equal cases is slower


@dataclass(frozen=True)
class Recorded:
    """Noise of one row: logarithms of its blocks without median and drift, and the telemetry beside them."""

    noise: list[float]
    load: Mapping[str, float | None]


@dataclass(frozen=True)
class Scenario:
    """A kind of run: how much noise, which bias, and whether its first case was timed twice."""

    name: str
    noise: float = 1.0
    drift: float = 0.0
    second_clock: float = 0.0
    constant: float = 0.0
    neighbour: float = 0.0
    on_zeros: float = 1.0  # time of a step, over that on the case's inputs
    on_unseen: float = 1.0
    order: float = 0.0
    repeat: bool = True


HONEST = (
    Scenario("honest"),
    Scenario("honest, first case too slow to be timed twice", repeat=False),
    Scenario("honest, noise twice as large", noise=2.0),
    Scenario("honest, noise four times as large", noise=4.0),
)
BIASED = (
    Scenario("drift of 5 % over the timed part", drift=BIAS),
    Scenario("second clock 5 % slower", second_clock=-BIAS),
    Scenario("second clock 5 % faster", second_clock=BIAS),
    Scenario("10 % of a block does not grow with its steps", constant=CONSTANT),
    Scenario("neighbour on half a core", neighbour=NEIGHBOUR),
    Scenario("half of the work skipped on zeros", on_zeros=1 - SKIPPED),
    Scenario("25 % more time on inputs not seen before", on_unseen=1 + KEPT),
    Scenario("the second of two equal cases 10 % slower", order=ORDER),
)


def recorded() -> list[Recorded]:
    """The noise of every stored row with blocks."""
    rows = [
        json.loads(line)
        for file in sorted(RESULTS.glob("cpu-*.jsonl"))
        for line in file.read_text("utf-8").splitlines()
    ]
    return [Recorded(_without_drift(row["block_s"]), row["load"] or {}) for row in rows if row.get("block_s")]


def verdicts(scenario: Scenario, sources: Sequence[Recorded], runs: int, seed: int = 0) -> list[tuple[str, str]]:
    """Verdict and reason of each of ``runs`` runs."""
    rng = random.Random(f"{scenario.name} {seed}")
    return [_verdict(scenario, rng.choice(sources), rng) for _ in range(runs)]


def share(found: Sequence[tuple[str, str]], *wanted: str) -> float:
    """Share of the runs with one of those verdicts."""
    return sum(verdict in wanted for verdict, _ in found) / len(found)


def table(runs: int) -> str:
    """Shares of the verdicts of every scenario, as a Markdown table."""
    sources = recorded()
    words = ("VALID", "NOISY", "SUSPECT", "INVALID")
    lines = [f"| {runs} runs each | {' | '.join(words)} |", "| --- " * 5 + "|"]
    for scenario in (*HONEST, *BIASED):
        found = verdicts(scenario, sources, runs)
        shares = [f"{share(found, verdict):.1%}".replace("%", " %") for verdict in words]
        lines.append(f"| {scenario.name} | {' | '.join(shares)} |")
    return "\n".join(lines)


class _Clock(CpuClock):
    """A step takes BLOCK_S times its cost, with the noise of the machine; a block has a constant part."""

    def __init__(self, draw: Callable[[int], list[float]], constant: float) -> None:
        self.draw, self.constant, self.cost = draw, constant, 0.0

    def step_of(self, cost: float) -> Callable[[], None]:
        """A step of that cost, in those of the case's own inputs."""

        def step() -> None:
            self.cost = cost

        return step

    def block(self, run: Callable[[], object], steps: int) -> Block:
        seconds = []
        for noise in self.draw(steps):
            run()
            seconds.append(BLOCK_S * self.cost * math.exp(noise))
        total = sum(seconds) + BLOCK_S * self.constant
        return Block(total / steps, total, total, [])


def _verdict(scenario: Scenario, source: Recorded, rng: random.Random) -> tuple[str, str]:
    def draw(count: int) -> list[float]:
        """Noise of successive blocks."""
        drawn: list[float] = []
        while len(drawn) < count:
            start = rng.randrange(len(source.noise) - DRAWN + 1)
            drawn += [scenario.noise * each for each in source.noise[start : start + DRAWN]]
        return drawn[:count]

    count = len(source.noise)
    pairs = [math.exp(each) for each in draw(2 * max(count, compare.LEAST_PAIRS))]
    blocks = []
    for position, each in enumerate(draw(count)):
        seconds = BLOCK_S * (math.exp(each) * (1 + scenario.drift * position / (count - 1)) + scenario.constant)
        blocks.append(Block(seconds, seconds * (1 + scenario.second_clock), seconds, []))
    clock = _Clock(draw, scenario.constant)
    lane = Lane(clock.step_of(1.0), blocks=blocks)
    first, second = pairs[0::2], [(1 + scenario.order) * each for each in pairs[1::2]]
    again = (first, second) if scenario.repeat else (lane.block_s, None)
    rules = replace(RULES["cpu"], noise=compare.noise(*again, "cpu") or 0.0)
    zeros = clock.step_of(scenario.on_zeros)
    load: dict[str, Any] = {**source.load}
    load["cores_of_others"] = (load.get("cores_of_others") or 0.0) + scenario.neighbour
    found = [
        timing.check_linearity(lane, clock, "cpu", rules.noise),
        timing.check_zeros(timing.zeros_ratio(lane, zeros, clock), lane, zeros, clock, rules.noise),
        timing.check_fresh(lane, lambda: clock.step_of(scenario.on_unseen), clock, rules.noise),
        scenario.repeat and timing.check_repeat(compare.compare_blocks(first, second, compare.DELTA["cpu"])),
        timing.check_clocks(blocks),
        timing.check_drift(lane.block_s, rules),
        timing.check_interval(lane, rules),
        *machine.check_machine(load, {}),
    ]
    return output.verdict_of([finding for finding in found if finding])


def _without_drift(blocks: Sequence[float]) -> list[float]:
    logs = [math.log(each) for each in blocks]
    slope = median((b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(logs), 2))
    flat = [each - slope * position for position, each in enumerate(logs)]
    middle = median(flat)
    return [each - middle for each in flat]
