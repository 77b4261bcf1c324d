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
@click.option("--ablations", is_flag=True, help="List the papers' ablations and the changes that an id accepts.")
@click.option("--commercial", is_flag=True, help="Only models whose licences are known to allow commercial use.")
@options.form()
def command(family: str | None, ablations: bool, commercial: bool, form: str) -> None:
    """List every known model: id, size (at the pixels of `res`), official code, its licence, and whether it runs here.

    Printed-only models appear in published tables; no implementation exists, so they are never measured.

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
        raise UsageError(f"unknown family '{family}': there are {', '.join(known)}")
    rows = []
    for variant in catalogue.variants().values():
        if family in (None, variant.family.module):
            source = variant.family.facts["source"]
            known = licences_of(variant)
            if commercial and not known.commercial:
                continue
            rows.append(
                {
                    "model": variant.id,
                    "name": variant.name,
                    "family": variant.family.name,
                    "source": source["repository"],
                    "commit": source["commit"],
                    "licence": known.code,
                    "weights_licence": known.weights,
                    "licence_words": known.words,
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
    options.show(rows, KEYS, form, [f"{row['model']}: {row['remark']}." for row in rows if row["remark"]])


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
