"""Rows of result files as tests write them by hand."""

import json
from pathlib import Path
from typing import Any

from convbench.schema import Case, Measurement
from convbench.schema.upgrade import SCHEMA

MACHINE = {"cpu": "test", "cores": 1, "gpus": [], "torch": "2", "cuda": None, "cudnn": None, "convbench": "0"}


def measured(model: str, images_per_s: float = 1.0, half: float = 0.01, **known: Any) -> dict[str, Any]:
    """A row of ``convbench throughput``, VALID unless told otherwise; ``half`` is half the interval, as a share."""
    named = {"res": 256, "batch": 1, "threads": 1} | {key: known.pop(key) for key in list(known) if key in CASE}
    figures = {
        "status": "ok",
        "verdict": "VALID",
        "images_per_s": images_per_s,
        "images_per_s_low": images_per_s * (1 - half),
        "images_per_s_high": images_per_s * (1 + half),
        "latency_s_p50": named["batch"] / images_per_s,
        "environment": MACHINE,
    }
    return {"schema": SCHEMA, **Measurement.of(Case(model, **named), **(figures | known)).to_json()}


CASE = ("res", "batch", "backend", "precision", "device", "threads", "weights", "repeat", "mode")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
