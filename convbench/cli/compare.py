"""``convbench compare``: two stored runs."""

from typing import Any

import click

from ..schema.rowcheck import has_speeds
from ..store import changed_conditions
from ..timing.compare import compare_rows
from . import options

KEYS = ("case", "a", "b", "ratio", "ratio_low", "ratio_high", "difference")


class Share(click.ParamType):  # type: ignore[type-arg] # generic in the newest click only
    """A share such as 3% or 0.03."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            self.fail(f"'{value}' is not a share such as 3%", param, ctx)
        if not 0 <= share < 1:
            self.fail(f"'{value}' is not between 0% and 100%", param, ctx)
        return share


@click.command(
    "compare",
    short_help="compare two stored runs, case by case",
    epilog="\b\nExamples:\n  convbench compare before.jsonl after.jsonl\n"
    "  convbench compare duckdb:///main.db after.jsonl --fail-above 3% --format markdown",
)
@click.argument("a")
@click.argument("b")
@click.option("--fail-above", type=Share(), metavar="SHARE", help="Exit 1 if a case became slower by more than this.")
@options.form()
def command(a: str, b: str, fail_above: float | None, form: str) -> int:
    """Compare run B with run A: the ratio of images/s for each case that both hold, with its 95 % interval.

    A and B are result files, folders or globs of them, or stores (`convbench store`); where one holds a case several
    times, its latest row counts.

    Faster and slower are said only where the whole interval lies beyond the smallest difference that both runs can
    tell. With --fail-above, a case fails if its whole interval lies below 1 minus that share.
    """
    from ..errors import NothingMeasured
    from ..store.places import stored_rows

    before, after = runs = [_latest(stored_rows(place)) for place in (a, b)]
    matched = [case for case in runs[0] if case in runs[1]]
    usable = [case for case in matched if all(_is_usable(run[case]) for run in runs)]
    rows: list[dict[str, Any]] = []
    for case in usable:
        first, second = (run[case] for run in runs)
        found = compare_rows(first, second)
        rows.append(
            {
                "case": case,
                "a": first["images_per_s"],
                "b": second["images_per_s"],
                "ratio": found.ratio,
                "ratio_low": found.low,
                "ratio_high": found.high,
                "difference": found.difference,
            }
        )
    notes = [f"only in {a}: {case}" for case in before if case not in after]
    notes += [f"only in {b}: {case}" for case in after if case not in before]
    notes += [f"not measured in both: {case}" for case in matched if case not in usable]
    notes += _changed(runs, usable)
    slower = [row for row in rows if fail_above is not None and row["ratio_high"] < 1 - fail_above]
    notes += [f"slower by more than {fail_above:.1%}: {row['case']}" for row in slower]
    if form in ("json", "csv"):
        for note in notes:
            options.say(note, err=True)
    options.show(rows, KEYS, form, notes)
    if not rows:
        raise NothingMeasured(f"{a} and {b} have no measured case in common")
    return 1 if slower else 0


def _latest(rows: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The latest row of each case; of one moment, the last."""
    ordered = sorted((row for _, row in rows), key=lambda row: row.get("measured_at") or "")
    return {row["case"]: row for row in ordered}


def _is_usable(row: dict[str, Any]) -> bool:
    return row["status"] == "ok" and has_speeds(row)


def _changed(runs: list[dict[str, dict[str, Any]]], cases: list[str]) -> list[str]:
    """List the differences between the environments of two runs, as a ratio across machines says little."""
    return sorted(
        {
            f"environments differ in {change}"
            for case in cases
            for change in changed_conditions(*(run[case]["environment"] or {} for run in runs))
        }
    )
