"""Histories of commits with the recorded noise of a shared 2-core machine: with no step (A/A), and with one.

A point is the median of the blocks of one run: their noise as ``simulated_runs`` draws it from results/, times
the noise between runs. That is drawn from the repeats of a case in results/: each median over the mean of its repeats,
widened by sqrt(n / (n - 1)), since the mean is theirs.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, median

from simulated_runs import DRAWN, RESULTS, Recorded, recorded

from convbench.store import read
from convbench.timing.change_points import level_changes
from convbench.timing.compare import DELTA

LEAST = DELTA["cpu"]
BEFORE = 100  # commits before a step
WITHIN = 5  # commits, until it has to be found
APART = 5  # commits between a step and the place where it is found


@dataclass(frozen=True)
class Noise:
    """Logarithms: of the blocks of each recorded row, and between the runs of one case."""

    blocks: list[Recorded]
    between: list[float]


def noise() -> Noise:
    """The noise that results/ holds."""
    return Noise(recorded(), between_runs())


def between_runs() -> list[float]:
    """Noise between runs: of every case that a file of results/ holds several times, VALID or NOISY."""
    found = []
    for file in sorted(RESULTS.glob("cpu-*.jsonl")):
        rows = [row for row in read(file) if row["verdict"] in ("VALID", "NOISY")]
        rows.sort(key=lambda row: row["case"])
        for _, repeats in groupby(rows, key=lambda row: row["case"]):
            logs = [math.log(row["images_per_s"]) for row in repeats]
            if len(logs) > 1:
                wide = math.sqrt(len(logs) / (len(logs) - 1))
                found += [wide * (each - fmean(logs)) for each in logs]
    return found


def points(count: int, source: Noise, draw: random.Random, scale: float = 1.0) -> list[float]:
    """Images/s of ``count`` runs around 1."""
    row = draw.choice(source.blocks).noise  # one case
    return [math.exp(scale * (draw.choice(source.between) - _median_of_blocks(row, draw))) for _ in range(count)]


def _median_of_blocks(row: Sequence[float], draw: random.Random) -> float:
    """The median of as many blocks as the row has, drawn in parts that keep their autocorrelation."""
    drawn: list[float] = []
    while len(drawn) < len(row):
        start = draw.randrange(len(row) - DRAWN + 1)
        drawn += row[start : start + DRAWN]
    return median(drawn[: len(row)])


def false_alarms(histories: int, commits: int, source: Noise, scale: float = 1.0, seed: int = 0) -> list[int]:
    """The number of steps found in each history without one."""
    draw = random.Random(f"A/A {seed}")
    return [len(level_changes(points(commits, source, draw, scale), LEAST)) for _ in range(histories)]


def found_in_time(histories: int, step: float, source: Noise, scale: float = 1.0, seed: int = 0) -> float:
    """The share of histories in which a step is known once WITHIN commits with it are measured, at most APART off."""
    draw = random.Random(f"step {step} {seed}")
    found = 0
    for _ in range(histories):
        values = points(BEFORE + WITHIN, source, draw, scale)
        values[BEFORE:] = [value * (1 - step) for value in values[BEFORE:]]
        found += any(abs(each.position - BEFORE) <= APART and each.ratio < 1 for each in level_changes(values, LEAST))
    return found / histories


def table(histories: int, commits: int, steps: int) -> str:
    """False alarms and steps found, at the recorded noise and above it, as a Markdown table."""
    source = noise()
    head = f"| noise | false alarms in {histories} A/A histories of {commits} commits | per commit |"
    lines = [
        f"{head} 5 % steps found within {WITHIN} commits | 3.5 % | 10 % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for words, scale in (("as recorded", 1.0), ("1.5 times", 1.5), ("twice", 2.0), ("three times", 3.0)):
        alarms = sum(false_alarms(histories, commits, source, scale))
        shares = [f"{100 * found_in_time(steps, step, source, scale):.1f} %" for step in (0.05, 0.035, 0.10)]
        lines.append(f"| {words} | {alarms} | {100 * alarms / histories / commits:.3f} % | {' | '.join(shares)} |")
    return "\n".join(lines)
