"""``convbench pareto``: which way to sample gives the most images/s at the same quality.

Every way samples the same images, batch by batch interleaved with the full sampler. Beside each method stands plain
sampling with as many steps as fit into its time. What is slower and worse than another is stopped early. All ways of
one model and seed run in one process, which is one job of a launcher: later ones depend on how long earlier ones took.
Images are judged by a shipped classifier of such images, or by a feature network and reference statistics of the user.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .. import environment, store
from ..measure.quality import Race, Runner, SamplingWay, interleaved
from ..sampling import quality, verdict
from ..schema import QualityRow, Row
from ..timing.intervals import median_interval, ratio_interval
from ..tolerances import QUALITY_MARGINS
from ..weights import locate
from . import fleet
from .cases import staged
from .frontier_plan import FrontierRequest, PlannedRace, expected_s, planned
from .jobs import Limits, Report
from .launchers.job import Order

UNFINISHED = "the time was up before all images were sampled"
LEAST_BATCHES = 6  # with six samples, (min, max) is a 95 % interval of the median
LOOKS = (0.3, 0.6)  # shares of the images after which what is dominated is stopped


def measured_all(
    races: Sequence[PlannedRace], results: store.Results, report: Report = lambda *_: None
) -> Iterator[QualityRow]:
    """The rows of races one after the other, which share the budget; none after one that Ctrl-C or its end stopped."""
    budget_s = races[0].wanted.budget_s
    ends = time.monotonic() + (budget_s or math.inf)
    for number, found in enumerate(races):
        share_s = (ends - time.monotonic()) / (len(races) - number)
        if share_s <= 0:
            break
        rows = measured(replace(found, wanted=replace(found.wanted, budget_s=share_s)), results, report)
        reasons = []
        for row in rows:
            reasons.append(row.reason)
            yield row
        if budget_s is None and any(map(is_unfinished, reasons)):
            break


def launched(
    races: Sequence[PlannedRace], results: store.Results, launcher: str, report: Report, say: fleet.Say
) -> Iterator[QualityRow]:
    """The rows of races, each a job of a launcher: those that the file holds, then the others as they come.

    A race that could not run has no rows and is run again by the same command; ``say`` gets a line on it.
    """
    results.rows = [row for row in results.rows if not is_unfinished(row.reason)]
    tasks = []
    for found in races:
        if all(results.find((found.case_of(way), None)) for way in found.ways):
            yield from (row for row in results.rows if isinstance(row, QualityRow) and is_of(row, found))
        else:
            tasks.append(_task(found, launcher))
    for row in fleet.launched(launcher, tasks, results, Limits(), report, say):
        assert isinstance(row, QualityRow)
        yield row


def _task(found: PlannedRace, launcher: str) -> fleet.Task:
    """One race as a job, which ends in time by a budget of its own."""
    wanted = found.wanted
    limit_s = wanted.budget_s or Limits().timeout_s
    if wanted.budget_s is None and (wanted.device == "cpu" or launcher == "local"):
        limit_s = fleet.OF_ESTIMATE * expected_s(found) + fleet.START_S
    files = [str(path.resolve()) for path in wanted.artefacts]
    gpu = wanted.device == "cuda"
    cores = 0 if gpu else wanted.threads or 0
    content = {
        "frontier": asdict(replace(wanted, budget_s=limit_s)) | {"artefacts": files},
        "stage": staged(wanted.weights, wanted.model, found.res),
        "cores": cores,
    }
    order = Order("", content, cores, gpu, wanted.on, limit_s + fleet.START_S)
    keys = tuple((found.case_of(way), None) for way in found.ways)

    def further(row: Row) -> bool:
        return isinstance(row, QualityRow) and is_of(row, found)

    return fleet.Task(keys, order, lambda status, reason: (), further, QualityRow)


def request_of_order(asked: Mapping[str, Any]) -> FrontierRequest:
    """The request in the order of a job, which was JSON. It names no feature network: that is a program."""
    given = {key: value for key, value in asked.items() if key not in ("reference", "features")}
    given["engines"] = tuple((backend, precision) for backend, precision in asked["engines"])
    return FrontierRequest(
        **given | {"sampling": tuple(asked["sampling"]), "artefacts": tuple(map(Path, asked["artefacts"]))}
    )


def rows_of_order(asked: Mapping[str, Any], checkpoint: Path | None) -> list[QualityRow]:
    """The rows of a race on its node, named as in the order though its weights were read from scratch.

    Args:
        checkpoint: the copy of the weights on this node; None for those that convbench ships.
    """
    return list(measured(planned(request_of_order(asked)), store.Results(None), checkpoint=checkpoint))


def is_unfinished(reason: str) -> bool:
    """True of a row with fewer images than planned, which the next run of the command makes again."""
    return reason.startswith(UNFINISHED)


def measured(
    found: PlannedRace, results: store.Results, report: Report = lambda *_: None, checkpoint: Path | None = None
) -> Iterator[QualityRow]:
    """Sample all ways and judge them; the rows in the order of the plan. Those that the file holds are not made again.

    Ctrl-C and the end of a budget keep the batches that all ways have sampled; the next run of the command makes them
    again. Raises UsageError for a way that cannot run.

    Args:
        checkpoint: a copy of the weights.
    """
    wanted = found.wanted
    if wanted.threads:
        torch.set_num_threads(wanted.threads)
    held = [results.find((found.case_of(way), None)) for way in found.ways]
    if all(row and not is_unfinished(row.reason) for row in held):
        rows = [row for row in results.rows if isinstance(row, QualityRow) and is_of(row, found)]
        yield from (row for row in rows if not is_unfinished(row.reason))
        return
    weights = str(checkpoint or wanted.weights or "shipped")
    located = None if weights == "random" else locate.locate(weights, found.variant, found.res)
    path = str(located.path) if located else None
    sha256 = located.sha256() if located else None
    began = datetime.now(UTC).isoformat(timespec="seconds")
    drawn = wanted.seed, found.batch, found.judge, wanted.vae
    with Race(wanted.model, found.res, path, wanted.device, *drawn) as race:
        runners, beside = _sampled(race, found, report)
        rows = _rows(race, found, runners, beside, {"weights_sha256": sha256, "measured_at": began})
    for row in rows:
        known = results.find((row.case, None))
        if not known or is_unfinished(known.reason):
            results.add(row)
        yield row


def _sampled(race: Race, found: PlannedRace, report: Report) -> tuple[list[Runner], dict[str, str]]:
    """Sample the batches of all ways. Returns the runners, and for each method the name of its plain counterpart."""
    runners = [race.opened(way) for way in found.ways]
    count = found.images // found.batch
    looks = {max(1, round(share * count)) for share in LOOKS} if count >= 4 else set()
    ends = time.monotonic() + (found.wanted.budget_s or math.inf)
    running, beside = list(runners), dict[str, str]()
    for number in range(count):
        started = time.monotonic()
        try:
            interleaved(race, running, number, partial(_tell, report, number, count))
        except KeyboardInterrupt:
            if number == 0:
                raise
            break
        if number == 0:
            plain, beside = _plain_counterparts(race, found, runners)
            interleaved(race, plain, 0, partial(_tell, report, 0, count))
            runners += plain
            running += plain
        if number + 1 in looks:
            running = without_dominated(running)
        if time.monotonic() + (time.monotonic() - started) > ends:
            break
    least = min(len(runner.batches) for runner in running)
    for runner in runners:  # of the batch that was interrupted only some have images
        del runner.batches[least:], runner.seconds[least:]
        runner.stopped = runner.stopped or (UNFINISHED if least < count else "")
    return runners, beside


def _tell(report: Report, number: int, count: int, name: str, step: int) -> None:
    report(f"batch {number + 1} of {count}", "sampling", number / count)


def _plain_counterparts(
    race: Race, found: PlannedRace, runners: Sequence[Runner]
) -> tuple[list[Runner], dict[str, str]]:
    """Plain sampling with as many steps of a method's sampler as fit into its time; at least 2."""
    reference = runners[0]
    step_s = reference.costs[0] / reference.made.steps
    added: dict[str, Runner] = {}
    beside = {}
    for runner in runners:
        if runner.way.role != "method":
            continue
        plan = runner.way.plan
        evaluations = max(2, math.floor(runner.costs[0] / step_s))
        steps = min(1000, (evaluations + 1) // 2 if plan.sampler.startswith("heun") else evaluations)
        plain = SamplingWay(replace(plan, steps=max(2, steps), cache=None, cfg_interval=None), role="fewer steps")
        if plain.name not in added and plain.name not in {each.way.name for each in runners}:
            added[plain.name] = race.opened(plain)
        beside[runner.way.name] = plain.name
    return list(added.values()), beside


def without_dominated(running: list[Runner]) -> list[Runner]:
    """Leave out what is slower than another, beyond both intervals, and of worse quality than that."""
    kept = running[:1]
    for runner in running[1:]:
        low = median_interval(runner.seconds)[0]
        faster = [each for each in running if each is not runner and median_interval(each.seconds)[1] < low]
        best = min(faster, key=lambda each: each.seen.distance, default=None)
        if best and verdict.compare(runner.seen, best.seen).word == "worse":
            runner.stopped = f"slower and worse than {best.way.name}"
            continue
        kept.append(runner)
    return kept


def _rows(
    race: Race, found: PlannedRace, runners: Sequence[Runner], beside: dict[str, str], stamp: dict[str, Any]
) -> list[QualityRow]:
    reference, judge = runners[0], found.judge
    by_name = {runner.way.name: runner for runner in runners}
    margins = {name: margin for name, margin in QUALITY_MARGINS.items() if name != "recognised" or judge.recognises}
    rows = []
    for runner in runners:
        seen = runner.seen
        judged = quality.figures(seen)
        against = verdict.compare(seen, reference.seen.first(len(seen)))
        fast, slow = median_interval(runner.seconds) if len(runner.seconds) >= LEAST_BATCHES else (None, None)
        known: dict[str, Any] = asdict(judged)
        if runner is not reference:
            known |= speed_ratio("ratio", runner, reference)
            known |= {key: value for key, value in asdict(against).items() if key not in ("word", "reason")}
            known |= {"compared_with": str(reference.way.plan), "quality": against.word}
            known |= {"quality_reason": against.reason}
        if plain := by_name.get(beside.get(runner.way.name, "")):
            both = min(len(seen), len(plain.seen))
            over = verdict.compare(seen.first(both), plain.seen.first(both))
            known |= {
                "plain": str(plain.way.plan),
                "over_plain": over.word,
                **speed_ratio("plain_ratio", runner, plain),
            }
        known |= {f"{name}_margin": margin for name, margin in margins.items()} | judge.origin()
        known |= {"frechet_floor": seen.floor} if judge.real.biased else {}
        rows.append(
            QualityRow(
                case=found.case_of(runner.way),
                reason=runner.stopped,
                environment=environment.describe(),
                model=race.model,
                res=race.res,
                batch=race.batch,
                backend=runner.way.backend,
                precision=runner.way.precision,
                device=race.device,
                threads=found.wanted.threads,
                on=found.wanted.on,
                weights=found.wanted.weights,
                sampling=str(runner.way.plan),
                role=runner.way.role,
                evaluations=runner.made.steps,
                seed=race.seed,
                planned=found.images,
                image_set=judge.name,
                images_per_s=race.batch / median(runner.seconds),
                images_per_s_low=race.batch / slow if slow else None,
                images_per_s_high=race.batch / fast if fast else None,
                batch_s=runner.seconds,
                **{key: _number(value) for key, value in (stamp | known).items()},
            )
        )
    return with_frontier(rows)


def with_frontier(rows: Sequence[QualityRow]) -> list[QualityRow]:
    """Mark the rows that no other beats in both images/s and Fréchet distance; those that were stopped are not."""

    def beaten(row: QualityRow) -> bool:
        return any(
            (other.images_per_s or 0) > (row.images_per_s or 0)
            and (math.inf if other.frechet is None else other.frechet)
            <= (math.inf if row.frechet is None else row.frechet)
            for other in rows
            if other.images == other.planned
        )

    return [replace(row, on_frontier=row.images == row.planned and not beaten(row)) for row in rows]


def speed_ratio(key: str, runner: Runner, other: Runner) -> dict[str, float | None]:
    """Speed of a runner over that of another, from the batches that both made; without an interval of too few."""
    both = min(len(runner.seconds), len(other.seconds))
    ratio, low, high = ratio_interval(list(zip(other.seconds[:both], runner.seconds[:both], strict=True)))
    is_known = both >= LEAST_BATCHES
    return {key: ratio, f"{key}_low": low if is_known else None, f"{key}_high": high if is_known else None}


def _number(value: Any) -> Any:
    """The value, or None for a number that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_of(row: QualityRow, found: PlannedRace) -> bool:
    """True if a row is one of the race, the plain ways included that were added to it."""
    wanted = found.wanted
    judged = {key: getattr(row, key) for key in ("reference_sha256", "features_sha256") if getattr(row, key)}
    here = (wanted.model, found.res, found.batch, wanted.device, wanted.threads, wanted.weights, wanted.on, wanted.seed)
    there = (row.model, row.res, row.batch, row.device, row.threads, row.weights, row.on, row.seed)
    return here == there and row.planned == found.images and judged == found.judge.origin()
