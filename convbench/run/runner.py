"""Runs a plan: each case in a process of its own, each result handed over as soon as it is there."""

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from .. import backends, precision
from ..checks import timing
from ..environment import cores, describe, free_bytes
from ..errors import UsageError
from ..measure.estimate import estimate, quick_rates
from ..schema import VERDICTS, Case, Measurement, Second
from ..store import append, changed_conditions, read, require_writable
from ..timing import compare, derived
from .plan import Request, bundles, plan

Report = Callable[[Case, str, float], None]
"""Called with the case that runs, what is being done and the share of its timing that is done."""

GIB = 2**30
SLOW_STEP_S = 1.0  # a case with slower steps is not timed twice for the A/A comparison


def throughput(
    model: str | Sequence[str],
    res: int | Sequence[int] = 256,
    batch: int | str | Sequence[int | str] | None = None,
    backend: str | Sequence[str] = "eager",
    precision: str | Sequence[str] = "fp32",
    device: str | Sequence[str] | None = None,
    threads: int | None = None,
    weights: str | None = None,
    mode: str | Sequence[str] = "forward",
    out: str | Path | None = None,
    compare_with: str | None = None,
) -> list[dict[str, Any]]:
    """Measure backbones, as ``convbench throughput`` does; every axis takes one value or several.

    Returns one dictionary a case, with the keys of ``convbench throughput --format json``. With ``out``, finished
    cases are appended to that file, and those already in it are not measured again. With ``compare_with``, a
    backend or a model, each case is timed in turns with its counterpart.

    Raises:
        UsageError: something that cannot be, such as an unknown model.
    """

    def listed(value: Any) -> list[Any]:
        return list(value) if isinstance(value, list | tuple) else [value]

    request = Request(
        model=listed(model),
        res=listed(res),
        batch=None if batch is None else listed(batch),
        backend=listed(backend),
        precision=listed(precision),
        device=[default_device()] if device is None else listed(device),
        threads=threads,
        weights=weights,
        mode=listed(mode),
    )
    cases = with_threads(plan(request, largest_batch))
    return list(run(bundles(cases, compare_with), None if out is None else Path(out)))


def default_device() -> str:
    """ "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def with_threads(cases: list[Case]) -> list[Case]:
    """Fix the number of threads of CPU cases that leave it open: all physical cores."""
    return [replace(case, threads=cores()) if case.device == "cpu" and not case.threads else case for case in cases]


@dataclass(frozen=True)
class Settings:
    """How a run goes about its cases."""

    rules: Mapping[str, float] = field(default_factory=dict)  # overrides of clock.Rules, such as {"cap_s": 5}
    timeout_s: Second = 3600.0  # a bundle that takes longer is ended and gets the status timeout
    budget_s: Second | None = None  # of the whole run
    processes: int = 1  # fresh ones for each case


def run(
    bundles: Sequence[Sequence[Case]],
    out: Path | None = None,
    report: Report = lambda case, what, done: None,
    settings: Settings | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure the cases that ``out`` does not hold yet; yields the rows of all, in the order of the plan.

    The first case that is measured is measured against itself too; what that A/A comparison could not exclude is
    the ``smallest_difference`` of every row of the run. With a budget, what steady cases leave over goes to those
    whose intervals are wide; cases that it does not reach are skipped and not stored, so the next run measures them.

    Args:
        bundles: of ``plan.bundles``; the cases of a bundle are timed in turns.
    """
    settings = settings or Settings()
    held = held_rows(out)
    todo = [bundle for bundle in bundles if any(case.id not in held for case in bundle)]
    rows, tells, ends = list(held.values()), None, time.monotonic() + (settings.budget_s or math.inf)
    for bundle in bundles:
        if bundle not in todo:
            yield from (held[case.id] for case in bundle)
            continue
        rules = dict(settings.rules)
        if settings.budget_s is not None:  # about half of it goes to loading and proving
            rules["cap_s"] = (ends - time.monotonic()) / len(todo) / len(bundle) / settings.processes / 2
        todo.remove(bundle)
        if rules.get("cap_s", 1) <= 0:
            yield from (asdict(_without(case, "skipped", "the budget was used up (--budget)")) for case in bundle)
            continue
        results = _measure(list(bundle), report, rules, settings, against_itself=tells is None)
        tells = tells or _smallest_difference(results)
        for result in results[: len(bundle)]:
            row = held.get(result.case) or _concluded(result, rows, tells)
            if out and result.case not in held:
                append(out, row)
            rows.append(row)
            yield row


