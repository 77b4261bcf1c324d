"""Seconds of a batch over its size, from the stored rows of one model on one machine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convbench.schema import Second
from convbench.schema.rowcheck import has_speeds

from ..baseline import is_ranked
from ..history import machine

Row = Mapping[str, Any]

SHARED = ("model", "backend", "precision", "device", "threads", "weights")


@dataclass(frozen=True)
class Curve:
    """Measured batches of one model, backend, precision and machine, at one resolution."""

    of: Row  # values of SHARED
    machine: str
    batch_s: Mapping[int, tuple[Second, Second, Second]]  # seconds of a batch: value and 95 % interval, by its size
    verdicts: tuple[str, ...]
    whole: bool = False  # the seconds are those of whole images, through all steps
    joules: float | None = None  # of one image and pass, at the largest batch
    facts: Row | None = None  # a row of the curve: macs_full and params

    @property
    def spread(self) -> tuple[float, float]:
        """The interval of the largest batch's seconds as shares of its value."""
        value, fast, slow = self.batch_s[max(self.batch_s)]
        return fast / value, slow / value

    def seconds(self, images: int) -> Second:
        """Seconds of a batch of so many images: between measured sizes a straight line, below them the smallest."""
        sizes = sorted(self.batch_s)
        if images <= sizes[0]:
            return self.batch_s[sizes[0]][0]
        above = next(size for size in sizes if size >= images)
        if above == images:
            return self.batch_s[above][0]
        below = max(size for size in sizes if size < images)
        share = (images - below) / (above - below)
        return (1 - share) * self.batch_s[below][0] + share * self.batch_s[above][0]


def curves(rows: Sequence[Row], res: int, steps: int, cfg: float) -> Iterator[Curve]:
    """The curves of rows of forward passes, and of whole images with these steps and this guidance.

    Of several rows of a case the latest counts. INVALID rows and rows that are only listed are left out.
    """
    groups: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in sorted(rows, key=lambda row: row.get("measured_at") or ""):
        if row.get("res") != res or row.get("repeat", 1) != 1 or (row.get("mode") or "forward") != "forward":
            continue
        if not is_usable(row) or (row["kind"] == "sampling" and not is_sampled_so(row, steps, cfg)):
            continue
        key = (row["kind"], machine(row.get("environment") or {}), *(row.get(key) for key in SHARED))
        groups.setdefault(key, {})[row["batch"]] = row
    for (kind, name, *values), batches in groups.items():
        prefix = "finished_" if kind == "sampling" else ""
        speeds = [f"{prefix}images_per_s{end}" for end in ("", "_high", "_low")]
        seconds = {
            batch: (batch / row[speeds[0]], batch / row[speeds[1]], batch / row[speeds[2]])
            for batch, row in sorted(batches.items())
        }
        largest = batches[max(batches)]
        yield Curve(
            dict(zip(SHARED, values, strict=True)),
            name,
            seconds,
            tuple(dict.fromkeys(row["verdict"] for row in batches.values())),
            kind == "sampling",
            largest.get("joules_per_image"),
            largest,
        )


def is_usable(row: Row) -> bool:
    """True for a measured speed that may be ranked."""
    if row["kind"] not in ("throughput", "sampling") or not is_ranked({"unranked": None, "verdict": None, **row}):
        return False
    keys = [f"finished_images_per_s{end}" for end in ("", "_low", "_high")]
    return has_speeds(row) if row["kind"] == "throughput" else all(row.get(key) is not None for key in keys)


def is_sampled_so(row: Row, steps: int, cfg: float) -> bool:
    """True if a row of whole images has these steps and this guidance."""
    return bool(row["steps"] == steps and row["cfg_scale"] == cfg)
