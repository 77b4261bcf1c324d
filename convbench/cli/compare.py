"""``convbench compare``: two stored runs."""

from typing import Any

import click

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
@click.option(
    "--fail-above",
    type=Share(),
    metavar="SHARE",
    help="Exit with 1 if a case became slower by more than this, e.g. 3%.",
)
@options.form()
def command(a: str, b: str, fail_above: float | None, form: str) -> int:
    """Compare run B with run A: the ratio of images/s for each case in both, with its 95 % interval.

    A and B are result files, folders or globs of them, or stores (`convbench store`). The latest row of a case counts.

    A case counts as faster or slower only if its whole interval lies beyond the smallest difference that both runs can
    detect. With --fail-above, a case fails if its whole interval lies below 1 minus that share.
    """
    from ..reports.compare import compared_runs, nothing_in_common

    found = compared_runs(a, b)
    slower = [row for row in found.rows if fail_above is not None and row["ratio_high"] < 1 - fail_above]
    notes = [*found.notes, *(f"slower by more than {fail_above:.1%}: {row['case']}" for row in slower)]
    if form in ("json", "csv"):
        for note in notes:
            options.say(note, err=True)
    options.show(found.rows, KEYS, form, notes)
    if not found.rows:
        raise nothing_in_common(a, b)
    return 1 if slower else 0
