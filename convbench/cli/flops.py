"""``convbench flops``: what a forward pass costs, counted."""

from typing import Any

import click

from . import options

KEYS = (
    "model",
    "res",
    "params",
    "macs",
    "winograd_macs",
    "winograd_macs_all",
    "winograd4_macs_all",
    "macs_full",
    "macs_as_printed",
    "macs_torchprofile",
    "dcn_samples",
    "weight_bytes",
    "activation_bytes",
    "arithmetic_intensity",
)
NOTE = "MACs are for one image and one forward pass, by torchprofile's convention: what the papers print as FLOPs."


@click.command(
    "flops",
    short_help="count parameters, MACs, FLOPs and bytes",
    epilog="\b\nExamples:\n  convbench flops --model dic_s,dic_b,dic_xl,dic_h --res 256\n"
    "  convbench flops --model dig_xl_2 --res 512 --by kind --format json",
)
@options.model()
@options.res("256")
@click.option("--by", type=click.Choice(["kind", "module"]), help="Split the MACs by kind of operator or by module.")
@click.option(
    "--profiler", type=click.Choice(["torchprofile"]), help="Count with torchprofile as well, for comparison."
)
@options.form()
def command(model: list[str], res: list[int], by: str | None, profiler: str | None, form: str) -> None:
    """Count parameters, MACs, FLOPs and bytes of one image and one forward pass. Runs no network and loads no weights.

    \b
    macs               torchprofile's convention: the number the papers print as FLOPs
    winograd_macs      3x3 convolutions inside blocks count 4/9: the DiC paper's rule
    winograd_macs_all  every dense 3x3 convolution of stride 1 counts 4/9
    winograd4_macs_all the same count 1/4: F(4x4,3x3), which the backend winograd runs
    macs_full          every product, including those that profilers miss (linear attention, scans)
    macs_as_printed    without the products that the papers' profilers missed (DiG, DiM, DiMSUM)
    dcn_samples        weighted samples of deformable convolutions (FlowDCN); in no count above
    """
    from .. import catalogue
    from ..models import counts

    variants = [catalogue.find(id) for id in model]
    for variant in variants:
        for side in res:
            variant.require_res(side)
    rows: list[dict[str, Any]] = []
    for variant in variants:
        for side in res:
            counted = counts.count_variant(variant, side)
            row = counts.count_row(variant, side, counted)
            if profiler:
                row["macs_torchprofile"] = counts.torchprofile_macs(variant, side)
            if by:
                rows += _split(row, by, counted)
            else:
                rows.append(row)
    if by:
        options.show(rows, ("model", "res", by, "macs", "share"), form, _split_notes(by))
    else:
        sampled = any(row["dcn_samples"] for row in rows)
        options.show(rows, [key for key in KEYS if sampled or key != "dcn_samples"], form, [NOTE])


def _split(row: dict[str, Any], by: str, counted: Any) -> list[dict[str, Any]]:
    parts = counted.by_kind() if by == "kind" else counted.by_module()
    total = sum(parts.values())
    return [
        {"model": row["model"], "res": row["res"], by: part, "macs": macs, "share": macs / total}
        for part, macs in parts.items()
    ]


def _split_notes(by: str) -> list[str]:
    if by == "module":
        return ["The modules add up to macs."]
    return ["The kinds add up to macs, but for gla_core and scan_core, which only macs_full holds."]
