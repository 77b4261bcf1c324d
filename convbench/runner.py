"""Runs a plan: each case in a process of its own, each result handed over as soon as it is there."""

import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import backends, precision
from .environment import cores, free_bytes
from .errors import UsageError
from .estimate import estimate, quick_rates
from .plan import Request, plan
from .schema import Case, Measurement, Second
from .store import append, read, require_writable

Report = Callable[[Case, str, float], None]
"""Called with the case that runs, what is being done and the share of its timing that is done."""

TIMEOUT_S = 3600.0
GIB = 2**30


def throughput(
    model: str | Sequence[str],
    res: int | Sequence[int] = 256,
    batch: int | Sequence[int] | None = None,
    backend: str | Sequence[str] = "eager",
    precision: str | Sequence[str] = "fp32",
    device: str | Sequence[str] | None = None,
    threads: int | None = None,
    weights: str | None = None,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Measure backbones, as ``convbench throughput`` does; every axis takes one value or several.

    Returns one dictionary a case, with the keys of ``convbench throughput --format json``. With ``out``, finished
    cases are appended to that file, and those already in it are not measured again.

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
    )
    return list(run(with_threads(plan(request)), None if out is None else Path(out)))


def default_device() -> str:
    """ "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def with_threads(cases: list[Case]) -> list[Case]:
    """Fix the number of threads of CPU cases that leave it open: all physical cores."""
    return [replace(case, threads=cores()) if case.device == "cpu" and not case.threads else case for case in cases]


def run(
    cases: Sequence[Case],
    out: Path | None = None,
    report: Report = lambda case, what, done: None,
    rules: dict[str, float] | None = None,
    timeout_s: Second = TIMEOUT_S,
) -> Iterator[dict[str, Any]]:
    """Measure the cases that ``out`` does not hold yet; yields the rows of all, in the order of the plan.

    Args:
        rules: overrides of ``clock.Rules``, such as {"cap_s": 5}.
        timeout_s: a case that takes longer is ended and gets the status timeout.
    """
    done: dict[str, dict[str, Any]] = {}
    if out:
        require_writable(out)
        done = {row["case"]: row for row in (read(out) if out.exists() else [])}
    for _, repeats in itertools.groupby(cases, key=lambda case: replace(case, repeat=1)):
        group = list(repeats)
        missing = [case for case in group if case.id not in done]
        measured = {m.case: asdict(m) for m in _measure(missing, report, rules or {}, timeout_s)} if missing else {}
        for case in group:
            if case.id in measured and out:
                append(out, measured[case.id])
            yield done.get(case.id) or measured[case.id]


def _measure(cases: list[Case], report: Report, rules: dict[str, float], timeout_s: Second) -> list[Measurement]:
    reason = unsupported(cases[0])
    if reason:
        return [_without(case, "skipped", reason) for case in cases]
    return _in_process(cases, report, rules, timeout_s)


def unsupported(case: Case) -> str | None:
    """Why the case cannot run here, or None if it can: no device, precision, backend, or not enough memory."""
    import torch

    if case.device == "cuda" and not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU here" + ("" if torch.version.cuda else ": this is a CPU build of torch")
    reason = precision.unsupported(case.precision, case.device) or backends.find(case.backend).unsupported(case)
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
    order = json.dumps({"cases": [asdict(case) for case in cases], "rules": rules})
    home = str(Path(__file__).parent.parent)
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-m", "convbench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as worker:
        try:
            results, errors = _listen(worker, order, cases, report, timeout_s)
        except TimeoutError:
            return [_without(case, "timeout", f"not finished after {timeout_s:.0f} s (--timeout)") for case in cases]
        finally:
            worker.kill()
    missing = [case for case in cases if case.id not in {result.case for result in results}]
    return results + [_without(case, *_death(worker.returncode, errors)) for case in missing]


def _listen(
    worker: "subprocess.Popen[str]", order: str, cases: list[Case], report: Report, timeout_s: Second
) -> tuple[list[Measurement], list[str]]:
    assert worker.stdin and worker.stdout and worker.stderr
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []

    def pump() -> None:
        for line in worker.stdout or ():
            lines.put(line)
        lines.put(None)

    threads = [threading.Thread(target=pump), threading.Thread(target=lambda: errors.extend(worker.stderr or ()))]
    for thread in threads:
        thread.start()
    with suppress(BrokenPipeError):  # it died at once; what it said comes through stderr
        worker.stdin.write(order + "\n")
        worker.stdin.flush()  # left open: the worker ends when it is closed
    results = []
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if line is None:
                worker.wait()
                break
            message = json.loads(line)
            if "error" in message:
                raise UsageError(message["error"])
            if "measurement" in message:
                results.append(Measurement(**message["measurement"]))
            else:
                report(cases[0], message["what"], message["done"])
    except queue.Empty:
        raise TimeoutError from None
    finally:
        worker.kill()
        for thread in threads:
            thread.join()
    return results, [line.rstrip() for line in errors if line.strip()]


def _death(code: int, errors: list[str]) -> tuple[str, str]:
    """Status and reason of a worker that ended without a result."""
    if code == -9:
        return "out_of_memory", "the process was killed, as the system does when memory runs out"
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return "failed", f"the measuring process ended with {how}" + (f": {errors[-1][:200]}" if errors else "")
