"""Nodes of a run held against each other: one that is slow, and one whose software differs, are findings of its rows.

Codes: NODE the rates that were measured beside a row are within the noise of those of other nodes of its kind; VERS all
nodes have the same versions and drivers.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ..checks.output import Finding
from ..schema import KernelTiming, Measurement, Row
from ..timing import compare

ENOUGH = 3  # nodes of a kind, from which on one of them can be judged
RATES = {"matmul_flops_per_s": "matrix products", "copy_bytes_per_s": "copies"}
VERSIONS = ("convbench", "commit", "torch", "triton", "python", "cuda", "cudnn", "driver")
Kind = tuple[Any, ...]


def kind_of(row: Row) -> Kind:
    """Return what rows must share for their nodes to be peers: device, its name, threads, precision."""
    if isinstance(row, KernelTiming):
        return ("cuda", row.gpu, None, row.precision)
    gpus, device = row.environment.get("gpus") or [{}], getattr(row, "device", "cpu")
    name = gpus[0].get("name") if device == "cuda" else row.environment.get("cpu")
    return (device, name, getattr(row, "threads", None), getattr(row, "precision", None))


def rates_of(row: Row) -> Mapping[str, float]:
    """Rates that were measured beside a row; those of kernels have products of several kinds, and copies of one."""
    if isinstance(row, KernelTiming):
        return {"copy_bytes_per_s": row.copy_bytes_per_s or 0.0}
    return row.rates if isinstance(row, Measurement) else {}


def node_of(row: Row) -> str:
    """Node that a row was measured on."""
    return str(row.place.get("node") or row.place.get("host") or "this machine")


def can_judge(row: Row, rows: Iterable[Row]) -> bool:
    """True if enough nodes of its kind have given rows."""
    return len({node_of(each) for each in rows if kind_of(each) == kind_of(row)}) >= ENOUGH


def findings(row: Row, rows: Sequence[Row]) -> list[Finding]:
    """Compare the node of a row with the other nodes of its run."""
    return [found for found in (slow_node(row, rows), other_versions(row, rows)) if found]


def slow_node(row: Row, rows: Sequence[Row]) -> Finding | None:
    """Check NODE: the best rates of the node reach the median of its peers' best, within the noise of its own rows.

    Noise only lowers a rate, so the best of a node is compared; its interval is the largest difference that an A/A
    comparison of its rows could not exclude.
    """
    kind = kind_of(row)
    peers = [each for each in rows if kind_of(each) == kind and rates_of(each)]
    own = [each for each in peers if node_of(each) == node_of(row)]
    noise = max([getattr(each, "smallest_difference", None) or 0.0 for each in own] + [compare.delta_of(kind[0])])
    for key, words in RATES.items():
        best: dict[str, float] = defaultdict(float)
        for each in peers:
            best[node_of(each)] = max(best[node_of(each)], rates_of(each).get(key, 0.0))
        here = best.pop(node_of(row), 0.0)
        if not here or not best:
            continue
        usual = median(best.values())
        if here * (1 + noise) < usual:
            return Finding(
                "NODE",
                f"node {node_of(row)} is slow: {words} at {here / usual:.0%} of the rate of {len(best)} other "
                f"node{'s' if len(best) > 1 else ''}, with a noise of {noise:.0%}",
                severity="SUSPECT",
            )
    return None


def other_versions(row: Row, rows: Sequence[Row]) -> Finding | None:
    """Check VERS: more than half of the nodes have the versions of this one."""
    device = kind_of(row)[0]
    nodes = {node_of(each): each for each in rows if kind_of(each)[0] == device and _says_versions(each)}
    texts = []
    for key in VERSIONS:
        counted = Counter(str(_version(each, key)) for each in nodes.values())
        mine = str(_version(row, key))
        if _says_versions(row) and counted[mine] * 2 <= counted.total() and len(counted) > 1:
            usual, count = next((value, n) for value, n in counted.most_common() if value != mine)
            texts.append(f"{key} {mine}, {count} other{'s' if count > 1 else ''} {usual}")
    return Finding("VERS", f"node {node_of(row)} has {' and '.join(texts)}", severity="SUSPECT") if texts else None


def _says_versions(row: Row) -> bool:
    return bool(row.environment or getattr(row, "torch", None))


def _version(row: Row, key: str) -> Any:
    if key == "driver":
        return (row.environment.get("telemetry") or {}).get("driver")
    return row.environment.get(key) or getattr(row, key, None)  # rows of kernels have no environment
