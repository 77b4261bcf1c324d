"""``convbench verify-report``: the check of a page that ``convbench report --html`` wrote."""

from pathlib import Path

import click

from . import options

MOST = 40  # differences in full; one more line says how many are left


@click.command(
    "verify-report",
    short_help="recompute every cell of a page's table from the samples inside it",
    epilog="\b\nExamples:\n  convbench verify-report page.html\n  convbench verify-report downloads/page.html",
)
@click.argument("page", type=click.Path(path_type=Path))
def command(page: Path) -> int:
    """Recompute every table cell of PAGE and print one line per difference; exits with 1 if there are any.

    PAGE is a file written by `convbench report --html`. images/s, intervals, ratios, MFU and shares of the limit are
    recomputed from the raw samples, counts and rates in it; the other cells are compared with the rows as recorded, and
    the raw data with their SHA-256. Pictures are not checked.
    """
    from ..errors import UsageError
    from ..files import MOST_PAGE, read_bytes
    from ..reports.page.check import check_page

    try:
        text = read_bytes(page, MOST_PAGE).decode()  # line breaks as they are: cells may hold some
    except UnicodeDecodeError:
        raise UsageError(f"{page} is not a page written by convbench report --html") from None
    checked = check_page(text, str(page))
    found = [*checked.problems, *map(str, checked.differences)]
    for line in found[:MOST]:
        options.say(line)
    if len(found) > MOST:
        options.say(f"… and {len(found) - MOST} more")
    if not checked.passed:
        return 1
    options.say(f"all {checked.cells} cells match, {checked.recomputed} of them recomputed from raw samples")
    return 0
