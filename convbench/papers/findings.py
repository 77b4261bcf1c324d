"""Findings on a printed throughput: short codes, and sentences with the numbers. Imports no torch.

The wording is neutral: a number is consistent with something or not; why it is as it is, it does not tell.
"""

from collections.abc import Callable, Iterator

from .. import catalogue
from .implied import Row, counted, macs_used, not_stated, priced

Finding = tuple[str, str]  # code, words

MARGIN = 1.02  # of a peak: digits cut off, and counted MACs that are not products
UTILISATION_CHANGE = 1.25  # between resolutions of one model in one paper; that of DiT-XL/2 is 1.07
AT_PEAK = 0.98  # of the FP32 peak: more than a run of anything but large products alone can be expected to reach
COUNT_DIFFERS = 0.002  # of a printed count, and more than one in its last digit: the rest is rounding

FINDINGS = {  # code -> what a table calls it, what it means; no name: shown under the table, not in it
    "fp32": ("fits FP32", "at or under the FP32 peak; another precision is not excluded"),
    "at_peak": (
        "at the peak",
        "at least 98 % of the FP32 peak: in FP32 alone, that leaves no time for anything but products",
    ),
    "above_fp32": (
        "above FP32",
        "above the FP32 peak; its 3x3 convolutions are not counted, so Winograd cannot be excluded",
    ),
    "tensor_cores_or_winograd": (
        "tensor cores or Winograd",
        "above the FP32 peak, unless Winograd's algorithm saves up to 3/4 of the products of 3x3 convolutions",
    ),
    "tensor_cores": ("tensor cores", "above the FP32 peak even with Winograd: TF32 or half precision"),
    "above_tf32": ("above TF32", "above the TF32 peak, by direct counting"),
    "above_fp16": ("above FP16", "above every peak of the GPU, by direct counting"),
    "above_stated": ("stated fp32", "the paper states fp32; the rate is above the FP32 peak"),
    "printed_differently": (
        "differs between papers",
        "another table prints a different throughput for the same model and size",
    ),
    "scaling": ("scaling", "FLOP/s change by over a quarter between resolutions of one model in one paper"),
    "count_leaves_out": ("incomplete count", "the printed MACs omit a part of the network"),
    "count_differs": ("count differs", "the printed MACs differ from our count"),
    "macs_differ": ("MACs differ", "the printed MACs differ from our count"),
    "params_differ": ("parameters differ", "the printed parameters differ from our count"),
    "two_networks": ("two networks", "the printed MACs are the sum of two networks"),
    "other_counter": ("other counter", "the printed MACs also include additions, activations and norms"),
    "another_model": ("not as released", "the printed MACs are not those of the released model"),
    "precision_not_stated": ("", "the paper does not state the precision"),
    "gpu_not_stated": ("", "the paper does not state the GPU"),
}


def find(row: Row, lines: list[Row]) -> list[Finding]:
    """The findings of one row, beside every audited line of the papers."""
    return [finding for rule in RULES for finding in rule(row, lines)]


def _precision(row: Row, lines: list[Row]) -> Iterator[Finding]:
    fp32, tf32, fp16 = row["share_fp32"], row["share_tf32"], row["share_fp16"]
    if fp32 is None:
        return
    rate = f"{row['implied_flops_per_s'] / 1e12:.1f} TFLOP/s: {_percent(fp32)} of the {row['peaks_of']}'s FP32 peak"
    if fp32 <= MARGIN:
        yield "fp32", f"{rate}, consistent with FP32; another precision is not excluded."
        if fp32 >= AT_PEAK:
            yield "at_peak", "At the peak itself, FP32 alone would leave no time for anything but matrix products."
        return
    rate += f" and {_percent(tf32)} of its TF32 peak" if tf32 is not None else ""
    if min(share for share in (tf32, fp16) if share is not None) > MARGIN:
        yield "above_fp16", f"{rate}; above every peak of the GPU by direct counting."
    elif tf32 is not None and tf32 > MARGIN:
        yield "above_tf32", f"{rate}; by direct counting, only half precision is that fast."
    else:
        yield _tensor_cores(row, rate)
    if row["precision"] == "fp32":
        yield (
            "above_stated",
            "The paper states fp32. On such a GPU PyTorch computes the convolutions of fp32 tensors in TF32 unless "
            "told otherwise, which would fit.",
        )


