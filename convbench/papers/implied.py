"""The rate that a printed throughput implies, beside what the named GPU can do.

Which MACs: ``macs`` are our own, by torchprofile's convention, because the papers count in different ways and some
counts leave work out; where nobody could count the model, the printed ones. ``implied_flops_per_s`` is
2 * those * ``images_per_s``; ``printed_flops_per_s`` is the same from the printed MACs. Shares are of the data-sheet
peaks in devices.toml, because nothing can be measured on a GPU of the past. Where a paper does not name its GPU,
the peaks are an A100's: that is the GPU of the papers it quotes.

Nothing here imports torch until a model of our own families is counted.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from .. import catalogue

Row = dict[str, Any]
UNSTATED_GPU = "A100"
WINOGRAD_2X2 = 4 / 9  # products of F(2x2, 3x3) for each product of a direct 3x3 convolution (Lavin and Gray 2016)
WINOGRAD_4X4 = 1 / 4  # and of F(4x4, 3x3), the most that paper finds


@dataclass(frozen=True)
class Counted:
    """MACs of one image and one forward pass, as far as they are known."""

    macs: int | None = None
    macs_full: int | None = None  # what a tracer cannot see included, nothing elementwise
    conv3x3: int | None = None  # those of ``macs`` in dense 3x3 convolutions, which Winograd's algorithm shortens
    how: str = "as printed"
    remark: dict[str, str] | None = None  # what has to be known beside the printed count


@cache
def counted(model: str | None, res: int) -> Counted:
    """Our count of a model by counting.py; only the printed count if the model is not implemented."""
    variant = catalogue.find_printed(model, res)
    return _count(variant, res) if variant else Counted()


def _count(variant: catalogue.Variant, res: int) -> Counted:
    from ..models.counts import count_variant

    count = count_variant(variant, res)
    return Counted(
        macs=count.macs,
        macs_full=count.macs_full,
        conv3x3=count.by_kind().get("conv3x3_s1", 0),
        how="convbench flops",
        remark=variant.family.facts.get("counting", {}).get("remark"),
    )


def priced(line: Row) -> Row:
    """The keys of an audit row, but for its findings."""
    paper = catalogue.papers()[line["paper"]]
    count = counted(line["model"], line["res"])
    printed = line["gmacs"] * 1e9 if "gmacs" in line else None
    peaks_of = UNSTATED_GPU if not_stated(paper["gpu"]) else paper["gpu"]
    peaks = peaks_of_gpu(peaks_of)
    macs = printed if count.macs is None else count.macs
    rate = _rate(macs, line)
    row = {
        **{key: line.get(key) for key in ("paper", "table", "model", "label", "res", "training", "guidance")},
        **{key: paper[key] for key in ("gpu", "batch", "precision", "attention")},
        "peaks_of": peaks_of,
        "images_per_s": line.get("images_per_s"),
        "gmacs_printed": line.get("gmacs"),
        "macs": count.macs,
        "macs_full": count.macs_full,
        "conv3x3_macs": count.conv3x3,
        "macs_source": count.how,
        "implied_flops_per_s": rate,
        "printed_flops_per_s": _rate(printed, line),
    }
    for precision in ("fp32", "tf32", "fp16"):
        row[f"share_{precision}"] = _share(rate, peaks.get(precision))
    for name, kept in (("2x2", WINOGRAD_2X2), ("4x4", WINOGRAD_4X4)):
        fewer = None if macs is None or count.conv3x3 is None else macs - (1 - kept) * count.conv3x3
        row[f"share_fp32_winograd_{name}"] = _share(_rate(fewer, line), peaks.get("fp32"))
    row["source"] = f"{paper['title']}, arXiv:{paper['arxiv']}, table: {line['table']}"
    return row


def _rate(macs: float | None, line: Row) -> float | None:
    return None if macs is None or "images_per_s" not in line else 2 * macs * line["images_per_s"]


def _share(rate: float | None, peak: float | None) -> float | None:
    return None if rate is None or peak is None else rate / peak


def not_stated(words: str) -> bool:
    return words.startswith("not stated")


def peaks_of_gpu(gpu: str) -> dict[str, float]:
    """FLOP/s by precision; devices of one name differ only in their memory."""
    return next(device["flops_per_s"] for device in catalogue.devices().values() if device["gpu"] == gpu)


def macs_used(row: Row) -> float:
    """The MACs that a row's rate comes from: ours, else the printed ones."""
    return float(row["macs"] if row["macs"] is not None else row["gmacs_printed"] * 1e9)
