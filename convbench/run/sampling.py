"""Runs cases of sampling throughput, each in a process of its own, and keeps their results in a file of their own.

Such a file cannot be mistaken for one of forward passes: its lines have a ``sampling_case`` and no ``case``.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..environment import describe
from ..errors import UsageError
from ..sampling.plan import Plan, new_row
from ..schema import Case, Second
from ..store import append, changed_conditions
from . import runner

Row = dict[str, Any]
Report = Callable[[str, str, float], None]
"""Called with the case that runs, what is being done and the share of its timing that is done."""


def run(
    cases: Sequence[tuple[Case, Plan]],
    out: Path | None,
    report: Report,
    rules: Mapping[str, float],
    timeout_s: Second,
) -> Iterator[Row]:
    """Measure the cases that ``out`` does not hold yet; yields the rows of all, in their order."""
    held = read(out) if out else {}
    for case, plan in cases:
        name = plan.id(case)
        if name in held:
            yield held[name]
            continue
        row = _measured(case, plan, report, rules, timeout_s)
        if out:
            append(out, row)
        yield row


def read(out: Path) -> dict[str, Row]:
    """The rows of a result file by case. Raises UsageError for a file that is not one of sampling, or not of here."""
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out}: there is no folder {out.parent}")
    if not out.exists():
        return {}
    rows = {}
    try:
        lines = out.read_bytes().split(b"\n")[:-1]  # behind the last line break stands nothing, or a torn line
    except OSError as error:
        raise UsageError(f"cannot read {out}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows[row["sampling_case"]] = row
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{out} line {number} is no result of --sampling: give it an --out of its own") from None
        if row["environment"] and (changes := changed_conditions(row["environment"], describe())):
            raise UsageError(f"{out} was measured under other conditions ({changes[0]}): give another --out")
    return rows


def unsupported(case: Case, plan: Plan) -> str | None:
    """Why the case cannot run here, or None. Guidance runs twice the batch."""
    if case.mode != "forward":
        return f"--mode {case.mode} and --sampling are two things"
    return runner.unsupported(case if plan.cfg == 1 else replace(case, batch=2 * case.batch))


def _measured(case: Case, plan: Plan, report: Report, rules: Mapping[str, float], timeout_s: Second) -> Row:
    empty = new_row(case, plan) | {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    if reason := unsupported(case, plan):
        return empty | {"status": "skipped", "reason": reason}
    rows: list[Row] = []

    def hear(message: dict[str, Any]) -> None:
        if "row" in message:
            rows.append(message["row"])
        else:
            report(plan.id(case), message["what"], message["done"])

    order = {"sampling": asdict(plan), "cases": [asdict(case)], "rules": dict(rules)}
    try:
        code, errors = runner._listen_to(order, hear, timeout_s)
    except TimeoutError:
        return empty | {"status": "timeout", "reason": f"not finished after {timeout_s:.0f} s (--timeout)"}
    if rows:
        return rows[0]
    status, reason = runner._death(code, errors)
    return empty | {"status": status, "reason": reason}
