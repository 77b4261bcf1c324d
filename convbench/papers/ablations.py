"""The papers' ablations: printed parameters and MACs beside our counts."""

from typing import Any

from ..catalogue import find, other_systems, printed_lines
from ..models.counts import count_variant


def printed() -> list[dict[str, Any]]:
    """The papers' ablations, what they print beside what we count, and what is known of a difference.

    Counts on the meta device, so it imports torch.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    reasons = other_systems()["ablations"]
    for line in printed_lines():
        id = line["model"] or ""
        name = id or line["label"]
        if "@" not in id and name not in reasons:
            continue
        row = rows.setdefault(
            (line["paper"], line["table"], line["label"]),
            {
                "model": id if "@" in id else None,
                "label": line["label"],
                "printed_in": f"{line['paper']}, table {line['table']}",
                "gmacs_printed": line.get("gmacs"),
                "macs": None,
                "params_m_printed": line.get("params_m"),
                "params": None,
                "remark": reasons.get(name, ""),
            },
        )
        if "@" in id and row["macs"] is None:
            counted = count_variant(find(id), line.get("res", 256))
            row["macs"], row["params"] = counted.macs, counted.params
            row["remark"] = _difference(row, row["remark"])
    return list(rows.values())


def _difference(row: dict[str, Any], reason: str) -> str:
    """Remark on a row: the difference between printed and counted numbers, and its reason where known."""
    apart = []
    for what, printed, ours in (
        ("MACs", row["gmacs_printed"], row["macs"] / 1e9),
        ("parameters", row["params_m_printed"], row["params"] / 1e6),
    ):
        if printed is not None and abs(ours - printed) > 0.5001 * 10 ** -len(str(printed).partition(".")[2]):
            apart.append(f"printed {what} {printed / ours - 1:+.1%}")
    if not apart:
        return "; ".join(filter(None, ["as printed", reason]))
    return f"{', '.join(apart)}: {reason or 'unexplained'}"