def held_rows(out: Path | None) -> dict[str, dict[str, Any]]:
    """The rows of a result file by case, once it is known that lines of this machine can be added to it.

    Raises UsageError for a file that cannot be written, is none of ours, or was measured under other conditions.
    """
    if out is None:
        return {}
    require_writable(out)
    rows = {row["case"]: row for row in (read(out) if out.exists() else [])}
    here = describe()
    for row in rows.values():
        if row["environment"] and (changes := changed_conditions(row["environment"], here)):
            raise UsageError(f"{out} was measured under other conditions ({changes[0]}): give another --out")
    return rows


def _concluded(result: Measurement, rows: list[dict[str, Any]], tells: float | None) -> dict[str, Any]:
    """The row of a measurement, with what only the run knows."""
    row = asdict(result) | {"smallest_difference": tells}
    if row["status"] == "ok" and (found := timing.monotony(rows, row)):
        row["verdict"] = max(row["verdict"], "SUSPECT", key=VERDICTS.index)
        row["reason"] = "; ".join(filter(None, [row["reason"], str(found)]))
    return row


def _smallest_difference(results: list[Measurement]) -> float | None:
    """What the run may claim at least, from a case that was timed twice, or from every other block of a slow one."""
    first, device = results[0], results[0].device
    again = [result for result in results[1:] if result.repeat > 1 and result.ratio]
    if again and again[0].ratio_low and again[0].ratio_high:
        return max(compare.DELTA[device], again[0].ratio_high - 1, 1 - again[0].ratio_low)
    if len(first.block_s) < 6:
        return None
    even, odd = first.block_s[0::2], first.block_s[1::2]
    pairs = min(len(even), len(odd))
    return compare.smallest_difference(compare.compare_blocks(even[:pairs], odd[:pairs], 0.0), device)


def _measure(
    cases: list[Case], report: Report, rules: dict[str, float], settings: Settings, against_itself: bool
) -> list[Measurement]:
    reason = next(filter(None, map(unsupported, cases)), None)
    if reason:
        return [
            _without(case, "skipped", unsupported(case) or f"its counterpart cannot run: {reason}") for case in cases
        ]
    quick = estimate(cases[0], quick_rates(cases[0].device)).step_s < SLOW_STEP_S
    if against_itself and quick and len(cases) == 1:
        cases = [*cases, replace(cases[0], repeat=2)]
    runs = [_in_process(cases, report, rules, settings.timeout_s) for _ in range(settings.processes)]
    return [merge(list(results)) for results in zip(*runs, strict=True)]


def merge(results: list[Measurement]) -> Measurement:
    """One measurement from those of several fresh processes. A process that gave none is the result.

    The headline is the median of all blocks. Its interval is that of the blocks or the range of the processes'
    medians, whichever is wider: allocation and library tuning differ from process to process.
    """
    worst = max(results, key=lambda result: (result.status != "ok", VERDICTS.index(result.verdict or "INVALID")))
    if len(results) == 1 or worst.status != "ok":
        return worst
    samples = [sample for result in results for sample in result.block_s]
    medians = [median(result.block_s) for result in results]
    speed, low, high = derived.speeds(worst.batch, samples, medians)
    assert worst.images_per_s
    scale = speed / worst.images_per_s
    return replace(
        worst,
        processes=len(results),
        process_s=medians,
        block_s=samples,
        blocks=len(samples),
        images_per_s=speed,
        images_per_s_low=low,
        images_per_s_high=high,
        reason="; ".join(dict.fromkeys(result.reason for result in results if result.reason)),
        **{key: scale * value for key in ("flops_per_s", "mfu", "limit_fraction") if (value := getattr(worst, key))},
    )


def largest_batch(case: Case) -> int:
    """The largest batch that the case's memory allows, by doubling and bisection.

    On a GPU each trial runs one step; on a CPU, where the system kills what asks for too much, it goes by the
    estimate.
    """
    if case.device == "cpu":
        rates, free = quick_rates("cpu"), free_bytes("cpu")
        return bisect(lambda batch: estimate(replace(case, batch=batch), rates).needed_bytes <= free)
    found = {"batch": 0}
    _listen_to({"search": asdict(case)}, found.update, Settings().timeout_s)
    return max(1, found["batch"])


