"""Checks of values from JSON against the types that a dataclass states. Imports nothing of convbench."""

import math
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

LARGEST = 2**63 - 1  # a whole number beyond it overflows what it is given to
DEEPEST = 16  # containers in containers, where a type leaves open what is inside


@cache
def types_of(record: type) -> Mapping[str, Any]:
    """The type of each field of a dataclass."""
    hints = get_type_hints(record)
    return {field.name: hints[field.name] for field in fields(record)}


def problem(value: Any, kind: Any) -> str | None:
    """Reason why a value is not of a type, such as "'x', not a whole number"; None if it is.

    Args:
        kind: int (no bool), float (finite; whole numbers too), bool, str (whatever UTF-8 can hold), None, Any, unions,
            ``list[X]``, ``dict[str, X]``, ``tuple[X, ...]`` and ``tuple[X, Y]`` (lists in JSON), or a dataclass.
    """
    if kind is Any:
        return None if _is_plain(value) else f"{shown(value)} with something in it that is not plain JSON"
    origin, inner = _parts(kind)
    if origin in (Union, types.UnionType):
        found = None
        for each in inner:
            if (reason := problem(value, each)) is None:
                return None
            found = found or reason
        return found
    if origin in (list, tuple, dict):
        return _inside(value, kind)
    if kind not in SCALARS:
        return record_problem(value, kind)
    is_one, words = SCALARS[kind]
    return None if is_one(value) else f"{shown(value)}, not {words}"


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """The origin and the arguments of a type such as ``list[int]``."""
    return get_origin(kind), get_args(kind)


def record_problem(value: Any, record: type) -> str | None:
    """Reason why an object lacks a field of a dataclass or has one of a wrong type; defaults may be absent."""
    if not isinstance(value, dict):
        return f"{shown(value)}, not an object"
    required = {each.name for each in fields(record) if each.default is each.default_factory is MISSING}
    if missing := sorted(required - set(value)):
        return f"no {missing[0]}"
    if unknown := [key for key in value if key not in types_of(record)]:
        return f"an unknown key {shown(unknown[0])}"
    return next(field_problems(value, record), None)


def field_problems(value: Mapping[str, Any], record: type) -> Iterator[str]:
    """Problems of those fields of a dataclass that an object has, in words."""
    for key, kind in types_of(record).items():
        if key in value and (found := problem(value[key], kind)):
            yield f"{key} {found}"


def shown(value: Any) -> str:
    """A value, short enough for a message."""
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a number of more than 64 bits"
    return repr(value)


def _inside(value: Any, kind: Any) -> str | None:
    origin, inner = _parts(kind)
    if origin is dict:
        if not isinstance(value, dict):
            return f"{shown(value)}, not an object"
        found = [problem(key, str) or problem(each, inner[1]) for key, each in value.items()]
    else:
        if not isinstance(value, list):
            return f"{shown(value)}, not a list"
        if origin is tuple and Ellipsis not in inner:
            if len(value) != len(inner):
                return f"a list of {len(value)} values, not of {len(inner)}"
            found = [problem(each, of) for each, of in zip(value, inner, strict=True)]
        else:
            found = [problem(each, inner[0]) for each in value]
    return next((each for each in found if each), None)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, dict):
        return depth < DEEPEST and all(_is_text(key) and _is_plain(each, depth + 1) for key, each in value.items())
    if isinstance(value, list):
        return depth < DEEPEST and all(_is_plain(each, depth + 1) for each in value)
    return value is None or isinstance(value, bool) or _is_whole(value) or _is_number_or_text(value)


def _is_number_or_text(value: Any) -> bool:
    return math.isfinite(value) if isinstance(value, float) else _is_text(value)


def _is_finite(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


SCALARS: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
    int: (_is_whole, "a whole number"),
    float: (_is_finite, "a finite number"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    str: (_is_text, "a text"),
    type(None): (lambda value: value is None, "None"),
}
