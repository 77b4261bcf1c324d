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
    lines = [f"| {runs} runs each | VALID | NOISY | SUSPECT |", "| --- | --- | --- | --- |"]
    for scenario in (*HONEST, *BIASED):
        found = verdicts(scenario, sources, runs)
        shares = [f"{share(found, verdict):.1%}".replace("%", " %") for verdict in ("VALID", "NOISY", "SUSPECT")]
        lines.append(f"| {scenario.name} | {' | '.join(shares)} |")
    return "\n".join(lines)


class _Clock(CpuClock):
    """A step takes BLOCK_S with the noise of the machine; a block has a constant part."""

    def __init__(self, draw: Callable[[int], list[float]], constant: float) -> None:
        self.draw, self.constant = draw, constant

    def block(self, run: Callable[[], object], steps: int) -> Block:
        total = BLOCK_S * (sum(map(math.exp, self.draw(steps))) + self.constant)
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
    lane = Lane(lambda: None, blocks=blocks)
    again = (pairs[0::2], pairs[1::2]) if scenario.repeat else (lane.block_s, None)
    rules = replace(RULES["cpu"], noise=compare.noise(*again, "cpu") or 0.0)
    load: dict[str, Any] = {**source.load}
    load["cores_of_others"] = (load.get("cores_of_others") or 0.0) + scenario.neighbour
    found = [
        timing.check_linearity(lane, _Clock(draw, scenario.constant), "cpu", rules.noise),
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
