"""``convbench audit``: the printed throughputs of the papers against what a GPU can do."""

import difflib
from typing import Any

import click

from .. import catalogue
from . import options

KEYS = (
    "label",
    "res",
    "printed_in",
    "printed_images_per_s",
    "audited_macs",
    "implied_flops_per_s",
    "share_fp32",
    "share_tf32",
    "finding",
)
RIVALS = "rivals"
RIVALS_KEYS = ("label", "conditions", "params", "macs", "printed_fid", "finding", "printed_in")


@click.command(
    "audit",
    short_help="check the papers' printed throughputs against GPU peaks",
    epilog="\b\nExamples:\n  convbench audit --paper fcdm --model dic_xl,dico_xl,fcdm_xl\n"
    "  convbench audit --paper rivals --model ddt_xl_2,jit_b_16",
)
@click.option(
    "--paper",
    type=options.CommaList(known=lambda: [*catalogue.papers(), RIVALS]),
    metavar="P[,P…]",
    help=f"Papers to audit: {', '.join(catalogue.papers())}. Or {RIVALS}: the sizes and FIDs that newer backbones "
    "print, with the conditions of each.",
)
@options.model(required=False, help="Ids of the models to audit, including printed-only models.")
@options.form()
def command(paper: list[str] | None, model: list[str] | None, form: str) -> None:
    """Audit every throughput that the papers print: the FLOP/s it implies, as a share of the GPU's data-sheet peaks.

    MACs are our own count, or the printed one if the model is not implemented. The table shows lines of one paper with
    the same numbers once; json and csv have a row for every line, with both counts, every share and the findings.
    """
    from ..papers import audit

    if paper and RIVALS in paper:
        _show_rivals(paper, model, form)
        return
    _require_known(paper, model)
    rows = audit.audit(paper, model)
    if form == "json":
        options.show(rows, KEYS, form)
    elif form == "csv":
        options.show([{**row, "findings": " ".join(row["findings"])} for row in rows], KEYS, form)
    else:
        options.show([_shown(row) for row in audit.merged(rows)], KEYS, form, _notes(rows))


def _show_rivals(papers: list[str], models: list[str] | None, form: str) -> None:
    """Show the page of the rivals, which has other columns than that of a paper."""
    from ..errors import UsageError
    from ..papers.findings import FINDINGS
    from ..papers.rivals import AS_COUNTED, rivals

    if len(papers) > 1:
        raise UsageError(f"--paper {RIVALS} has columns of its own: audit it alone")
    ids = list(dict.fromkeys(line["model"] for line in catalogue.quoted_lines()))
    _require_models(models, ids, "no FID of '{}' is quoted")
    rows = rivals(models)
    found = {code for row in rows for code in row["findings"]}
    notes = [
        "FID belongs to the authors' weights and samplers; convbench does not measure it. Lines compare only where all "
        "conditions are equal and stated, so the order is not a ranking: by conditions, then by MACs. "
        "`convbench report RUN… --paper rivals` adds measured images/s.",
        f"MACs and parameters are ours. {AS_COUNTED}: the source prints the same digits; empty: it prints none.",
        *(f"{FINDINGS[code][0]}: {FINDINGS[code][1]}." for code in FINDINGS if code in found and FINDINGS[code][0]),
        *(f"{row['label']}, {row['printed_in']}: {row['words']}" for row in rows if row["words"]),
        *_family_remarks(rows),
    ]
    if form == "csv":
        rows = [{**row, "findings": " ".join(row["findings"])} for row in rows]
    options.show(rows, RIVALS_KEYS, form, notes)


def _family_remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Return the remarks on the counts of the families shown."""
    shown = {catalogue.find_in_zoo(row["model"]).family.module for row in rows}
    remarks = [catalogue.families()[module].facts.get("counting", {}).get("remark") for module in sorted(shown)]
    return [remark["words"] for remark in remarks if remark]


def _require_models(models: list[str] | None, ids: list[str], words: str) -> None:
    """Raise UsageError with the nearest ids for a model that has no row."""
    from ..errors import UsageError

    for model in models or []:
        if model not in ids:
            near = difflib.get_close_matches(model, ids, n=3, cutoff=0.5) or ids
            raise UsageError(f"{words.format(model)}; choose from {', '.join(near)}")


def _require_known(papers: list[str] | None, models: list[str] | None) -> None:
    """Raise UsageError for a paper or model that has no row, or for a pair of them that has none."""
    from ..errors import UsageError
    from ..papers.audit import audited_lines

    lines = audited_lines()
    for paper in papers or []:
        if paper not in catalogue.papers():
            raise UsageError(f"unknown paper '{paper}'; choose from {', '.join(catalogue.papers())}, {RIVALS}")
    ids = list(dict.fromkeys(line["model"] for line in lines if line["model"]))
    _require_models(models, ids, "no paper prints a throughput of '{}'")
    for model in models or []:
        if papers and not any(line["paper"] in papers and line["model"] == model for line in lines):
            raise UsageError(f"no throughput of {model} is printed in {', '.join(papers)}")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what a table shows in place of several keys."""
    from ..papers.findings import FINDINGS
    from ..papers.implied import macs_used

    tables = row["table"] if row["table"][0].isdigit() else ""  # the poster's tables have titles
    return {
        **row,
        "printed_in": f"{row['paper'].replace('_', ' ')} {tables}".strip(),
        "printed_images_per_s": row["images_per_s"],
        "audited_macs": macs_used(row),
        "finding": "; ".join(FINDINGS[code][0] for code in row["findings"] if FINDINGS[code][0]),
    }


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """Legend of the table, remarks on some counts, and the conditions under which the papers timed."""
    from ..papers.findings import FINDINGS
    from ..papers.implied import counted

    found = {code for row in rows for code in row["findings"]}
    meanings = [f"{name}: {meaning}." for code, (name, meaning) in FINDINGS.items() if name and code in found]
    remarks = [counted(row["model"], row["res"]).remark for row in rows if row["gmacs_printed"]]
    stated = {row["paper"]: catalogue.papers()[row["paper"]] for row in rows}
    return [
        "TFLOP/s are 2 * MACs * images/s; FP32 and TF32 are shares of the GPU's data-sheet peaks at these precisions. "
        "The MACs are ours, or the printed ones where nobody could count the model. `--format json` says which, and "
        "has every finding in words.",
        *meanings,
        *dict.fromkeys(remark["words"] for remark in remarks if remark),
        *(
            f"{key}: {paper['title']}, arXiv:{paper['arxiv']}. GPU {paper['gpu']}, batch {paper['batch']}, "
            f"precision {paper['precision']}; {paper['attention']} ({paper['printed_in']})."
            for key, paper in stated.items()
        ),
    ]
