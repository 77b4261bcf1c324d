"""A process that replays a paper or runs cells of the TF32 experiment: ``python -m convbench.papers.worker``.

The channel is that of ``run.worker``; the orders are ``{"replay": {...}}`` and ``{"tf32": {...}}`` with the arguments
of ``replay.replay`` and ``tf32.measure_batch``.
"""

from collections.abc import Mapping
from typing import Any

from ..run.worker import Send, serve
from . import tf32, waterfall
from .replay import replay


def main() -> None:
    """Read one order, carry it out, report."""
    serve(_carry_out)


def _carry_out(order: Mapping[str, Any], send: Send) -> None:
    def report(what: str, done: float) -> None:
        send(what=what, done=done)

    if "tf32" in order:
        rows = [row.to_json() for row in tf32.measure_batch(**order["tf32"], report=report)]
    else:
        rows = [row.to_json() for row in waterfall.rows(replay(**order["replay"], report=report))]
    for row in rows:
        send(row=row)


if __name__ == "__main__":
    main()
