"""The front door: a request becomes a plan, and the plan becomes stored rows.

The command line, the Python API, sweeps, sampling and the store all go through ``planned`` and ``measured``.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from .. import catalogue, store
from ..checks import timing
from ..environment import cores
from ..errors import UsageError
from ..measure.annotated import with_finding
from ..measure.estimate import Estimate
from ..measure.largest_batch import by_estimate
from ..measure.sampling import planned_keys
from ..sampling.images import sampler_for
from ..sampling.plan import Plan
from ..schema import KINDS, Case, CaseRow, Measurement, SamplingMeasurement, Second
from ..timing import compare
from ..timing.clock import RULES, Rules
from ..timing.merge import merge
from ..weights import locate
from . import auto, fleet, process, survey
from .jobs import Allowance, Job, Limits, Report, open_results, run_jobs
from .launchers.job import Order
from .plan import Bundle, Request, bundles, plan
from .ranks import rank_slots
from .staging import Staged

SEARCHING = 0.5  # of a budget, at most, for the batch "max"
SLOW_STEP_S = 1.0  # a case with slower steps is not timed twice for the A/A comparison


@dataclass(frozen=True)
class Planned:
    """The bundles of a request in the order they will run, and the file that may hold some of their rows."""

    bundles: list[Bundle]
    results: store.Results
    took_s: Second = 0.0  # to plan, which a budget pays for: the batch "max" is found by running steps

    @property
    def cases(self) -> list[Case]:
        """All cases, each once."""
        return list(dict.fromkeys(case for bundle in self.bundles for case in bundle))

    @property
    def missing(self) -> list[Case]:
        """The cases that the file does not hold."""
        keys = {case.id: key for bundle in self.bundles for case, key in zip(bundle, _keys(bundle), strict=True)}
        return [case for case in self.cases if not self.results.find(keys[case.id])]


def planned(
    request: Request, out: Path | None = None, limits: Limits | None = None, launcher: str | None = None
) -> Planned:
    """Resolve a request: threads, the batch "max", the backend "auto", counterparts; read the file.

    Searches for the batch "max" take at most half of the budget together, and keep the largest found by then. Raises
    UsageError for what cannot be measured, and for a file that cannot be added to.

    Args:
        launcher: of the run. With one that measures on other machines, nothing is asked of this one.
    """
    away = fleet.is_elsewhere(launcher)
    fleet.require_launchable(launcher, out, request.on)
    if away:
        _require_named(request, str(launcher))
    started = time.monotonic()
    limits = limits or Limits()
    ends = started + min(limits.timeout_s, (limits.budget_s or math.inf) * SEARCHING)
    results = open_results(out, anywhere=away)
    cases = _with_threads(plan(request, lambda case: largest_batch(case, max(0.0, ends - time.monotonic()))))
    for case in cases:  # what cannot be sampled is said before anything is measured
        if case.world > 1 and case.device == "cpu" and not away:
            rank_slots(case)
        if case.sampling:
            variant = catalogue.find(case.model)
            asked = Plan.of_text(case.sampling, variant)
            sampler_for(variant, asked.sampler, asked.steps)
            if asked.cache:
                asked.cache.require(variant, case.backend)
    if not away:
        survey.learn(auto.asked(cases))
    cases = auto.resolved(cases, results.rows, survey.unsupported)
    return Planned(bundles(cases, request.compare_with), results, time.monotonic() - started)


@dataclass(frozen=True)
class Settings:
    """Settings of a run."""

    limits: Limits = field(default_factory=Limits)
    processes: int = 1  # fresh ones for each case
    rules: dict[str, float] = field(default_factory=dict)  # overrides of clock.Rules
    launcher: str | None = None  # one of launchers.NAMES: each bundle is a job of its own; None for this process
    say: Callable[[str], None] = lambda line: None  # gets a line on each job that is lost


def measured(found: Planned, settings: Settings | None = None, report: Report = lambda *_: None) -> Iterator[CaseRow]:
    """The rows of all cases, in the order of the plan; those that the file holds are not measured again.

    The first case that is measured is measured against itself too. What that A/A comparison could not exclude is the
    ``smallest_difference`` of every row of the run, and no comparison of the run claims less.
    """
    settings = settings or Settings()
    if settings.launcher:
        yield from _launched(found, settings, report)
        return
    session = _Session(settings, report, found.results)
    limits = settings.limits
    if limits.budget_s is not None:
        limits = replace(limits, budget_s=max(0.0, limits.budget_s - found.took_s))
    began = time.monotonic()
    survey.learn(found.missing)
    if limits.budget_s is not None:
        limits = replace(limits, budget_s=max(0.0, limits.budget_s - (time.monotonic() - began)))
    jobs = [
        Job(
            tuple(_keys(bundle)),
            partial(session.measure, bundle),
            partial(session.skip, bundle),
            timings=len(bundle) * session.settings.processes,
        )
        for bundle in found.bundles
    ]
    yielded: set[tuple[str, str | None]] = set()
    for row in run_jobs(jobs, found.results, limits):
        assert isinstance(row, CaseRow)
        if (key := (row.case, row.compared_with)) not in yielded:  # cases may share a counterpart
            yielded.add(key)
            yield row


def cases(
    request: Request, out: Path | None = None, settings: Settings | None = None, report: Report = lambda *_: None
) -> Iterator[CaseRow]:
    """Plan a request and measure it."""
    settings = settings or Settings()
    return measured(planned(request, out, settings.limits, settings.launcher), settings, report)


def measure_alone(bundle: Bundle, settings: Settings) -> list[CaseRow]:
    """Measure the cases of one job of a launched run, on its node."""
    limits = settings.limits
    session = _Session(settings, lambda *_: None, store.Results(None))
    return session.measure(bundle, Allowance(limits.cap_s, time.monotonic() + limits.timeout_s))


def _require_named(request: Request, launcher: str) -> None:
    """Raise UsageError for what is found on this machine and would be asked of others."""
    for option, asked in (("--batch max", request.batch), ("--backend auto", request.backend)):
        if option.split()[1] in (asked or []):
            raise UsageError(
                f"{option} is found on this machine, but --launcher {launcher} measures on others: name it"
            )


def _launched(found: Planned, settings: Settings, report: Report) -> Iterator[CaseRow]:
    """The rows of all cases through a launcher: those of the file, then the others as they come."""
    assert settings.launcher
    tasks = []
    for bundle in found.bundles:
        keys = tuple(_keys(bundle))
        held = [row for key in keys if (row := found.results.find(key))]
        if len(held) == len(keys):
            yield from (row for row in held if isinstance(row, CaseRow))
        else:
            tasks.append(_task(bundle, keys, settings))
    for row in fleet.launched(settings.launcher, tasks, found.results, settings.limits, report, settings.say):
        assert isinstance(row, CaseRow)
        yield row


def _task(bundle: Bundle, keys: tuple[store.Key, ...], settings: Settings) -> fleet.Task:
    first, limits = bundle[0], settings.limits
    timeout_s = limits.timeout_s
    if first.device == "cpu":  # of a GPU that this machine need not have, nothing is known
        needs = [need for need in estimates(bundle, limits.cap_s).values() if isinstance(need, Estimate)]
        if len(needs) == len(bundle):
            about_s = 2 * settings.processes * sum(need.total_s for need in needs)  # twice: the A/A comparison
            timeout_s = min(timeout_s, fleet.OF_ESTIMATE * about_s + fleet.START_S)
    cores = (first.threads or 0) * first.world
    content = {
        "cases": [asdict(case) for case in bundle],
        "stage": staged(first.weights, first.model, first.res),
        "cores": cores,
        "cap_s": limits.cap_s,
        "timeout_s": timeout_s,
        "processes": settings.processes,
        "rules": settings.rules,
    }
    order = Order("", content, cores, first.device == "cuda", first.on, timeout_s + fleet.START_S)
    return fleet.Task(keys, order, lambda status, reason: [unmeasured(case, status, reason) for case in bundle])


def staged(weights: str | None, model: str, res: int) -> dict[str, Any] | None:
    """The file of weights that a job reads, with its hash; None for what is part of convbench."""
    if weights in (None, "random", "shipped"):
        return None
    source = locate.locate(str(weights), catalogue.find(model), res)
    return asdict(Staged.of(source.path, _sha256(source.path)))


@cache
def _sha256(path: Path) -> str:
    return locate.sha256(path)


def estimates(cases: Sequence[Case], cap_s: Second | None = None) -> dict[str, Estimate | str]:
    """Estimate memory and time of each case, by its id; a text explains why a case cannot run here."""
    survey.learn(cases)
    return {case.id: survey.unsupported(case) or survey.need(case, capped(case.device, cap_s)) for case in cases}


def largest_batch(case: Case, timeout_s: Second = math.inf) -> int:
    """The largest batch that the case's memory allows, by doubling and bisection.

    On a GPU each trial runs one step, in a process of its own; after ``timeout_s`` the largest that fitted counts.
    """
    if case.device == "cpu":
        return by_estimate(case)
    found = {"batch": 0}
    with suppress(TimeoutError):
        process.ask({"largest_batch": asdict(case)}, found.update, timeout_s)
    return max(1, found["batch"])


def _with_threads(cases: list[Case]) -> list[Case]:
    """Fix the number of threads of CPU cases that leave it open: all physical cores, shared among a world."""
    return [
        replace(case, threads=max(1, cores() // case.world)) if case.device == "cpu" and not case.threads else case
        for case in cases
    ]


def _keys(bundle: Bundle) -> list[store.Key]:
    """The keys of a bundle's rows: the first case is held only with the ratio to its counterpart."""
    first, last = bundle[0], bundle[-1]
    compared = replace(first, repeat=1) != replace(last, repeat=1)
    return [(case.id, last.id if compared and case is first else None) for case in bundle]


