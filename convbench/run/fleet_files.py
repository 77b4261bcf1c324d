"""Files that a fleet finds again, as data of unknown origin: the state of a run that was ended and results of jobs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError, first_line
from ..files import read_json
from ..schema import KINDS, Row, Second
from ..schema.rowcheck import row_problem
from ..schema.typecheck import record_problem, shown

RUN, NAME = re.compile(r"[0-9a-f]{8}"), re.compile(r"convbench-[0-9a-f]{8}-[0-9]{1,9}-[0-9]{1,9}")
HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")


@dataclass
class Running:
    """A job as the state file holds it."""

    task: str
    name: str
    batch: str  # submitted under this name
    attempt: int
    handle: str | None = None  # None while it is being submitted
    node: str | None = None
    began: float | None = None  # by time.time(), when it was first seen to run


@dataclass
class RunState:
    """Jobs and counts that a killed driver has to find again."""

    run: str
    launcher: str
    submissions: int = 0
    jobs: list[Running] = field(default_factory=list)
    avoid: dict[str, list[str]] = field(default_factory=dict)  # by task: nodes on which it was lost
    attempts: dict[str, int] = field(default_factory=dict)
    lost_s: Second = 0.0
    losses: int = 0


def read_state(path: Path) -> RunState:
    """Read the state of a run. Raises UsageError for a file that is none."""
    held = read_json(path)
    jobs = held.pop("jobs", None) if isinstance(held, dict) else None
    if wrong := _state_problem(held, jobs):
        raise UsageError(f"{path} is not the state of a run ({wrong}): remove {path.parent}")
    return RunState(**held, jobs=[Running(**job) for job in jobs or []])


def _state_problem(held: Any, jobs: Any) -> str | None:
    """Reason why a state and its jobs are not ours: names become paths, handles arguments of programs."""
    if found := record_problem(held, RunState):
        return found
    if not RUN.fullmatch(held["run"]) or not isinstance(jobs, list):
        return "no run" if isinstance(jobs, list) else "no jobs"
    for job in jobs:
        if found := record_problem(job, Running):
            return found
        if not job["name"].startswith(f"convbench-{held['run']}-") or not NAME.fullmatch(job["name"]):
            return f"a job named {shown(job['name'])}"
        if job["batch"] != job["name"].rpartition("-")[0] or not HANDLE.fullmatch(job.get("handle") or "1"):
            return f"a handle {shown(job.get('handle'))}"
    return None


def rows_of(result: Any, kinds: tuple[type[Row], ...]) -> list[Row] | None:
    """Rows of a result, checked; None of one that was refused. Raises UsageError for anything else."""
    if not isinstance(result, dict) or not isinstance(result.get("place", {}), dict):
        raise UsageError("not a result of a job")
    if isinstance(result.get("refused"), str):
        return None
    if not isinstance(result.get("rows"), list):
        raise UsageError("no rows")
    return [_row_of(values, result.get("place", {}), kinds) for values in result["rows"]]


def _row_of(values: Any, place: Mapping[str, Any], kinds: tuple[type[Row], ...]) -> Row:
    if not isinstance(values, dict) or not issubclass(KINDS.get(str(values.get("kind")), Row), kinds):
        raise UsageError("a row of an unknown kind")
    if found := row_problem(values):
        raise UsageError(f"a row has {found}")
    try:
        row = KINDS[values["kind"]].from_json(values)
    except TypeError as error:  # a key without a default is missing
        raise UsageError(first_line(error)) from None
    return replace(row, place=dict(place))
