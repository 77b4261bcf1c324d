"""Options that several commands share, so that the same option has the same name, help and default everywhere."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from .. import backends, catalogue
from ..run.plan import DEVICES
from ..schema import PRECISIONS

FORMATS = ("table", "json", "csv", "markdown")
Decorator = Callable[[Any], Any]


class CommaList(click.ParamType):  # type: ignore[type-arg] # generic in the newest click only
    """Values with commas between them, of one type. Completes the last one."""

    name = "list"

    def __init__(self, type: type = str, known: Callable[[], Sequence[str]] = tuple) -> None:
        self.type = type
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            self.fail(f"'{value}' has an empty place between commas", param, ctx)
        try:
            return [self.type(part) for part in parts]
        except ValueError:
            self.fail(f"'{value}' is not a list of whole numbers such as 256,512", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(before + comma + word) for word in self.known() if word.startswith(last)]


def model(**overrides: Any) -> Decorator:
    settings: dict[str, Any] = {"required": True, "help": "Model ids, as `convbench models` lists them."} | overrides
    return click.option(
        "--model", type=CommaList(known=lambda: list(catalogue.variants())), metavar="ID[,ID…]", **settings
    )


class BatchList(CommaList):
    """Whole numbers, or the word max."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        parts = super().convert(value, param, ctx)
        try:
            return [part if part == "max" else int(part) for part in parts]
        except ValueError:
            self.fail(f"'{value}' is not a list of whole numbers, or max", param, ctx)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or a number with ms, s, m or h behind it."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        number = text.rstrip("msh")
        unit = {"": 1, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}.get(text[len(number) :])
        try:
            seconds = float(number) * unit if unit else float(text)
        except ValueError:
            self.fail(f"'{value}' is not a time such as 90s, 30m or 2h", param, ctx)
        if not 0 < seconds < float("inf"):
            self.fail(f"'{value}' must be greater than 0", param, ctx)
        return seconds


def res(default: str) -> Decorator:
    return click.option(
        "--res",
        type=CommaList(int),
        default=default,
        show_default=True,
        metavar="PX[,PX…]",
        help="Side of the decoded image in pixels.",
    )


def precision() -> Decorator:
    return click.option(
        "--precision",
        type=CommaList(known=lambda: PRECISIONS),
        default="fp32",
        show_default=True,
        metavar="P[,P…]",
        help=f"{', '.join(PRECISIONS)}. torch-default is PyTorch without any setting: on a GPU, TF32 convolutions and "
        "FP32 matrix products.",
    )


def backend() -> Decorator:
    return click.option(
        "--backend",
        type=CommaList(known=backends.names),
        default="eager",
        show_default=True,
        metavar="B[,B…]",
        help=f"{', '.join(backends.names())}, package.module:attribute, or auto: the fastest that --out "
        "holds, or every one that can run if it holds fewer than two.",
    )


def device(**overrides: Any) -> Decorator:
    settings: dict[str, Any] = {"help": "cpu or cuda [default: cuda where there is a GPU]."} | overrides
    return click.option("--device", type=CommaList(known=lambda: DEVICES), metavar="D[,D…]", **settings)


def form() -> Decorator:
    return click.option(
        "--format",
        "form",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="json and csv hold every key in base units.",
    )


def show(rows: Sequence[dict[str, Any]], keys: Sequence[str], form: str, notes: Sequence[str] = ()) -> None:
    """Print rows to stdout: a rich table on a terminal, a plain one elsewhere, or the format that was asked for."""
    from ..reports.tables.text import render

    if form == "table":
        form = "table" if sys.stdout.isatty() else "plain"
    # A pipe has no width to keep to; a terminal says its own.
    click.echo(render(list(rows), keys, form, notes, width=None if form == "table" else 200))
