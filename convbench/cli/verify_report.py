"""``convbench verify-report``: the check of a page that ``convbench report --html`` wrote."""

from pathlib import Path

import click

MOST = 40  # differences in full; one more line says how many are left


@click.command(
    "verify-report",
    short_help="recompute every cell of a page's table from the samples inside it",
    epilog="\b\nExamples:\n  convbench verify-report page.html\n  convbench verify-report downloads/page.html",
)
@click.argument("page", type=click.Path(path_type=Path))
def command(page: Path) -> int:
    """Recompute every cell of the table of PAGE and print one line for each difference; exit 1 if there is one.

    PAGE is a file of `convbench report --html`. images/s, intervals, ratios, MFU and shares of the limit are recomputed
    from the raw samples, counts and rates in it; the other cells are compared with the rows as recorded, and the raw
    data with their SHA-256. Pictures are not checked.
    """
    from ..errors import UsageError
    from ..reports.page.check import check_page

    try:
        text = page.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {page}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{page} is not a page written by convbench report --html") from None
    checked = check_page(text, str(page))
    found = [*checked.problems, *map(str, checked.differences)]
    for line in found[:MOST]:
        click.echo(line)
    if len(found) > MOST:
        click.echo(f"… and {len(found) - MOST} more")
    if not checked.passed:
        return 1
    click.echo(f"all {checked.cells} cells match, {checked.recomputed} of them recomputed from raw samples")
    return 0
