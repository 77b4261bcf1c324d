"""``--backend auto``: the fastest backend for a case, by the rows of a file, or every one that can run here."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from .. import backends
from ..schema import Case, CaseRow, Row
from .plan import AUTO


def asked(cases: Sequence[Case]) -> list[Case]:
    """Every case that ``resolved`` may ask about."""
    return [replace(case, backend=name) for case in cases if case.backend == AUTO for name in backends.names()]


def resolved(cases: Sequence[Case], rows: Iterable[Row], unsupported: Callable[[Case], str | None]) -> list[Case]:
    """The cases, each ``auto`` replaced by the fastest backend where the rows hold at least two for that case.

    Otherwise by all backends that can run it and are ranked, so that the run itself finds the fastest. INVALID rows
    and those that are never ranked do not count.
    """
    measured = [row for row in rows if isinstance(row, CaseRow)]
    found: list[Case] = []
    for case in cases:
        found += _candidates(case, measured, unsupported) if case.backend == AUTO else [case]
    return list(dict.fromkeys(found))


def _candidates(case: Case, rows: Sequence[CaseRow], unsupported: Callable[[Case], str | None]) -> list[Case]:
    speeds: dict[str, float] = {}
    for row in rows:
        if row.case == replace(case, backend=row.backend).id and is_ranked(row):
            speeds[row.backend] = max(row.speed or 0.0, speeds.get(row.backend, 0.0))
    if len(speeds) >= 2:
        return [replace(case, backend=max(speeds, key=lambda name: speeds[name]))]
    possible = [replace(case, backend=name) for name in backends.names()]
    return [each for each in possible if not backends.find(each.backend).unranked(each) and unsupported(each) is None]


def is_ranked(row: CaseRow) -> bool:
    """True if a row may be chosen: measured, not INVALID, and not one that is only listed."""
    return row.status == "ok" and row.verdict != "INVALID" and not row.unranked
