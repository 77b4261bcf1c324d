"""``convbench history``: what got faster or slower, when, and with which change of the environment."""

from pathlib import Path

import click

from . import options
from .compare import Share

KEYS = (
    *("case", "measured_at", "commit", "level_before", "level_after", "ratio", "ratio_low", "ratio_high"),
    *("difference", "changed"),
)


@click.command(
    "history",
    short_help="steps in the history of a model",
    epilog="\b\nExamples:\n  convbench history dic_xl --store duckdb:///all.db --metric images_per_s\n"
    "  convbench history dico_s --by commit --fail-above 3% --plot history.svg",
)
@click.argument("model")
@click.option("--metric", default="images_per_s", show_default=True, metavar="KEY", help="Also latency_s_p50, mfu, …")
@options.store()
@options.where()
@click.option("--by", type=click.Choice(["commit", "version", "date"]), help="Take the median of rows that share this.")
@click.option(
    "--fail-above",
    type=Share(),
    metavar="SHARE",
    help="Exit 1 if a series became worse by more than this within its last --last points.",
)
@click.option(
    "--last", type=click.IntRange(min=1), default=10, show_default=True, help="Points that --fail-above looks at."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the series to this .svg or .png.")
@options.form()
def command(
    model: str,
    metric: str,
    store: tuple[str, ...],
    where: list[str] | None,
    by: str | None,
    fail_above: float | None,
    last: int,
    plot: Path | None,
    form: str,
) -> int:
    """Find the steps in the history of a model: where a metric changed for good, and what changed with it.

    A series is one case on one machine, over commits, versions and dates. Steps are the change points of Apache Otava
    that exceed the smallest difference that convbench claims: 3 % on a CPU, 1 % on a GPU. Rows that are SUSPECT or
    INVALID are left out.
    """
    from ..reports import history
    from ..store.places import named

    found = history.history(model, named(store), metric, options.conditions(where or []), by)
    if plot is not None:
        from ..reports.plots.figures import save_as
        from ..reports.plots.history import over_time

        save_as(over_time(found.series, metric), plot)
        options.say(f"wrote {plot}", err=True)
    rows = found.rows()
    notes = history.notes(found)
    worse = [
        row
        for row in rows
        if fail_above is not None and row["difference"] == "worse" and row["points_since"] <= last
        if abs(row["ratio"] - 1) > fail_above
    ]
    notes += [f"worse by more than {fail_above:.1%}: {row['case']} since {row['measured_at']}" for row in worse]
    if form in ("json", "csv"):
        for note in notes:
            options.say(note, err=True)
    options.show(rows, KEYS, form, notes)
    return 1 if worse else 0