def _tensor_cores(row: Row, rate: str) -> Finding:
    small, large = row["share_fp32_winograd_2x2"], row["share_fp32_winograd_4x4"]
    if small is None:
        return "above_fp32", f"{rate}. Its 3x3 convolutions are not counted, so what Winograd could save is unknown."
    winograd = (
        f"With Winograd's F(2x2, 3x3) in every dense 3x3 convolution {_percent(small)} of the FP32 peak would suffice, "
        f"with F(4x4, 3x3) {_percent(large)}, their transforms not counted"
    )
    if large <= MARGIN:
        return "tensor_cores_or_winograd", f"{rate}. {winograd}."
    return "tensor_cores", f"{rate}. {winograd}: only tensor cores reach it."


def _elsewhere(row: Row, lines: list[Row]) -> Iterator[Finding]:
    """Other tables' throughputs of the same model and size that are not the same after rounding."""
    here = row["images_per_s"]
    if here is None or row["model"] is None:
        return
    others: dict[tuple[str, float], list[str]] = {}
    for line in lines:
        there = line.get("images_per_s")
        same = (line["model"], line["res"]) == (row["model"], row["res"])
        if same and there is not None and not agree(here, there):
            name = line["table"] + (f" as {line['label']}" if line["label"] != row["label"] else "")
            tables = others.setdefault((line["paper"], there), [])
            tables += [name] if name not in tables else []
    if others:
        papers = catalogue.papers()
        words = "; ".join(
            f"{there:g} ({paper}, table: {', '.join(tables)}; batch {papers[paper]['batch']})"
            for (paper, there), tables in others.items()
        )
        yield "printed_differently", f"Printed elsewhere, in images/s: {words}; here {here:g}, batch {row['batch']}."


def _scaling(row: Row, lines: list[Row]) -> Iterator[Finding]:
    """The same paper's other resolutions of the model: at equal utilisation FLOP/s would be equal."""
    if row["model"] is None or not row["implied_flops_per_s"]:
        return
    seen: set[float] = set()
    for line in lines:
        same = (line["paper"], line["model"]) == (row["paper"], row["model"])
        if not same or line["res"] == row["res"] or line.get("images_per_s") in (None, *seen):
            continue
        seen.add(line["images_per_s"])
        low, high = sorted((row, priced(line)), key=lambda each: each["res"])
        growth = macs_used(high) / macs_used(low)
        change = high["implied_flops_per_s"] / low["implied_flops_per_s"]
        if max(change, 1 / change) > UTILISATION_CHANGE:
            yield (
                "scaling",
                f"From {low['res']} to {high['res']} pixels the MACs grow {growth:.2f}-fold and "
                f"images/s fall {low['images_per_s'] / high['images_per_s']:.2f}-fold, from {low['images_per_s']:g} to "
                f"{high['images_per_s']:g}: the FLOP/s are {change:.2f} times as high. At equal utilisation it "
                f"would be {low['images_per_s'] / growth:.4g} images/s.",
            )


def _count(row: Row, lines: list[Row]) -> Iterator[Finding]:
    printed, ours = row["gmacs_printed"], row["macs"]
    if printed is None or ours is None:
        return
    full = row["macs_full"] or 0
    numbers = f"Printed {printed:g} GMACs, ours {ours / 1e9:.2f}"
    numbers += f", {full / 1e9:.2f} including what no tracer sees." if full > ours else "."
    remark = counted(row["model"], row["res"]).remark
    if remark:
        yield remark["code"], f"{remark['words']} {numbers}"
    elif abs(printed - ours / 1e9) > max(10.0 ** -decimals(printed), COUNT_DIFFERS * printed):
        yield "count_differs", f"{numbers[:-1]}: {100 * (printed * 1e9 / ours - 1):+.1f} %, not explained."


def _protocol(row: Row, lines: list[Row]) -> Iterator[Finding]:
    if not_stated(row["precision"]):
        yield "precision_not_stated", "The paper does not state the precision."
    if not_stated(row["gpu"]):
        yield "gpu_not_stated", f"The paper does not state the GPU; the peaks are the {row['peaks_of']}'s."


RULES: tuple[Callable[[Row, list[Row]], Iterator[Finding]], ...] = (_precision, _elsewhere, _scaling, _count, _protocol)


def agree(a: float, b: float) -> bool:
    """True if two printed numbers agree to the digits of the shorter one."""
    return abs(a - b) <= 0.5 * 10.0 ** -min(decimals(a), decimals(b)) * (1 + 1e-9)


def decimals(printed: float) -> int:
    """Digits behind the point, as printed: 0 for 1234.0, which nobody can tell from 1234."""
    return len(f"{printed:.10g}".partition(".")[2])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
