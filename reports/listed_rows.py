"""Rows of JSON lists, which say no kind: those of flops and audit. And what a report needs of rows of any kind."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from convbench.schema.rowcheck import SPEEDS, number_problems
from convbench.schema.typecheck import problem

Row = Mapping[str, Any]

LISTS: tuple[tuple[str, Callable[[Row], bool]], ...] = (  # the first that fits
    ("audit", lambda row: "implied_flops_per_s" in row),
    ("kinds", lambda row: "kind" in row and "share" in row),
    ("modules", lambda row: "module" in row and "share" in row),
    ("counts", lambda row: "weight_bytes" in row and "macs_full" in row and "case" not in row),
)
NUMBER, WHOLE, TEXT = float | None, int | None, str | None
TYPES: dict[str, dict[str, Any]] = {
    "counts": {
        **{"model": str, "res": int, "params": int, "macs": int, "flops": int, "macs_full": int},
        **{"weight_bytes": int, "activation_bytes": int, "arithmetic_intensity": float},
        **dict.fromkeys(
            ("winograd_macs", "winograd_macs_all", "winograd4_macs_all", "macs_as_printed", "macs_torchprofile"), WHOLE
        ),
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
    "throughput": ("case", "model", "res", "batch", "backend", "precision", "device", "status"),
    "replay": ("step",),
    "kernel": ("kernel", "precision", "status"),
    "counts": ("model", "res", "flops", "weight_bytes", "activation_bytes"),
    "kinds": ("model", "kind", "macs", "share"),
    "audit": ("label", "peaks_of"),
}
OF_GOOD = {  # a row of that kind whose status is ok
    "throughput": SPEEDS,
    "kernel": ("model", "min_bytes", "flops", "cold_s_p20", "cold_s_p80", "flops_per_s", "peak_flops_per_s"),
}


def list_of(row: Row) -> str | None:
    """The kind of a row of a list, by its keys; None for one of no kind."""
    return next((kind for kind, fits in LISTS if fits(row)), None)


def listed_problem(row: Row, kind: str) -> str | None:
    """The first problem of a row of a list, in words; None for a good one. A key may be absent or null."""
    held = {key: value for key, value in row.items() if value is not None}
    return next(iter([*_problems(held, TYPES[kind]), *number_problems(held)]), None)


def incomplete(row: Row, kind: str) -> str | None:
    """The first key that a report needs and a row lacks, in words; None for a complete one."""
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
