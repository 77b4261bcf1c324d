"""Data-parallel throughput: every rank runs the same case on a device of its own, all started together.

A round is a block of the first rank alone, then a block of all ranks after a barrier, or the other way round. The speed
of the world counts the images of all ranks until the last of them has finished; efficiency is that speed over the ranks
times the speed of one alone, in pairs of blocks. Only one gathered number a block passes between the ranks.
"""

import itertools
import math
import os
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from .. import environment, precision
from ..checks.output import Finding, check_during, verdict_of, worst_error
from ..sampling.shards import World
from ..schema import Case, Measurement, Second
from ..timing import compare, derived
from ..timing.clock import Rotation, Rules, clock_of
from ..timing.intervals import median_interval, percentile, ratio_interval
from .failure import failure, wrong
from .opening import open_case, subject_of

LEAST_ROUNDS = 6  # with six samples, (min, max) is a 95 % interval of the median


def measure(case: Case, rules: Rules, world: World) -> Measurement | None:
    """Measure a case on this rank; every rank calls it. Returns the row on the first rank, None on the others."""
    stamp: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment.describe(),
    }
    known: dict[str, Any] = {}
    with ExitStack() as stack, torch.inference_mode():
        try:
            rank = _Rank(case, rules, world, stack)
            known = rank.opened.facts()
            problem = wrong(rank.opened.proof.findings) if rank.opened.proof.findings else None
        except Exception as error:  # a backend may raise anything, on one rank alone too
            problem = failure(error)
        problems = _gathered(problem)
        known |= next(
            ({**each, "reason": f"rank {r}: {each['reason']}"} for r, each in enumerate(problems) if each), {}
        )
        if not any(problems):
            known |= rank.timed()
    return Measurement.of(case, **stamp, **known) if world.rank == 0 else None


class _Rank:
    """This rank's step, and the blocks of all ranks."""

    def __init__(self, case: Case, rules: Rules, world: World, stack: ExitStack) -> None:
        self.case, self.rules, self.world = case, rules, world
        if case.threads:
            torch.set_num_threads(case.threads)
        self.clock = clock_of(case.device)
        subject = subject_of(case, lambda what, done: None)
        self.opened = open_case(replace(case, world=1), subject, subject.model, self.clock, stack)
        self.rotation = Rotation(self.opened.step, self.opened.sets)
        self.errors: list[float] = []

    def timed(self) -> dict[str, Any]:
        """Time rounds until the interval is narrow enough or the cap is reached: the keys of the row."""
        with precision.applied(self.case.precision):
            steps = self._steps()
            alone: list[Second] = []
            together: list[list[Second]] = []
            started = time.monotonic()
            for number in itertools.count():
                for kind in ("alone", "together") if number % 2 else ("together", "alone"):
                    if kind == "alone":
                        alone += [_gathered(self._block(steps) if self.world.rank == 0 else None)[0]]
                    else:
                        dist.barrier()
                        together += [_gathered(self._block(steps))]
                if _gathered(self._enough(alone, together, time.monotonic() - started))[0]:
                    break
        return self._row(alone, together, steps)

    def _steps(self) -> int:
        """Warm up, and choose the steps of a block for all ranks."""
        started, single = time.monotonic(), math.inf
        while time.monotonic() - started < self.rules.warmup_s or single == math.inf:
            single = min(single, self.clock.block(self.rotation, 1).total_s)
        return max(1, math.ceil(self.rules.block_s / max(_gathered(single))))

    def _block(self, steps: int) -> Second:
        block = self.clock.block(self.rotation, steps)
        assert self.rotation.output is not None
        self.errors.append(worst_error(self.rotation.output, self.opened.proof.outputs[self.rotation.latest]))
        return block.step_s

    def _enough(self, alone: list[Second], together: list[list[Second]], spent_s: Second) -> bool:
        if len(together) < LEAST_ROUNDS:
            return False
        slowest = [max(each) for each in together]
        low, high = median_interval(slowest)
        narrow = (high - low) / 2 <= self.rules.half_width * median(slowest)
        return spent_s >= self.rules.cap_s or (narrow and spent_s >= self.rules.min_s)

    def _row(self, alone: list[Second], together: list[list[Second]], steps: int) -> dict[str, Any]:
        case, world = self.case, self.world.size
        slowest = [max(each) for each in together]
        speed, low, high = derived.speeds(case.batch * world, slowest)
        efficiency, efficiency_low, efficiency_high = ratio_interval(list(zip(alone, slowest, strict=True)))
        ranks = [[each[r] for each in together] for r in range(world)]
        noise = compare.noise(slowest, None, case.device) or compare.DELTA[case.device]
        straggler, finding = self._straggler(ranks, noise)
        half = (high - low) / 2 / speed
        wide = f"interval of ±{half:.1%} exceeds the requested ±{self.rules.half_width:.1%}"
        findings = [
            check_during(self.errors, case.precision),
            finding,
            Finding("WIDE", wide, severity="NOISY") if half > self.rules.half_width else None,
        ]
        verdict, reason = verdict_of([found for found in findings if found])
        return {
            "status": "ok",
            "unranked": f"the images/s of {world} processes together",
            "verdict": verdict,
            "reason": reason,
            "images_per_s": speed,
            "images_per_s_low": low,
            "images_per_s_high": high,
            "latency_s_p50": percentile(slowest, 0.5) if steps == 1 else None,
            "latency_s_p90": percentile(slowest, 0.9, at_least=10) if steps == 1 else None,
            "latency_s_p99": percentile(slowest, 0.99, at_least=100) if steps == 1 else None,
            "blocks": len(slowest),
            "steps_per_block": steps,
            "block_s": slowest,
            "rank_images_per_s": [case.batch / median(each) for each in ranks],
            "efficiency": efficiency,
            "efficiency_low": efficiency_low,
            "efficiency_high": efficiency_high,
            "straggler": straggler,
        }

    def _straggler(self, ranks: list[list[Second]], noise: float) -> tuple[str | None, Finding | None]:
        """Check RANK: no rank takes longer than the median of the others by more than the noise, in each pair."""
        names = _gathered(self._name())
        found = []
        for number, own in enumerate(ranks):
            others = [median(block) for block in zip(*(each for each in ranks if each is not own), strict=True)]
            ratio, low, high = ratio_interval(list(zip(own, others, strict=True)))
            if low > 1 + noise:
                found.append(
                    (
                        ratio,
                        f"rank {number} on {names[number]} takes {ratio:.2f}x [{low:.2f}, {high:.2f}] as "
                        "long as the others",
                    )
                )
        if not found:
            return None, None
        words = max(found)[1]
        return words, Finding("RANK", words, severity="SUSPECT")

    def _name(self) -> str:
        where = (
            f"GPU {torch.cuda.current_device()}"
            if self.case.device == "cuda"
            else (f"cores {','.join(map(str, sorted(os.sched_getaffinity(0))))}")
        )
        return f"{socket.gethostname()}, {where}"


def _gathered(value: Any) -> list[Any]:
    """The value of each rank, in their order."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
