"""Sweep files: what the options of ``convbench throughput`` can say, as TOML. Read before a run, written by it."""

import json
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..files import read_toml, write_whole

LEFT_OUT = {"store", "out", "dry_run", "form", "sweep"}  # where and how, not what
NAMES_CODE = ("model", "backend", "compare_with")  # whose values may name a module to import


def read(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults of this call's options.

    Raises UsageError for a file that is not valid TOML, and for one that names code from outside convbench: only the
    command line may.
    """
    if path is None:
        return
    content = read_toml(path)
    known = {p.name for p in ctx.command.params if isinstance(p, click.Option)} - LEFT_OUT
    for key in content:
        if key.replace("-", "_") not in known:
            names = ", ".join(sorted(name.replace("_", "-") for name in known if name))
            raise UsageError(f"{path} says '{key[:80]}', which is not a sweep option; options: {names}")
    values = {key.replace("-", "_"): _as_option(value) for key, value in content.items()}
    ctx.default_map = {key: _default(path, key, value) for key, value in values.items()}


def _default(path: Path, key: str, value: str) -> Any:
    """The text of an option; for one that names code from outside, a callable that raises UsageError when asked."""
    if key not in NAMES_CODE or ":" not in value:
        return value
    option = f"--{key.replace('_', '-')}"

    def refuse() -> None:  # click calls it only where the command line does not give the option
        raise UsageError(
            f"{path} names code from outside convbench ({value[:80]}), which only the command line may: "
            f"repeat it with {option} if you trust it"
        )

    return refuse


def _as_option(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def write(path: Path, ctx: click.Context, **resolved: Any) -> None:
    """Write every option that has a value; running that file repeats the sweep."""
    values = {
        key: value for key, value in {**ctx.params, **resolved}.items() if key not in LEFT_OUT and value is not None
    }
    lines = [
        f"{key.replace('_', '-')} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
    ]  # JSON of these is TOML
    head = "# Written by convbench; `convbench throughput --sweep` with this file repeats the run.\n"
    write_whole(path, (head + "\n".join(lines) + "\n").encode(), sync=False)
