"""Variants of a variant, by changes behind its id: ``fcdm_l@kernel=5``, ``dico_s@activation=relu@attention=none``.

What can be changed stands under ``ablations`` in the family's .toml: a key, an example of its value, what it means.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..catalogue import Variant, families, find, other_systems, printed_lines
from ..errors import UsageError


def varied(base: Variant, changes: list[str]) -> Variant:
    """The variant with those changes, each "key=value". Raises UsageError for what the family cannot change."""
    known = base.family.facts.get("ablations", {}).get("options", {})
    if not known:
        raise UsageError(f"{base.id} has no ablations: `convbench models --ablations` lists the models that have some")
    options = dict(base.options)
    for change in changes:
        key, _, text = change.partition("=")
        if key not in known:
            raise UsageError(f"{base.id} has no '{key}' to change: there are {', '.join(known)}")
        options[key] = _value(f"{base.id}@{change}", text, known[key])
    suffix = "".join(f"@{change}" for change in changes)
    return replace(
        base,
        id=base.id + suffix,
        name=base.name + suffix,
        options=options,
        params=None,
        macs=None,
        shipped=None,
        ablated=True,
    )


def _value(shown: str, text: str, option: dict[str, Any]) -> Any:
    """The value in the type of the option's example."""
    like = option["like"]
    choices = option.get("choices") or (["yes", "no"] if isinstance(like, bool) else None)
    if choices and text not in map(str, choices):
        raise UsageError(f"{shown}: it must be one of {', '.join(map(str, choices))}")
    try:
        if isinstance(like, bool):
            return text == "yes"
        return [int(part) for part in text.split("-")] if isinstance(like, list) else type(like)(text)
    except ValueError:
        example = "-".join(map(str, like)) if isinstance(like, list) else like
        raise UsageError(f"{shown}: it must look like {example}") from None


def options() -> Iterator[str]:
    """What can be changed, a line a family."""
    for family in families().values():
        known = family.facts.get("ablations", {}).get("options", {})
        if known:
            words = [f"{key} ({option['what']}; such as {_text(option)})" for key, option in known.items()]
            yield f"{family.name}: {'; '.join(words)}."


def _text(option: dict[str, Any]) -> str:
    like = option["like"]
    if isinstance(like, bool):
        return "yes or no"
    return "-".join(map(str, like)) if isinstance(like, list) else " or ".join(map(str, option.get("choices", [like])))


def printed() -> list[dict[str, Any]]:
    """The papers' ablations, what they print beside what we count, and what is known of a difference.

    Counts on the meta device, so it imports torch.
    """
    from ..counting import count_variant

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
    """Whether the counts round to what is printed, with what is known of it."""
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