def bisect(fits: Callable[[int], bool], most: int = 2**16) -> int:
    """The largest number up to ``most`` that fits, at least 1, if all below one that fits fit too."""
    good = 1
    while 2 * good <= most and fits(2 * good):
        good *= 2
    bad = 2 * good
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if middle <= most and fits(middle) else (good, middle)
    return good


def unsupported(case: Case) -> str | None:
    """Why the case cannot run here, or None if it can: no device, precision, backend, or not enough memory."""
    import torch

    from ..measure import training

    if case.device == "cuda" and not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU here" + ("" if torch.version.cuda else ": this is a CPU build of torch")
    reason = (
        precision.unsupported(case.precision, case.device)
        or backends.find(case.backend).unsupported(case)
        or training.unsupported(case)
    )
    if reason:
        return reason
    needed = estimate(case, quick_rates(case.device)).needed_bytes
    free = free_bytes(case.device)
    return None if needed <= free else f"needs about {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free"


def _without(case: Case, status: str, reason: str) -> Measurement:
    return Measurement.of(
        case, status=status, reason=reason, measured_at=datetime.now(UTC).isoformat(timespec="seconds")
    )


def _in_process(cases: list[Case], report: Report, rules: dict[str, float], timeout_s: Second) -> list[Measurement]:
    """Have a worker measure the cases; a worker that dies or hangs gives rows that say so."""
    results: list[Measurement] = []

    def hear(message: dict[str, Any]) -> None:
        if "measurement" in message:
            results.append(Measurement(**message["measurement"]))
        else:
            report(cases[0], message["what"], message["done"])

    try:
        code, errors = _listen_to({"cases": [asdict(case) for case in cases], "rules": rules}, hear, timeout_s)
    except TimeoutError:
        return [_without(case, "timeout", f"not finished after {timeout_s:.0f} s (--timeout)") for case in cases]
    known = {result.case: result for result in results}
    return [known.get(case.id) or _without(case, *_death(code, errors)) for case in cases]


def _listen_to(
    order: dict[str, Any], hear: Callable[[dict[str, Any]], None], timeout_s: Second
) -> tuple[int, list[str]]:
    """Start a worker with an order and hand on what it says. Returns its exit code and the lines of its stderr.

    Raises TimeoutError if it takes too long, UsageError if it says that the order cannot be carried out.
    """
    home = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "convbench.run.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        process_group=0,
    ) as worker:
        assert worker.stdin and worker.stdout and worker.stderr

        def pump(stream: Iterable[str], keep: Callable[[str], object], end: Callable[[], object]) -> None:
            with suppress(ValueError):  # closed already: Ctrl-C came before this thread ran
                for line in stream:
                    keep(line)
            end()

        threads = [
            threading.Thread(target=pump, args=[worker.stdout, lines.put, lambda: lines.put(None)]),
            threading.Thread(target=pump, args=[worker.stderr, errors.append, lambda: None]),
        ]
        try:  # Ctrl-C may come at any moment: whoever waits for a thread must have ended the worker first
            for thread in threads:
                thread.start()
            with suppress(BrokenPipeError):  # it died at once; what it said comes through stderr
                worker.stdin.write(json.dumps(order) + "\n")
                worker.stdin.flush()  # left open: the worker ends when it is closed
            deadline = time.monotonic() + timeout_s
            while (line := _next(lines, worker, deadline)) is not None:
                message = json.loads(line)
                if "error" in message:
                    raise UsageError(message["error"])
                hear(message)
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)  # with what it started: a compiler's helpers hold its pipes open
            worker.kill()
            for thread in threads:
                if thread.ident:  # it was started
                    thread.join()
    return worker.returncode, [line.rstrip() for line in errors if line.strip()]


def _next(lines: queue.Queue[str | None], worker: subprocess.Popen[str], deadline: float) -> str | None:
    """The next line of a worker; None where it has ended, even if somebody else still holds its pipe open."""
    while (left := deadline - time.monotonic()) > 0:
        ended = worker.poll() is not None
        try:
            return lines.get(timeout=min(left, 0.5))
        except queue.Empty:
            if ended:
                return None
    raise TimeoutError


def _death(code: int, errors: list[str]) -> tuple[str, str]:
    """Status and reason of a worker that ended without a result."""
    if code == -9:
        return "out_of_memory", "the process was killed, as the system does when memory runs out"
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return "failed", f"the measuring process ended with {how}" + (f": {errors[-1][:200]}" if errors else "")
