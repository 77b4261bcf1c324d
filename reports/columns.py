"""What each key is called in a table and how its value is printed. Imports no torch.

Inside, everything is in base units; scaling happens here and nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NOTHING = "–"  # a number that is not known


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    header: str
    text: Callable[[Any], str] = str
    left: bool = False  # words; numbers stand to the right
    of: Callable[[dict[str, Any]], Any] | None = None  # derived from the row; None for the row's own key
    spare: int = 0  # left out of a table that is too wide, the highest first; 0 for never


def scaled(unit: float, digits: int) -> Callable[[Any], str]:
    """Divide by the unit and print with that many digits behind the point."""
    return lambda value: f"{value / unit:.{digits}f}"


def significant(value: float) -> str:
    """Four significant digits, without an exponent."""
    return f"{value:.4g}" if abs(value) < 9999.5 else f"{value:.0f}"


def as_printed(value: float) -> str:
    """The digits that a paper prints, but for zeros at the end."""
    return f"{value:.10g}"


def milliseconds(value: float) -> str:
    return significant(1e3 * value)


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def interval(row: dict[str, Any]) -> float | None:
    """Half the width of the 95 % interval of ``images_per_s``, as a share of it."""
    if row.get("images_per_s") is None:
        return None
    return float((row["images_per_s_high"] - row["images_per_s_low"]) / 2 / row["images_per_s"])


def finished_interval(row: dict[str, Any]) -> float | None:
    """Half the width of the 95 % interval of ``finished_images_per_s``, as a share of it."""
    if row.get("finished_images_per_s") is None:
        return None
    width = row["finished_images_per_s_high"] - row["finished_images_per_s_low"]
    return float(width / 2 / row["finished_images_per_s"])


def sampling_share(part: str) -> Callable[[dict[str, Any]], float | None]:
    """The share that a part of sampling has in the seconds of a finished image."""

    def share(row: dict[str, Any]) -> float | None:
        seconds = row.get(f"{part}_s")
        return None if seconds is None else float(seconds * row["finished_images_per_s"])

    return share


def ratio_interval(row: dict[str, Any]) -> str | None:
    """The 95 % interval of ``ratio``."""
    return None if row.get("ratio_low") is None else f"{significant(row['ratio_low'])}-{significant(row['ratio_high'])}"


def number_interval(key: str) -> Callable[[dict[str, Any]], str | None]:
    """The 95 % interval of a figure, from its own two keys."""

    def text(row: dict[str, Any]) -> str | None:
        return None if row.get(f"{key}_low") is None else f"{row[f'{key}_low']:.2f}-{row[f'{key}_high']:.2f}"

    return text


def percent_interval(key: str) -> Callable[[dict[str, Any]], str | None]:
    """The same of a share."""

    def text(row: dict[str, Any]) -> str | None:
        low, high = (row.get(f"{key}_{end}") for end in ("low", "high"))
        return None if low is None or high is None else f"{100 * low:.0f}-{100 * high:.0f} %"

    return text


def rank(row: dict[str, Any]) -> Any:
    """The place among the rows of the same conditions, or that there is none for this one."""
    refused = row.get("verdict") == "INVALID" or row.get("unranked")
    return "not ranked" if refused else row.get("rank")


def _number_or_note(number: str, note: str) -> Callable[[dict[str, Any]], Any]:
    """A figure, or where there is none the words that say why."""
    return lambda row: row.get(note) if row.get(number) is None else row[number]


beside = _number_or_note("baseline_ratio", "baseline_note")
own_ratio = _number_or_note("our_ratio", "our_note")
over_printed = _number_or_note("over_printed", "over_printed_note")


COLUMNS: dict[str, Column] = {
    "model": Column("model", left=True),
    "name": Column("name", left=True, spare=3),
    "family": Column("family", left=True),
    "source": Column("official code", left=True),
    "licence": Column("its licence", left=True, spare=2),
    "weights_licence": Column("of weights", left=True, spare=3),
    "runs": Column("runs here", left=True),
    "skipped": Column("will be skipped", left=True),
    "res": Column("px"),
    "batch": Column("batch"),
    "backend": Column("backend", left=True),
    "precision": Column("precision", left=True),
    "device": Column("device", left=True),
    "threads": Column("threads"),
    "weights": Column("weights", left=True),
    "repeat": Column("repeat"),
    "mode": Column("step", left=True),
    "status": Column("status", left=True, spare=4),
    "verdict": Column("verdict", left=True),
    "params": Column("params M", scaled(1e6, 1), spare=1),
    "macs": Column("MACs G", scaled(1e9, 2)),
    "flops": Column("FLOPs G", scaled(1e9, 2)),
    "winograd_macs": Column("Winograd MACs G", scaled(1e9, 2)),
    "winograd_macs_all": Column("all 3x3 Winograd G", scaled(1e9, 2), spare=2),
    "macs_full": Column("full MACs G", scaled(1e9, 2), spare=1),
    "macs_as_printed": Column("as printed G", scaled(1e9, 2), spare=3),
    "macs_torchprofile": Column("torchprofile MACs G", scaled(1e9, 2)),
    "dcn_samples": Column("samples M", scaled(1e6, 1)),
    "weight_bytes": Column("weights MB", scaled(1e6, 0), spare=4),
    "activation_bytes": Column("activations MB", scaled(1e6, 0), spare=5),
    "arithmetic_intensity": Column("FLOP/B", scaled(1, 0), spare=1),
    "kind": Column("kind", left=True),
    "module": Column("module", left=True),
    "share": Column("share", lambda value: f"{100 * value:.1f} %"),
    "images_per_s": Column("images/s", significant),
    "interval": Column("95 %", lambda value: f"±{100 * value:.1f} %", of=interval, spare=2),
    "latency_s_p50": Column("latency ms", milliseconds, spare=5),
    "build_s": Column("build s", scaled(1, 1), spare=6),
    "prepare_s": Column("prepare s", scaled(1, 1), spare=7),
    "peak_bytes": Column("peak GiB", scaled(2**30, 2)),
    "mfu": Column("MFU", percent),
    "limit_fraction": Column("of limit", percent),
    "needed_bytes": Column("needs GiB", scaled(2**30, 2)),
    "total_s": Column("about s", scaled(1, 0)),
    "cost": Column("cost", scaled(1, 2)),
    "ratio": Column("ratio", scaled(1, 3)),
    "ratio_low": Column("from", scaled(1, 3), spare=1),
    "ratio_high": Column("to", scaled(1, 3), spare=1),
    "difference": Column("B is", left=True),
    "case": Column("case", left=True),
    "a": Column("A images/s", significant),
    "b": Column("B images/s", significant),
    "label": Column("model", left=True),
    "printed_in": Column("printed in", left=True),
    "gmacs_printed": Column("printed", significant),
    "params_m_printed": Column("printed M", significant),
    "remark": Column("difference", left=True),
    "printed_images_per_s": Column("images/s", lambda value: f"{value:.10g}"),
    "audited_macs": Column("MACs G", scaled(1e9, 2)),
    "implied_flops_per_s": Column("TFLOP/s", scaled(1e12, 1)),
    "share_fp32": Column("FP32", percent),
    "share_tf32": Column("TF32", percent),
    "finding": Column("finding", left=True),
    "card": Column("card", left=True),
    "gpu": Column("GPU", left=True),
    "t_shape": Column("t", left=True, spare=2),
    "sync_end": Column("waits", left=True, spare=1),
    "completeness": Column("known"),
    "ranked": Column("ranked", left=True, of=lambda row: "no" if row["unranked"] else "may be"),
    "knob": Column("knob", left=True),
    "from": Column("paper's way", left=True),
    "to": Column("our way", left=True),
    "images_per_s_before": Column("before", significant, spare=2),
    "conv_tf32": Column("conv TF32", left=True),
    "matmul_tf32": Column("matmul TF32", left=True),
    "ratio_interval": Column("95 %", of=ratio_interval),
    "printed_ratio": Column("printed", scaled(1, 2), spare=1),
    "kernel": Column("kernel", left=True),
    "families": Column("families", left=True, spare=1),
    "replaces": Column("replaces", left=True),
    "summary": Column("what it is", left=True, spare=2),
    "min_bytes": Column("least MB", scaled(1e6, 2)),
    "min_flops": Column("MFLOPs", scaled(1e6, 0), spare=3),
    "where": Column("where", left=True, spare=1),
    "path": Column("ran", left=True, spare=3),
    "error": Column("error", lambda value: f"{value:.1e}"),
    "error_eager": Column("eager's", lambda value: f"{value:.1e}", spare=2),
    "error_limit": Column("allowed", lambda value: f"{value:.1e}", spare=1),
    "configuration": Column("configuration", left=True),
    "target": Column("for", left=True),
    "registers": Column("registers"),
    "stack": Column("stack"),
    "spills": Column("spills"),
    "shared": Column("shared KiB", scaled(1024, 1)),
    "loads_128": Column("16-byte loads", spare=1),
    "loads": Column("of loads", spare=2),
    "mma": Column("MMA", spare=2),
    "seconds": Column("s", scaled(1, 1), spare=3),
    "cold_s": Column("cold µs", scaled(1e-6, 1)),
    "hot_s": Column("hot µs", scaled(1e-6, 1), spare=4),
    "eager_s": Column("eager µs", scaled(1e-6, 1), spare=3),
    "compile_s": Column("compile µs", scaled(1e-6, 1), spare=3),
    "over_eager": Column("× eager", scaled(1, 2)),
    "over_compile": Column("× compile", scaled(1, 2)),
    "copy_fraction": Column("of copy", percent),
    "copy_fraction_hot": Column("hot of copy", percent, spare=5),
    "roofline_fraction": Column("of roofline", percent, spare=1),
    "sampler": Column("sampler", left=True),
    "steps": Column("steps"),
    "cfg_scale": Column("cfg", lambda value: f"{value:g}"),
    "finished_images_per_s": Column("finished images/s", significant),
    "finished_interval": Column("95 %", lambda value: f"±{100 * value:.1f} %", of=finished_interval, spare=2),
    "backbone_share": Column("backbone", percent, of=sampling_share("backbone")),
    "guidance_share": Column("guidance", percent, of=sampling_share("guidance")),
    "sampler_share": Column("arithmetic", percent, of=sampling_share("sampler"), spare=1),
    "decoder_share": Column("decoder", percent, of=sampling_share("decoder")),
    "unattributed_share": Column("rest", percent, of=sampling_share("unattributed"), spare=1),
    "error_max": Column("largest error", lambda value: f"{value:.1e}"),
    "error_last": Column("last error", lambda value: f"{value:.1e}", spare=1),
    "artefact": Column("artefact", left=True),
    "artefact_bytes": Column("MB", scaled(1e6, 1)),
    "checked": Column("is", left=True),
    "height": Column("height"),
    "width": Column("width"),
    "t_from": Column("t from", scaled(1, 1), spare=2),
    "t_to": Column("to", scaled(1, 1), spare=2),
    "relative_l2": Column("relative L2", lambda value: f"{value:.1e}"),
    "max_abs": Column("largest", lambda value: f"{value:.1e}", spare=3),
    "cosine": Column("1 - cosine", lambda value: f"{max(0.0, 1 - value):.0e}", spare=4),
    "limit": Column("allowed", lambda value: f"{value:.0e}", spare=2),
    "first_wrong_step": Column("wrong from step", lambda value: f"{value + 1}"),
    "images": Column("images"),
    "recognised": Column("recognised", lambda value: f"{100 * value:.1f} %"),
    "recognised_interval": Column("95 %", of=percent_interval("recognised"), spare=1),
    "frechet": Column("Fréchet", scaled(1, 3)),
    "frechet_interval": Column("95 %", of=number_interval("frechet"), spare=1),
    "shift": Column("shift", lambda value: f"{value:.1e}"),
    "shift_limit": Column("allowed", lambda value: f"{value:.0e}", spare=2),
    "reason": Column("because", left=True, spare=2),
    "what": Column("what", left=True),
    "value": Column("value", left=True),
    "area": Column("for", left=True),
    "works": Column("works", left=True),
    "mend": Column("what mends it", left=True),
    # Requests to a server.
    "rate": Column("asked requests/s", significant),
    "concurrency": Column("clients"),
    "requests": Column("requests"),
    "requests_per_s": Column("requests/s", significant),
    "failed": Column("failed"),
    "late_s": Column("sent late ms", milliseconds, spare=3),
    "within": Column("within", left=True),
    # A report of stored runs.
    "file": Column("file", left=True, spare=8),
    "rank": Column("rank", of=rank),
    "baseline_ratio": Column(
        "× baseline", lambda value: value if isinstance(value, str) else f"{value:.3f}", of=beside
    ),
    "baseline_interval": Column("95 %", of=number_interval("baseline_ratio"), spare=3),
    "images_per_s_low": Column("from", significant),
    "images_per_s_high": Column("to", significant),
    "latency_s_p90": Column("p90 ms", milliseconds),
    "latency_s_p99": Column("p99 ms", milliseconds),
    "blocks": Column("blocks"),
    "processes": Column("processes"),
    "load_s": Column("load s", scaled(1, 1)),
    "flops_per_s": Column("TFLOP/s", lambda value: significant(value / 1e12)),
    "peak_flops_per_s": Column("measured peak TFLOP/s", lambda value: significant(value / 1e12)),
    "limit_images_per_s": Column("limit images/s", significant),
    "limit_wall": Column("wall", left=True),
    "error_vs_fp32": Column("error", lambda value: f"{value:.1e}"),
    "zeros_ratio": Column("zeros", scaled(1, 2)),
    "compared_with": Column("in turns with", left=True),
    "smallest_difference": Column("can tell", lambda value: f"{100 * value:.1f} %"),
    "joules_per_image": Column("J an image", significant),
    "unranked": Column("not ranked because", left=True),
    "measured_at": Column("measured at", left=True),
    # A paper's table: as printed, as counted, as replayed and as measured.
    "printed_params": Column("printed params M", lambda value: as_printed(value / 1e6)),
    "printed_macs": Column("printed MACs G", lambda value: as_printed(value / 1e9)),
    "printed_winograd_macs": Column("printed Winograd G", lambda value: as_printed(value / 1e9), spare=2),
    "counted_winograd_macs": Column("Winograd MACs G", scaled(1e9, 2), spare=2),
    "quoted_images_per_s": Column("printed images/s", as_printed),
    "quoted_ratio": Column("× of printed", scaled(1, 2)),
    "replayed_images_per_s": Column("replayed images/s", significant, spare=2),
    "our_images_per_s": Column("our images/s", significant),
    "our_verdict": Column("verdict", left=True, spare=1),
    "our_interval": Column("95 %", lambda value: f"±{100 * value:.1f} %", spare=2),
    "our_ratio": Column("× of ours", lambda value: value if isinstance(value, str) else f"{value:.2f}", of=own_ratio),
    "our_ratio_interval": Column("95 %", of=number_interval("our_ratio"), spare=3),
    "over_printed": Column(
        "ours / printed", lambda value: value if isinstance(value, str) else f"{value:.2f}", of=over_printed, spare=3
    ),
    "training": Column("steps trained", left=True, spare=4),
    "guidance": Column("guidance", left=True, spare=5),
    "fid": Column("FID (from the paper)", as_printed, spare=6),
    "inception_score": Column("IS (from the paper)", as_printed, spare=7),
    "quality_precision": Column("precision (from the paper)", as_printed, spare=8),
    "quality_recall": Column("recall (from the paper)", as_printed, spare=9),
}
