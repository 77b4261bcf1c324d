"""Selection and order of the rows and columns of a report. An unknown name is answered with the nearest ones."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from convbench import catalogue
from convbench.errors import NothingMeasured, UsageError

from .baseline import BASELINE, beside_baseline, is_ranked
from .columns import COLUMNS
from .runs import Runs, records

Row = dict[str, Any]

LARGEST_FIRST = {
    *("images_per_s", "baseline_ratio", "ratio", "limit_fraction", "mfu", "flops_per_s", "limit_images_per_s"),
    *("peak_flops_per_s", "measured_at"),
}


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """Raise UsageError with the nearest known names unless the name is known."""
    names = list(dict.fromkeys(known))
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
        raise UsageError(f"unknown {what} '{name}': {hint}")


def compared_rows(runs: Runs, conditions: Sequence[str] = (), baseline: str | None = None) -> list[Row]:
    """The measurements that meet the conditions, each compared with the baseline (``BASELINE`` unless given).

    Raises:
        NothingMeasured: the files hold no measurement.
        UsageError: an unknown key or model, or a condition that no row meets.
    """
    require_measurements(runs)
    require_baseline(runs, baseline)
    return where(records(beside_baseline(runs.frame, baseline or BASELINE)), conditions)


def require_measurements(runs: Runs) -> None:
    """Raise NothingMeasured unless there is a row of ``convbench throughput``."""
    if not runs.measurements:
        raise NothingMeasured(f"no row of convbench throughput in these files, only {', '.join(runs.counted())}")


def require_baseline(runs: Runs, baseline: str | None) -> None:
    """Raise UsageError unless the files hold the baseline that was asked for."""
    models = list(dict.fromkeys(row["model"] for row in runs.measurements))
    if baseline is not None and baseline not in models:
        require_known(baseline, [*models, *catalogue.variants()], "model")
        raise UsageError(f"--baseline {baseline} is in none of these files; choose from {', '.join(models)}")


def shown_columns(asked: Sequence[str] | None, usual: Sequence[str], rows: Sequence[Row], form: str) -> list[str]:
    """The keys to show: those asked for, keys of the rows, of the usual table or computed; else the usual ones."""
    if asked is None:
        return list(usual)
    computed = (key for key, column in COLUMNS.items() if column.compute is not None)
    every = [*usual, *(key for row in rows[:1] for key in row), *computed]
    known = every if form in ("json", "csv") else [key for key in every if key in COLUMNS]
    for key in asked:
        require_known(key, known, "column")
    return list(dict.fromkeys(asked))


def narrowed(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Reduce rows to some keys, for formats that otherwise hold every key; computed columns have their value."""
    return [{key: _value(row, key) for key in keys} for row in rows]


def _value(row: Row, key: str) -> Any:
    column = COLUMNS.get(key)
    return row[key] if key in row or column is None or column.compute is None else column.compute(row)


def sorted_rows(rows: Sequence[Row], key: str | None) -> list[Row]:
    """Sort by one key: the largest first where more is better, else the smallest; a leading ``-`` reverses that.

    Rows that are not ranked come after the others, rows without a value last.
    """
    if key is None:
        return list(rows)
    name = key.removeprefix("-")
    require_known(name, [known for row in rows[:1] for known in row if _sortable(rows, known)], "key to sort by")
    falling = (name in LARGEST_FIRST) != key.startswith("-")
    valued = [row for row in rows if row[name] is not None]
    ordered = sorted(valued, key=lambda row: row[name], reverse=falling)
    ordered.sort(key=lambda row: not is_ranked(row))
    return ordered + [row for row in rows if row[name] is None]


def _sortable(rows: Sequence[Row], key: str) -> bool:
    kinds = {type(row.get(key)) for row in rows if row.get(key) is not None}
    return kinds <= {int, float} or kinds == {str}


def where(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """Keep the rows that meet every ``key=value``; a key given twice accepts both values.

    Raises:
        UsageError: an unknown key, or a value that no row has.
    """
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals:
            raise UsageError(f"--where {condition}: expected key=value, such as batch=32")
        require_known(key, [known for row in rows[:1] for known in row], "key")
        _require_value(rows, key, value)
        wanted.setdefault(key, []).append(value)
    tests: list[Callable[[Row], bool]] = [
        lambda row, key=key, values=values: str(row[key]) in values  # type: ignore[misc]
        for key, values in wanted.items()
    ]
    kept = [row for row in rows if all(test(row) for test in tests)]
    if rows and not kept:
        raise UsageError(f"no row has {', '.join(conditions)} together")
    return kept


def _require_value(rows: Sequence[Row], key: str, value: str) -> None:
    held = list(dict.fromkeys(str(row[key]) for row in rows if not isinstance(row[key], list | dict)))
    if value not in held:
        raise UsageError(f"no row has {key}={value}; choose from {', '.join(each[:40] for each in held[:12])}")
