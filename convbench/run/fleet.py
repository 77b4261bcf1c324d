"""Independent jobs of a launcher: submitted, collected, and submitted again where a node was lost.

The folder FILE.fleet beside the result file holds the orders, the results that came back, and ``state.json``, written
whole, with which a driver that was killed finds its jobs again. It is removed once every row is in the file.
"""

import json
import math
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import store
from ..errors import UsageError, printable
from ..files import locked, read_json, write_whole
from ..measure.annotated import with_finding
from ..schema import CaseRow, Row
from . import launchers, peers
from .fleet_files import Running, RunState, read_state, rows_of
from .jobs import USED_UP, Limits, Report
from .launchers.job import Launcher, Order
from .plan import require_kinds

ATTEMPTS = 3  # at a job whose nodes are lost
OF_ESTIMATE = 5.0  # a job may take this many times its estimate, and START_S more to start and to prove its output
START_S = 300.0
MOST_AT_ONCE = 1000  # jobs of one submission: Slurm's usual limit of an array
Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """Rows that are measured together, as one job."""

    keys: tuple[store.Key, ...]
    order: Order  # its name is filled in when it is submitted
    without: Callable[[str, str], Sequence[Row]]  # its rows if it is not measured, by status and reason
    further: Callable[[Row], bool] = lambda row: False  # whether a row that is none of the keys is one of the job's too
    kind: type[Row] = CaseRow  # of all of them

    @property
    def id(self) -> str:
        """Name of the task in the state of the run."""
        return "\n".join(f"{case}>{other}" if other else case for case, other in self.keys)


def require_launchable(launcher: str | None, out: Path | None, on: Sequence[str] | None) -> None:
    """Raise UsageError for what a launcher, or none, cannot do."""
    require_kinds(on or ())
    if launcher is None and on:
        raise UsageError("--on needs --launcher slurm or ray")
    if launcher and out is None:
        raise UsageError(f"--launcher {launcher} needs --out: the jobs are kept beside it")
    if launcher == "local" and on:
        raise UsageError("--on names a kind of node of a cluster: --launcher local has this machine only")


def is_elsewhere(launcher: str | None) -> bool:
    """True if a launcher measures on other machines, of which this one knows nothing."""
    return launcher not in (None, "local")


def launched(
    name: str, tasks: Sequence[Task], results: store.Results, limits: Limits, report: Report, say: Say
) -> Iterator[Row]:
    """The rows of tasks through a launcher, as they come.

    Args:
        name: one of launchers.NAMES.
        say: gets a line on each job that is lost.
    """
    if not tasks:
        return
    assert results.path
    folder = folder_of(results.path)
    cores = max(task.order.cores for task in tasks)
    launcher = launchers.create(name, folder, cores, gpu=any(task.order.gpu for task in tasks))
    yield from Fleet(launcher, folder, tasks, results, limits, report, say).rows()


def folder_of(out: Path) -> Path:
    """Folder of a run's jobs, beside its result file."""
    return out.with_name(out.name + ".fleet")


