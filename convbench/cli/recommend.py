"""``convbench recommend``: the fastest for each machine and set of conditions."""

import click

from . import options

KEYS = ("words",)


@click.command(
    "recommend",
    short_help="the fastest model and backend, from stored rows",
    epilog="\b\nExamples:\n  convbench recommend --store run.jsonl\n"
    "  convbench recommend --where res=256,batch=1 --commercial --format json",
)
@options.store()
@options.where()
@click.option("--commercial", is_flag=True, help="Only models whose licences are known to allow commercial use.")
@options.form()
def command(store: tuple[str, ...], where: list[str] | None, commercial: bool, form: str) -> int:
    """Name the fastest model and backend for each machine, size, batch and precision that was measured.

    Only speed is compared: nothing here knows how good the images are. Rows that cannot be told apart tie. SUSPECT and
    INVALID rows are not recommended.
    """
    from ..errors import NothingMeasured
    from ..reports.recommend import recommendations
    from ..store.places import matching_rows, named

    found = recommendations(matching_rows(named(store), options.conditions(where or [])), commercial)
    if not found:
        raise NothingMeasured("no two valid rows of the same machine, size, batch and precision to choose from")
    if form == "table":
        for each in found:
            options.say(each.words)
    else:
        options.show([each.to_json() for each in found], KEYS, form)
    return 0
