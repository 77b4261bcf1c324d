"""What a stored row may hold: the type of every key, by the kind of row. A file may come from anybody.

A measurement has the keys of ``schema.Measurement``; the rows of other commands are listed here.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .schema import STATUSES, VERDICTS, Measurement
from .typecheck import field_problems, problem, shown

Row = Mapping[str, Any]

KINDS: tuple[tuple[str, Callable[[Row], bool]], ...] = (  # the first that fits
    ("audit", lambda row: "implied_flops_per_s" in row),
    ("kinds", lambda row: "kind" in row and "share" in row),
    ("modules", lambda row: "module" in row and "share" in row),
    ("counts", lambda row: "weight_bytes" in row and "macs_full" in row and "case" not in row),
    ("sampling", lambda row: "finished_images_per_s" in row),
    ("kernels", lambda row: "kernel" in row),
    ("replays", lambda row: "knob" in row),
    ("tf32", lambda row: "conv_tf32" in row),
    ("measurements", lambda row: "case" in row and "images_per_s" in row),
)
NUMBER, WHOLE, TEXT, FLAG = float | None, int | None, str | None, bool | None
TYPES: dict[str, dict[str, Any]] = {  # of keys that a measurement lacks, or has with another meaning
    "sampling": {
        **{"sampling_case": str, "model": str, "res": int, "batch": int, "sampler": str, "steps": int},
        **{"cfg_scale": float, "decode": bool, "status": str, "verdict": TEXT, "blocks": dict[str, Any]},
        **dict.fromkeys(("finished_images_per_s", "finished_images_per_s_low", "finished_images_per_s_high"), NUMBER),
        **dict.fromkeys(("backbone_s", "guidance_s", "sampler_s", "decoder_s", "unattributed_s"), NUMBER),
        **dict.fromkeys(("step_s", "whole_s", "error_vs_fp32", "prepare_s"), NUMBER),
    },
    "replays": {
        **{"case": str, "paper": str, "model": str, "res": int, "step": str, "knob": str, "batch": WHOLE},
        **dict.fromkeys(("images_per_s", "images_per_s_before", "ratio", "ratio_low", "ratio_high", "factor"), NUMBER),
        **{"from": Any, "to": Any, "exists_here": FLAG, "flaw": Any, "reason": TEXT, "verdict": TEXT},
    },
    "tf32": {
        **{"case": str, "model": str, "res": int, "batch": int, "conv_tf32": str, "matmul_tf32": str},
        **{"images_per_s": float, "printed_ratio": NUMBER, "papers_default": bool, "verdict": TEXT, "reason": TEXT},
    },
    "kernels": {
        **{"case": str, "kernel": str, "model": str, "res": int, "batch": int, "precision": str, "status": str},
        **{"min_bytes": float, "flops": float, "reason": TEXT, "where": TEXT},
        **dict.fromkeys(("cold_s", "cold_s_p20", "cold_s_p80", "hot_s", "flops_per_s", "peak_flops_per_s"), NUMBER),
        **dict.fromkeys(("copy_bytes_per_s", "copy_fraction", "roofline_fraction", "error", "error_eager"), NUMBER),
    },
    "counts": {
        **{"model": str, "res": int, "params": int, "macs": int, "flops": int, "macs_full": int},
        **{"weight_bytes": int, "activation_bytes": int, "arithmetic_intensity": float},
        **dict.fromkeys(("winograd_macs", "winograd_macs_all", "macs_as_printed", "macs_torchprofile"), WHOLE),
    },
    "kinds": {"model": str, "res": int, "kind": str, "macs": int, "share": float},
    "modules": {"model": str, "res": int, "module": str, "macs": int, "share": float},
    "audit": {
        **{"paper": str, "table": str, "model": TEXT, "label": str, "res": int, "peaks_of": str, "gpu": str},
        **{"gmacs_printed": NUMBER, "macs": WHOLE, "macs_full": WHOLE, "findings": list[str], "words": str},
        **dict.fromkeys(("images_per_s", "implied_flops_per_s", "share_fp32", "share_tf32", "share_fp16"), NUMBER),
    },
}
NEEDED = {  # by tables and pictures, which cannot do without
    "measurements": ("case", "model", "res", "batch", "backend", "precision", "device", "status"),
    "replays": ("step",),
    "kernels": ("kernel", "precision", "status"),
    "counts": ("model", "res", "flops", "weight_bytes", "activation_bytes"),
    "kinds": ("model", "kind", "macs", "share"),
    "audit": ("label", "peaks_of"),
}
SPEEDS = ("images_per_s", "images_per_s_low", "images_per_s_high")
OF_GOOD = {  # a row of that kind whose status is ok
    "measurements": SPEEDS,
    "kernels": ("model", "min_bytes", "flops", "cold_s_p20", "cold_s_p80", "flops_per_s", "peak_flops_per_s"),
}
POSITIVE = {"res", "batch", "repeat", "processes", "weight_bytes", "min_bytes", "cold_s_p20", "cold_s_p80", *SPEEDS}
SMALLEST, LARGEST = 1e-30, 1e30  # of numbers other than 0: what lies beyond overflows in ratios and on axes
WORDS = {"status": STATUSES, "verdict": VERDICTS, "device": ("cpu", "cuda")}  # of a measurement


def kind_of(row: Row) -> str | None:
    """What a row is about, by its keys; None for one of no kind."""
    return next((kind for kind, fits in KINDS if fits(row)), None)


def has_speeds(row: Row) -> bool:
    """Whether a measurement has a speed and its interval."""
    return all(row.get(key) is not None for key in SPEEDS)


def row_problem(row: Row, kind: str) -> str | None:
    """What cannot be in a row that was read from a file, in words; None for a good one.

    A key may be absent, or null, which is the same: an older convbench did not write them all.

    Args:
        kind: "measurements", or one of TYPES.
    """
    held = {key: value for key, value in row.items() if value is not None}
    own = field_problems(held, Measurement) if kind == "measurements" else _problems(held, TYPES[kind])
    more = _of_measurement(held) if kind == "measurements" else iter(())
    return next(itertools.chain(own, _of_numbers(held), more), None)


def incomplete(row: Row, kind: str) -> str | None:
    """What a row lacks that a report needs, in words; None for a complete one."""
    needed = NEEDED.get(kind, ())
    if kind in OF_GOOD and row.get("status") == "ok":
        needed = (*needed, *OF_GOOD[kind])
    if kind == "audit" and row.get("implied_flops_per_s") is not None and row.get("macs") is None:
        needed = (*needed, "gmacs_printed")
    return next((f"{key} None" for key in needed if row.get(key) is None), None)


def _problems(row: Row, types: Mapping[str, Any]) -> Iterator[str]:
    for key, of in types.items():
        if key in row and (found := problem(row[key], of)):
            yield f"{key} {found}"


def _of_measurement(row: Row) -> Iterator[str]:
    for key, known in WORDS.items():
        if key in row and row[key] not in known:
            yield f"{key} {shown(row[key])}"
    for key in ("images_per_s", "ratio"):
        low, value, high = row.get(f"{key}_low"), row.get(key), row.get(f"{key}_high")
        if low is not None and value is not None and high is not None and not low <= value <= high:
            yield f"{key} {shown(value)}, outside its interval"
    gpus = row.get("environment", {}).get("gpus") or []
    if not isinstance(gpus, list) or not all(isinstance(gpu, dict) and _has_name(gpu) for gpu in gpus):
        yield "environment.gpus that are not a list of objects with a name"


def _has_name(gpu: Row) -> bool:
    return problem(gpu.get("name"), str) is None


def _of_numbers(row: Row) -> Iterator[str]:
    for key, value in row.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                if number and not SMALLEST <= abs(number) <= LARGEST:
                    yield f"{key} {shown(number)}"
                if key in POSITIVE and number <= 0:
                    yield f"{key} {shown(number)}, not above 0"
