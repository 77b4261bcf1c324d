"""Rows with what is found about them after they were built."""

from dataclasses import replace
from typing import TypeVar

from ..checks.output import Finding
from ..schema import VERDICTS, CaseRow, Row
from ..timing.compare import Comparison

C = TypeVar("C", bound=CaseRow)
R = TypeVar("R", bound=Row)


def with_ratio(row: C, counterpart: str, found: Comparison) -> C:
    """The row with the ratio of its speed to that of its counterpart, a case."""
    return replace(
        row,
        compared_with=counterpart,
        ratio=found.ratio,
        ratio_low=found.low,
        ratio_high=found.high,
        difference=found.difference,
    )


def with_finding(row: R, found: Finding) -> R:
    """The row with one more finding: the worse of both verdicts, and both reasons."""
    verdict = max(row.verdict or "VALID", found.severity, key=VERDICTS.index)
    return replace(row, verdict=verdict, reason="; ".join(filter(None, [row.reason, str(found)])))