class _Session:
    """One run: what its cases share."""

    def __init__(self, settings: Settings, report: Report, results: store.Results) -> None:
        self.settings, self.report, self.results = settings, report, results
        self.smallest_difference: float | None = None

    def measure(self, bundle: Bundle, allowance: Allowance) -> list[CaseRow]:
        """The rows of a bundle, in the order of its cases."""
        reason = next(filter(None, map(survey.unsupported, bundle)), None)
        if reason:
            others = f"its counterpart cannot run: {reason}"
            return [unmeasured(case, "skipped", survey.unsupported(case) or others) for case in bundle]
        asked = list(bundle)
        if self.smallest_difference is None and len(bundle) == 1 and _is_quick(bundle[0]):
            asked.append(replace(bundle[0], repeat=2))
        runs = [self._in_process(asked, allowance) for _ in range(self.settings.processes)]
        rows = [merge(rows) for rows in zip(*runs, strict=True)]
        self.smallest_difference = self.smallest_difference or _smallest_difference(rows)
        compared = dict(_keys(bundle))
        return [self._concluded(row, compared[row.case]) for row in rows[: len(bundle)]]

    def skip(self, bundle: Bundle, reason: str) -> list[CaseRow]:
        """Rows of cases that are not measured."""
        return [unmeasured(case, "skipped", reason) for case in bundle]

    def _concluded(self, row: CaseRow, counterpart: str | None) -> CaseRow:
        """The row with what only the run knows."""
        row = replace(row, smallest_difference=self.smallest_difference)
        if counterpart and not row.compared_with:
            row = replace(row, compared_with=counterpart)  # it failed: not to be measured again by the same command
        if row.ratio_low and row.ratio_high:
            words = compare.difference_word(row.ratio_low, row.ratio_high, row.device, self.smallest_difference)
            row = replace(row, difference=words)
        if isinstance(row, Measurement) and row.status == "ok":
            others = [other for other in self.results.rows if isinstance(other, Measurement)]
            if found := timing.check_monotonicity(others, row):
                return with_finding(row, found)
        return row

    def _in_process(self, cases: list[Case], allowance: Allowance) -> list[CaseRow]:
        """Have a worker measure the cases; a worker that dies or hangs gives rows that say so."""
        rows: dict[str, CaseRow] = {}

        def hear(message: process.Message) -> None:
            if "row" in message:
                row = KINDS[message["row"]["kind"]].from_json(message["row"])
                assert isinstance(row, CaseRow)
                rows[row.case] = row
            else:
                self.report(cases[0].id, message["what"], message["done"])

        rules = {"noise": self.smallest_difference or 0.0} | self.settings.rules | _cap(allowance.cap_s)
        try:
            ended = process.ask({"cases": [asdict(case) for case in cases], "rules": rules}, hear, allowance.timeout_s)
        except TimeoutError:
            if allowance.by_budget:
                raise
            timeout_s = self.settings.limits.timeout_s
            return [unmeasured(case, "timeout", f"not finished after {timeout_s:.0f} s (--timeout)") for case in cases]
        return [rows.get(case.id) or unmeasured(case, *ended.status()) for case in cases]


