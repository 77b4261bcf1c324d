"""``convbench doctor``: what can run here, and what to do for the rest."""

import click

from . import options

KEYS = ("area", "what", "works", "reason", "mend")


@click.command(
    "doctor",
    short_help="what can run here, and the command that mends what cannot",
    epilog="\b\nExamples:\n  convbench doctor\n  convbench doctor --all --format json",
)
@click.option("--all", "every", is_flag=True, help="What works, too; json and csv always hold it.")
@options.form()
def command(every: bool, form: str) -> None:
    """Look for what convbench can use on this machine: devices, backends, exports, servers, packages and versions.

    What cannot run is shown with the reason and, where there is one, the command that mends it.
    """
    from .. import doctor

    rows = doctor.examine()
    counts = {word: sum(row["works"] == word for row in rows) for word in ("yes", "no", "perhaps")}
    notes = [f"{counts['yes']} work, {counts['no']} do not, {counts['perhaps']} are of a version that is not tested"]
    if not every and form in ("table", "markdown"):
        rows = [row for row in rows if row["works"] != "yes"]
        notes.append("--all shows what works")
    options.show(rows, KEYS, form, notes)
