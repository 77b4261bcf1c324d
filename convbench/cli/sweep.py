"""Sweep files: what the options of ``convbench throughput`` can say, as TOML. Read before a run, written by it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError

LEFT_OUT = {"out", "dry_run", "form", "sweep"}  # where and how, not what


def read(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults of this call's options."""
    if path is None:
        return
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    known = {p.name for p in ctx.command.params if isinstance(p, click.Option)} - LEFT_OUT
    for key in content:
        if key.replace("-", "_") not in known:
            names = ", ".join(sorted(name.replace("_", "-") for name in known if name))
            raise UsageError(f"{path} says '{key}', which is not a sweep option; options: {names}")
    ctx.default_map = {key.replace("-", "_"): _as_option(value) for key, value in content.items()}


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
    path.write_text(head + "\n".join(lines) + "\n", "utf-8")