def unmeasured(case: Case, status: str, reason: str) -> CaseRow:
    """The row of a case that was not measured."""
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    known: dict[str, Any] = {"status": status, "reason": reason, "measured_at": stamp}
    if case.sampling is None:
        return Measurement.of(case, **known)
    return SamplingMeasurement.of(
        case, **planned_keys(Plan.of_text(case.sampling, catalogue.find(case.model))), **known
    )


def capped(device: str, cap_s: Second | None) -> Rules:
    """Rules of timing on a device with a cap; None for its default."""
    return Rules(**{**asdict(RULES[device]), **_cap(cap_s)})


def _cap(cap_s: Second | None) -> dict[str, Second]:
    """Rules that stop timing a case at its cap; the default of its clock where there is none."""
    return {} if cap_s is None else {"cap_s": cap_s, "min_s": min(3.0, cap_s)}


def _is_quick(case: Case) -> bool:
    return case.world == 1 and survey.need(case).step_s < SLOW_STEP_S


def _smallest_difference(rows: Sequence[CaseRow]) -> float | None:
    """Smallest difference that the run may claim, from a case timed twice or from every other block of a slow one."""
    first, device = rows[0], rows[0].device
    again = next((row for row in rows[1:] if row.repeat > 1 and row.ratio), None)
    if again and again.ratio_low and again.ratio_high:
        return max(compare.DELTA[device], again.ratio_high - 1, 1 - again.ratio_low)
    return compare.noise(first.block_s, None, device) if isinstance(first, Measurement) else None
