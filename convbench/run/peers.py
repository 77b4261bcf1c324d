"""Nodes of a run held against each other: one that is slow, and one whose software differs, are findings of its rows.

Codes: NODE the rates that were measured beside a row are within the noise of those of other nodes of its kind; VERS all
nodes have the same versions and drivers.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ..checks.output import Finding
from ..schema import CaseRow, Measurement
from ..timing import compare

ENOUGH = 3  # nodes of a kind, from which on one of them can be judged
RATES = {"matmul_flops_per_s": "matrix products", "copy_bytes_per_s": "copies"}
VERSIONS = ("convbench", "commit", "torch", "python", "cuda", "cudnn", "driver")
Kind = tuple[Any, ...]


def kind_of(row: CaseRow) -> Kind:
    """Return what rows must share for their nodes to be peers: device, its name, threads, precision."""
    gpus = row.environment.get("gpus") or [{}]
    name = gpus[0].get("name") if row.device == "cuda" else row.environment.get("cpu")
    return (row.device, name, row.threads, row.precision)


def node_of(row: CaseRow) -> str:
    """Node that a row was measured on."""
    return str(row.place.get("node") or row.place.get("host") or "this machine")


def can_judge(row: CaseRow, rows: Iterable[CaseRow]) -> bool:
    """True if enough nodes of its kind have given rows."""
    return len({node_of(each) for each in rows if kind_of(each) == kind_of(row)}) >= ENOUGH


def findings(row: CaseRow, rows: Sequence[CaseRow]) -> list[Finding]:
    """Compare the node of a row with the other nodes of its run."""
    return [found for found in (slow_node(row, rows), other_versions(row, rows)) if found]


def slow_node(row: CaseRow, rows: Sequence[CaseRow]) -> Finding | None:
    """Check NODE: the best rates of the node reach the median of its peers' best, within the noise of its own rows.

    Noise only lowers a rate, so the best of a node is compared; its interval is the largest difference that an A/A
    comparison of its rows could not exclude.
    """
    peers = [each for each in rows if kind_of(each) == kind_of(row) and isinstance(each, Measurement) and each.rates]
    own = [each for each in peers if node_of(each) == node_of(row)]
    noise = max([each.smallest_difference or 0.0 for each in own] + [compare.delta_of(row.device)])
    for key, words in RATES.items():
        best: dict[str, float] = defaultdict(float)
        for each in peers:
            best[node_of(each)] = max(best[node_of(each)], each.rates.get(key, 0.0))
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


def other_versions(row: CaseRow, rows: Sequence[CaseRow]) -> Finding | None:
    """Check VERS: more than half of the nodes have the versions of this one."""
    nodes = {node_of(each): each.environment for each in rows if each.device == row.device and each.environment}
    here = row.environment
    for key in VERSIONS:
        counted = Counter(str(_version(environment, key)) for environment in nodes.values())
        mine = str(_version(here, key))
        if here and counted[mine] * 2 <= counted.total() and len(counted) > 1:
            usual, count = next((value, n) for value, n in counted.most_common() if value != mine)
            text = f"node {node_of(row)} has {key} {mine}, {count} other{'s' if count > 1 else ''} {usual}"
            return Finding("VERS", text, severity="SUSPECT")
    return None


def _version(environment: Mapping[str, Any], key: str) -> Any:
    return environment.get(key) if key != "driver" else (environment.get("telemetry") or {}).get("driver")
