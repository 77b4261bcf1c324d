"""``--backend auto``: the fastest backend for a case, from measurements of this machine that a file already holds."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..errors import UsageError
from ..schema import Case

AUTO = "auto"
SAME = ("model", "res", "batch", "precision", "device", "threads", "weights", "mode")


def resolved(case: Case, rows: Iterable[dict[str, Any]]) -> Case:
    """The case with the backend of the fastest row that differs in nothing else.

    INVALID rows and those that are never ranked don't count. Raises UsageError, with the command that mends it, where
    fewer than two backends have been measured: there is nothing to choose from.
    """
    speeds: dict[str, float] = {}
    for row in rows:
        fits = all(row.get(key) == getattr(case, key) for key in SAME)
        if fits and row["status"] == "ok" and row["verdict"] != "INVALID" and not row.get("unranked"):
            speeds[row["backend"]] = max(row["images_per_s"], speeds.get(row["backend"], 0.0))
    if len(speeds) < 2:
        found = f"only {next(iter(speeds))}" if speeds else "no backend"
        raise UsageError(
            f"--backend auto for {case.model} at {case.res} px, batch {case.batch}, {case.precision}: {found} is "
            "measured in the file of --out; measure several first: --backend eager,compile,onnxruntime --out FILE"
        )
    return replace(case, backend=max(speeds, key=lambda name: speeds[name]))
