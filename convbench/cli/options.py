"""Options that several commands share, so that the same option has the same name, help and default everywhere."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from .. import backends, catalogue
from ..errors import UsageError, printable
from ..run.plan import DEVICES
from ..schema import PRECISIONS

FORMATS = ("table", "json", "csv", "markdown")
LAUNCHERS = ("local", "slurm", "ray")
MOST_VALUES = 256  # of one list: the cases of a run are the product of several
MOST_WHOLE = 10**9  # larger than any size, batch or count here
Decorator = Callable[[Any], Any]


class CommaList(click.ParamType):  # type: ignore[type-arg] # generic in the newest click only
    """Values with commas between them, of one type. Completes the last one."""

    name = "list"

    def __init__(
        self, type: type = str, known: Callable[[], Sequence[str]] = tuple, most_whole: int = MOST_WHOLE
    ) -> None:
        self.type, self.known, self.most_whole = type, known, most_whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in value.split(",")]
        if len(parts) > MOST_VALUES:
            self.fail(f"a list of {len(parts)} values; at most {MOST_VALUES} are allowed", param, ctx)
        if not all(parts):
            self.fail(f"'{value}' has an empty entry between commas", param, ctx)
        try:
            found = [self.type(part) for part in parts]
        except ValueError:
            self.fail(f"'{value}' is not a list of whole numbers such as 256,512", param, ctx)
        return [self.bounded(each, param, ctx) for each in found]

    def bounded(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, unless it is a number beyond all reason."""
        if isinstance(value, int) and abs(value) > self.most_whole:
            self.fail(f"a number beyond {self.most_whole}", param, ctx)
        return value

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
            found = [part if part == "max" else int(part) for part in parts]
        except ValueError:
            self.fail(f"'{value}' is not a list of whole numbers, or max", param, ctx)
        return [self.bounded(each, param, ctx) for each in found]


class Number(click.FloatRange):
    """A number within limits; neither nan nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"'{value}' is not a finite number", param, ctx)
        return number


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or a number with ms, s, m or h behind it: longer than nothing, and at most ``most_s``."""

    name = "duration"

    def __init__(self, most_s: float = 720 * 3600) -> None:
        self.most_s = most_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        number = text.rstrip("msh")
        unit = {"": 1, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}.get(text[len(number) :])
        try:
            seconds = float(number) * unit if unit else float(text)
        except ValueError:
            self.fail(f"'{value}' is not a time such as 90s, 30m or 2h", param, ctx)
        most = f"{self.most_s / 3600:g}h" if self.most_s >= 3600 else f"{self.most_s:g}s"
        if not 0 < seconds <= self.most_s:
            self.fail(f"'{value}' must be greater than 0 and at most {most}", param, ctx)
        return seconds


def store() -> Decorator:
    return click.option(
        "--store",
        multiple=True,
        metavar="PLACE",
        help="Stored rows: a file, folder or glob, duckdb:///FILE, postgresql://…, a .parquet folder; may be repeated "
        "[default: $CONVBENCH_STORE, else the folder results].",
    )


def where() -> Decorator:
    return click.option(
        "--where", type=CommaList(), metavar="KEY=VALUE[,…]", help="Keep rows such as res=256,batch=32,batch=64."
    )


def conditions(texts: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key of ``key=value`` texts. Raises UsageError for a text of another form."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--where {text}: expected key=value, such as batch=32")
        found.setdefault(key, []).append(value)
    return found


def fits(row: dict[str, Any], wanted: dict[str, list[str]]) -> bool:
    """True if a row has one of the values of each key."""
    return all(str(row.get(key)) in values for key, values in wanted.items())


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
        help=f"{', '.join(PRECISIONS)}. torch-default leaves PyTorch's settings alone: on a GPU, TF32 convolutions and "
        "FP32 matrix products.",
    )


def backend() -> Decorator:
    return click.option(
        "--backend",
        type=CommaList(known=backends.names),
        default="eager",
        show_default=True,
        metavar="B[,B…]",
        help=f"{', '.join(backends.names())}, package.module:attribute, or auto: the fastest backend in --out, or "
        "every backend that can run if --out holds fewer than two. triton_graphs:ours and triton_graphs:library choose "
        "what computes the 1x1 products, triton_graphs:winograd computes DiC's 3x3 convolutions by Winograd's "
        "algorithm.",
    )


def device(**overrides: Any) -> Decorator:
    settings: dict[str, Any] = {"help": "cpu or cuda [default: cuda where there is a GPU]."} | overrides
    return click.option("--device", type=CommaList(known=lambda: DEVICES), metavar="D[,D…]", **settings)


def launcher(job: str = "case") -> Decorator:
    """``--launcher`` and ``--on``, of every command whose parts may be jobs; ``job`` says what one of them is."""

    def decorated(command: Any) -> Any:
        command = click.option(
            "--on",
            type=CommaList(),
            metavar="KIND[,KIND…]",
            help="Kinds of nodes, as an axis: with a GPU its type in Slurm's gres or Ray's accelerator_type, such as "
            "h100; on CPUs a Slurm constraint or a custom resource of Ray.",
        )(command)
        return click.option(
            "--launcher",
            type=click.Choice(LAUNCHERS),
            help=f"Measure each {job} as a separate job: local runs one per GPU or group of cores of this machine; "
            "slurm and ray use a cluster. Needs --out; the same command finds the jobs of a run that was killed.",
        )(command)

    return decorated


def form() -> Decorator:
    return click.option(
        "--format",
        "form",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="json and csv contain every key, in base units.",
    )


def show(rows: Sequence[dict[str, Any]], keys: Sequence[str], form: str, notes: Sequence[str] = ()) -> None:
    """Print rows to stdout: a rich table on a terminal, a plain one elsewhere, or the format that was asked for."""
    from ..reports.tables.text import render

    if form == "table":
        form = "table" if sys.stdout.isatty() else "plain"
    # A pipe has no width to keep to; a terminal says its own.
    width = None if form == "table" else 200
    if form == "json":
        say_json(rows)
    else:  # made safe before it is laid out: a table on a terminal has colours of its own
        click.echo(render(_made_printable(rows), keys, form, _made_printable(notes), width))


def say(text: str, err: bool = False) -> None:
    """Print a text; what is in it of files, names and other programs cannot steer the terminal."""
    click.echo(printable(text), err=err)


def say_json(value: Any) -> None:
    """Print JSON to stdout, in ASCII; also what JSON leaves as it is, though a terminal may not."""
    click.echo(json.dumps(value, indent=1).replace("\x7f", "\\u007f"))


def _made_printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_made_printable(key): _made_printable(each) for key, each in value.items()}
    return [_made_printable(each) for each in value] if isinstance(value, list | tuple) else value
