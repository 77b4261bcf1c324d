"""``convbench models``: the catalogue."""

from typing import Any

import click

from . import options

ABLATION_KEYS = ("model", "label", "printed_in", "gmacs_printed", "macs", "params_m_printed", "params", "remark")
KEYS = ("model", "name", "params", "macs", "source", "licence", "weights_licence", "licence_words", "runs")


@click.command(
    "models",
    short_help="list every known model",
    epilog="\b\nExamples:\n  convbench models --family dico --format json\n  convbench models --ablations",
)
@click.option("--family", help="List only this family.")
@click.option(
    "--ablations", is_flag=True, help="List the papers' ablations and the @key=value changes that a model id accepts."
)
@click.option("--commercial", is_flag=True, help="List only models whose licences are known to allow commercial use.")
@options.form()
def command(family: str | None, ablations: bool, commercial: bool, form: str) -> None:
    """List every known model: id, size (at the resolution in `res`), official code and its licence, and whether it runs
    here.

    Printed-only models appear only in published tables: no implementation exists, so they cannot be measured.

    The licences are those of the official code and of the authors' weights; neither is part of convbench.
    """
    from .. import catalogue
    from ..catalogue.licences import licences_of
    from ..errors import UsageError

    if ablations:
        from ..catalogue.ablations import option_lines
        from ..papers.ablations import printed

        options.show(printed(), ABLATION_KEYS, form, list(option_lines()))
        return
    known = catalogue.families()
    if family is not None and family not in known:
        raise UsageError(f"unknown family '{family}'; choose from {', '.join(known)}")
    rows = []
    for variant in catalogue.variants().values():
        if family in (None, variant.family.module):
            source = variant.family.facts["source"]
            stated = licences_of(variant)
            if commercial and not stated.commercial:
                continue
            rows.append(
                {
                    "model": variant.id,
                    "name": variant.name,
                    "family": variant.family.name,
                    "source": source["repository"],
                    "commit": source["commit"],
                    "licence": stated.code,
                    "weights_licence": stated.weights,
                    "licence_words": stated.words,
                    "paper": variant.family.facts["arxiv"],
                    "res": variant.res,
                    "params": variant.params,
                    "macs": variant.macs,
                    "runs": variant.runs,
                    "remark": variant.remark,
                }
            )
    if family is None and not commercial:
        rows += [_printed_only(id, system) for id, system in catalogue.printed_only().items()]
    notes = [f"{row['model']}: {row['remark']}." for row in rows if row["remark"]]
    if form in ("json", "csv"):
        options.show(rows, KEYS, form)
        return
    exceptions = [f"{row['source']}, licence: {row['licence']}." for row in rows if "; " in (row["licence"] or "")]
    shown = [{**row, "licence": _main_licence(row["licence"])} for row in rows]
    options.show(shown, KEYS, form, [*dict.fromkeys(exceptions), *notes])


def _main_licence(licence: str | None) -> str | None:
    """The licence of most files, marked where some have another."""
    main, _, exceptions = (licence or "").partition("; ")
    return f"{main} (mostly)" if exceptions else licence


def _printed_only(id: str, system: dict[str, Any]) -> dict[str, Any]:
    unknown = dict.fromkeys(("family", "commit", "res", "params", "macs", "weights_licence", "licence_words"))
    return {
        "model": id,
        "name": system["name"],
        **unknown,
        "source": system.get("code"),
        "licence": system.get("licence"),
        "paper": system["source"],
        "runs": "printed only",
        "remark": system["reason"],
    }