class Fleet:
    """One run over a launcher."""

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        tasks: Sequence[Task],
        results: store.Results,
        limits: Limits,
        report: Report,
        say: Say,
    ) -> None:
        self.launcher, self.folder, self.results = launcher, folder, results
        self.limits, self.report, self.say = limits, report, say
        self.tasks = {task.id: task for task in tasks if not all(map(results.find, task.keys))}
        self.waiting = list(self.tasks)
        self.finished: list[Row] = []  # not yet in the file: their nodes cannot be judged
        self.known: list[Row] = []  # of this run, for the comparison of nodes
        self.state = RunState(secrets.token_hex(4), launcher.name)

    def rows(self) -> Iterator[Row]:
        """The rows of all tasks as they come; each is in the file before it is given.

        Ends every job that it started if it is interrupted, and keeps what had come back.
        """
        ends = math.inf if self.limits.budget_s is None else time.monotonic() + self.limits.budget_s
        with self._locked():
            self._resume()
            try:
                while self.waiting or self.state.jobs:
                    if time.monotonic() > ends:
                        yield from self._used_up()
                        break
                    self._submit()
                    self._collect()
                    yield from self._release()
                    if self.waiting or self.state.jobs:
                        time.sleep(self.launcher.poll_s)
                yield from self._release(last=True)
                self._sum_up()
            except (KeyboardInterrupt, GeneratorExit):  # after any other error the jobs go on, and are found again
                self._cancel()
                list(self._release(last=True))
                raise
            finally:
                self.launcher.close(done=not self.state.jobs)
                if not self.state.jobs and not self.finished:
                    shutil.rmtree(self.folder, ignore_errors=True)

    def _sum_up(self) -> None:
        if self.state.losses:
            jobs = f"{self.state.losses} job{'s' if self.state.losses > 1 else ''}"
            self.say(f"{jobs} lost and submitted again: {self.state.lost_s:.0f} s of work lost")

    # State

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with ExitStack() as held:
            try:
                self.folder.mkdir(exist_ok=True)
                held.enter_context(locked(self.folder / "lock", wait=False))
            except BlockingIOError:
                raise UsageError(f"another convbench is running the jobs of {self.folder}") from None
            except OSError as error:
                raise UsageError(f"cannot write {self.folder}: {error.strerror}") from None
            yield

    @property
    def _file(self) -> Path:
        return self.folder / "state.json"

    def _save(self) -> None:
        write_whole(self._file, json.dumps(asdict(self.state), indent=1).encode())

    def _resume(self) -> None:
        """Read the state of a killed driver and find its jobs."""
        if not self._file.exists():
            return
        state = read_state(self._file)
        if state.launcher != self.launcher.name:
            raise UsageError(
                f"{self.folder} holds jobs of --launcher {state.launcher}: use it again, or remove the folder"
            )
        self.state = state
        for path in sorted(self.folder.glob("*.done.json")):  # had come back, and were not yet in the file
            self._accept(path, keep=True)
        adopted = []
        for batch in dict.fromkeys(job.batch for job in state.jobs):
            own = [job for job in state.jobs if job.batch == batch]
            self._find(batch, own)
            for job in own:
                if job.handle is None and not (self.folder / f"{job.name}.json").exists():
                    state.attempts[job.task] = job.attempt - 1  # killed before it was submitted
                else:
                    adopted.append(job)
        unknown = [job for job in adopted if job.task not in self.tasks and not self._held(job.task)]
        if unknown:
            raise UsageError(
                f"{self.folder} holds {len(unknown)} job{'s' if len(unknown) > 1 else ''} of a command with other "
                "options: give the same options, or cancel them and remove the folder"
            )
        state.jobs = [job for job in adopted if job.task in self.tasks]
        running = {job.task for job in state.jobs}
        self.waiting = [task for task in self.waiting if task not in running]
        if state.jobs:
            self.say(f"found {len(state.jobs)} job{'s' if len(state.jobs) > 1 else ''} of the run that was ended")
        self._save()

    def _held(self, task: str) -> bool:
        return all(self.results.find((case.partition(">")[0], None)) for case in task.split("\n"))

    # Submitting

    def _submit(self) -> None:
        """Submit what waits, as much as the launcher takes: jobs of equal needs together."""
        free = min(self.launcher.free(), MOST_AT_ONCE)
        if free <= 0 or not self.waiting:
            return
        first = self.tasks[self.waiting[0]].order
        alike = [
            id
            for id in self.waiting
            if _needs(self.tasks[id].order) == _needs(first)
            and self.state.avoid.get(id) == self.state.avoid.get(self.waiting[0])
        ][:free]
        self.state.submissions += 1
        batch = f"convbench-{self.state.run}-{self.state.submissions}"
        jobs = []
        for number, id in enumerate(alike):
            attempt = self.state.attempts[id] = self.state.attempts.get(id, 0) + 1
            jobs.append(Running(id, f"{batch}-{number}", batch, attempt))
        self.state.jobs += jobs
        self._save()  # before: a driver that is killed now asks the scheduler for this name
        limit_s = max(self.tasks[id].order.limit_s for id in alike)
        orders = [
            replace(
                self.tasks[job.task].order,
                name=job.name,
                limit_s=limit_s,
                avoid=tuple(self.state.avoid.get(job.task, ())),
            )
            for job in jobs
        ]
        try:
            handles = self.launcher.submit(batch, orders)
        except UsageError:  # the scheduler refused all of them
            self.state.jobs = [job for job in self.state.jobs if job.batch != batch]
            raise
        for job, handle in zip(jobs, handles, strict=True):
            job.handle = handle
        self.waiting = [id for id in self.waiting if id not in alike]
        self._save()

    # Collecting

    def _collect(self) -> None:
        """Ask about the jobs, and take in what has come back."""
        seen = self.launcher.poll({job.name: job.handle or "" for job in self.state.jobs})
        changed = False
        for job in list(self.state.jobs):
            now = seen[job.name]
            if now.node:
                job.node = now.node
            path = self.folder / f"{job.name}.json"
            if now.result is not None:
                write_whole(path, now.result.encode())
            if path.exists():
                self.state.jobs.remove(job)
                done = path.with_name(f"{job.name}.done.json")
                path.rename(done)
                self._accept(done, job=job)
                changed = True
            elif now.state == "ended":
                self.state.jobs.remove(job)
                self._lost(job, now.reason)
                changed = True
            elif now.state == "running":
                if job.began is None:
                    job.began, changed = time.time(), True
                self.report(self.tasks[job.task].keys[0][0], f"on {job.node or self.launcher.name}", 0.0)
        if changed:
            self._save()

    def _accept(self, path: Path, job: Running | None = None, keep: bool = False) -> None:
        """Take in the result of a job; a node that refused it is one where it was lost."""
        try:
            result = read_json(path)
            rows = rows_of(result, tuple({task.kind for task in self.tasks.values()}))
            wanted = {case for case, _ in self.tasks[job.task].keys} if job and rows is not None else set()
            if lacking := sorted(wanted - {row.case for row in rows or []}):
                raise UsageError(f"no row of {lacking[0]}")
        except UsageError as error:
            rows, result = None, {"refused": f"its result cannot be read: {error}"}
        if rows is None:
            path.unlink()
            if job:
                place = result.get("place") if isinstance(result.get("place"), dict) else {}
                job.node = str(place.get("node") or job.node or "") or None
                self._lost(job, str(result["refused"]), refused=True)
            return
        tasks = self.tasks.values()
        expected = {key for task in tasks for key, _ in task.keys}
        rows = [row for row in rows if row.case in expected or any(task.further(row) for task in tasks)]
        self.finished += rows
        self.known += rows
        held = {row.case for row in self.finished}
        self.waiting = [id for id in self.waiting if not all(case in held for case, _ in self.tasks[id].keys)]
        if keep:
            self.state.jobs = [job for job in self.state.jobs if f"{job.name}.done.json" != path.name]

    def _lost(self, job: Running, reason: str, refused: bool = False) -> None:
        """Submit the case again, elsewhere and a bounded number of times, or give its rows as failed."""
        task, where = self.tasks[job.task], f" on node {job.node}" if job.node else ""
        spent = max(0.0, time.time() - job.began) if job.began else 0.0
        why = printable(" ".join((reason or "it ended without a result").split()))[:200]
        again = job.attempt < ATTEMPTS and (self.launcher.elsewhere or not refused)
        words = f"{task.keys[0][0]}: {'refused' if refused else 'lost'}{where} after {spent:.0f} s: {why}"
        if not again:
            self.say(words)
            times = f" ({job.attempt} times)" if job.attempt > 1 else ""
            rows = task.without("failed", f"{'refused' if refused else 'lost'}{where}{times}: {why}")
            self.finished += rows
            return
        self.state.losses += 1
        self.state.lost_s += spent
        if job.node:
            avoid = self.state.avoid.setdefault(job.task, [])
            avoid += [job.node] if job.node not in avoid else []
        self.waiting.append(job.task)
        self.say(f"{words}; submitted again, attempt {job.attempt + 1} of {ATTEMPTS}")

    # Giving

    def _release(self, last: bool = False) -> Iterator[Row]:
        """Add rows to the file whose nodes can be judged: with enough peers, or at the end of the run."""
        last = last or not self.launcher.elsewhere or not (self.waiting or self.state.jobs)
        for row in list(self.finished):
            judged = row.status == "ok" and self.launcher.elsewhere
            if judged and not last and not peers.can_judge(row, self.known):
                continue
            self.finished.remove(row)
            for found in peers.findings(row, self.known) if judged else []:
                row = with_finding(row, found)  # noqa: PLW2901
            held = self.results.find((row.case, getattr(row, "compared_with", None)))
            yield held or (row if row.reason == USED_UP else self.results.add(row))

    def _used_up(self) -> Iterator[Row]:
        """Cancel what runs; rows that the budget did not reach are not stored."""
        left = [job.task for job in self.state.jobs]
        self._cancel()
        for id in (*left, *self.waiting):
            yield from self.tasks[id].without("skipped", USED_UP)
        self.waiting = []

    def _cancel(self) -> None:
        """End the jobs of this run and no others."""
        for batch in {job.batch for job in self.state.jobs if job.handle is None}:
            self._find(batch, [job for job in self.state.jobs if job.batch == batch])
        handles = {job.name: job.handle for job in self.state.jobs if job.handle}
        finished = [job for job in self.launcher.poll(handles).items() if job[1].result is not None]
        self.launcher.cancel(handles)
        for name, seen in finished:
            write_whole(self.folder / f"{name}.json", str(seen.result).encode())
        for job in self.state.jobs:  # what was done by then counts
            if (self.folder / f"{job.name}.json").exists():
                self._accept(self.folder / f"{job.name}.json")
        self.state.jobs = []
        self._save()

    def _find(self, batch: str, jobs: Sequence[Running]) -> None:
        """Ask for the handles of a submission that was interrupted."""
        if any(job.handle is None for job in jobs):
            found = self.launcher.find(batch, [job.name for job in jobs])
            for job in jobs:
                job.handle = job.handle or found.get(job.name)


def _needs(order: Order) -> tuple[Any, ...]:
    return (order.on, order.cores, order.gpu)
