"""Ablations of a variant, by changes after its id: ``fcdm_l@kernel=5``, ``dico_s@activation=relu@attention=none``.

The .toml of a family lists its options under ``ablations``: a key, an example of its value, its meaning.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..errors import UsageError
from .families import Variant, families

MAX_FACTOR = 16  # maximum of a number relative to its example, and maximum length of a list


def varied(base: Variant, changes: list[str]) -> Variant:
    """Apply changes, each "key=value", to a variant. Raises UsageError for an option that the family does not have."""
    known = base.family.facts.get("ablations", {}).get("options", {})
    if not known:
        raise UsageError(f"{base.id} has no ablations; `convbench models --ablations` lists the models that do")
    options = dict(base.options)
    for change in changes:
        key, _, text = change.partition("=")
        if key not in known:
            raise UsageError(f"{base.id} has no option '{key}'; its options are {', '.join(known)}")
        options[key] = _parsed(f"{base.id}@{change}", text, known[key])
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


def _parsed(shown: str, text: str, option: dict[str, Any]) -> Any:
    """Parse a value in the type of the option's example."""
    like = option["like"]
    choices = option.get("choices") or (["yes", "no"] if isinstance(like, bool) else None)
    if choices and text not in map(str, choices):
        raise UsageError(f"{shown}: the value must be one of {', '.join(map(str, choices))}")
    try:
        if isinstance(like, bool):
            return text == "yes"
        value = [int(part) for part in text.split("-")] if isinstance(like, list) else type(like)(text)
        _require_bounded(value, like)
        return value
    except ValueError:
        example = "-".join(map(str, like)) if isinstance(like, list) else like
        raise UsageError(f"{shown}: the value must have the form {example}") from None


def _require_bounded(value: Any, like: Any) -> None:
    """Raise ValueError for numbers far beyond the example, as an id may come from an untrusted file."""
    known, given = (each if isinstance(each, list) else [each] for each in (like, value))
    if all(isinstance(each, int) for each in known):
        most = MAX_FACTOR * max(known)
        if len(given) > MAX_FACTOR or not all(0 <= each <= most for each in given):
            raise ValueError(value)


def option_lines() -> Iterator[str]:
    """Yield one line per family with the options that an id can change."""
    for family in families().values():
        known = family.facts.get("ablations", {}).get("options", {})
        if known:
            words = [f"{key} ({option['what']}; e.g. {_example(option)})" for key, option in known.items()]
            yield f"{family.name}: {'; '.join(words)}."


def _example(option: dict[str, Any]) -> str:
    like = option["like"]
    if isinstance(like, bool):
        return "yes or no"
    return "-".join(map(str, like)) if isinstance(like, list) else " or ".join(map(str, option.get("choices", [like])))
