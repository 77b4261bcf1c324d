"""``convbench export``: a backbone as a file that another runtime opens."""

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..export.targets import PRECISIONS, TARGETS
from . import options

KEYS = ("artefact", "target", "precision", "checked", "relative_l2", "limit", "build_s", "artefact_bytes")


class BatchRange(click.ParamType):  # type: ignore[type-arg] # generic in the newest click only
    """A number of images, or the fewest and the most."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        low, _, high = str(value).partition("..")
        try:
            found = int(low), int(high or low)
        except ValueError:
            self.fail(f"'{value}' is not a number of images such as 8 or a range such as 1..64", param, ctx)
        if not 1 <= found[0] <= found[1]:
            self.fail(f"'{value}' must go from at least 1 upwards, such as 1..64", param, ctx)
        return found


@click.command(
    "export",
    short_help="build an artefact: ONNX, TensorRT, OpenVINO, ncnn …",
    epilog="\b\nExamples:\n  convbench export --model dico_s --res 256 --to onnx --out dico_s_onnx\n"
    "  convbench export --model dic_s --to openvino --precision int8 --out dic_s_int8",
)
@click.option("--model", required=True, metavar="ID", help="A model id, as `convbench models` lists them.")
@click.option("--res", type=int, default=256, show_default=True, metavar="PX", help="Side of the decoded image.")
@click.option("--to", type=click.Choice(TARGETS), required=True, help="Format of the artefact.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder to create, once all of its files are complete.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Precision of weights and arithmetic.",
)
@click.option(
    "--batch",
    type=BatchRange(),
    default="1..64",
    show_default=True,
    metavar="N|N..M",
    help="Images per call.",
)
@click.option("--dynamic", is_flag=True, help="Allow heights and widths from half to twice --res.")
@click.option(
    "--conv",
    type=click.Choice(["library", "winograd"]),
    default="library",
    show_default=True,
    help="What computes 3x3 convolutions: the runtime, or our C++ kernels (--to aoti only; to run it takes convbench).",
)
@click.option("--weights", help="Checkpoint [default: random weights].")
@click.option("--force", is_flag=True, help="Replace an existing artefact.")
@options.form()
def command(
    model: str,
    res: int,
    to: str,
    out: Path,
    precision: str,
    batch: tuple[int, int],
    dynamic: bool,
    conv: str,
    weights: str | None,
    force: bool,
    form: str,
) -> int:
    """Export a backbone to a file that another runtime can open, with a manifest, a verification record and a README.

    The folder is created only after the exported file has been compared with fp32 PyTorch; a file with wrong outputs is
    not kept. TensorRT-RTX engines can be built without a GPU, but need one to run.
    """
    from ..export import folder, make

    typed = shlex.join(["convbench", *sys.argv[1:]])
    wanted = make.Wanted(model, res, to, precision, batch, dynamic, weights, typed, conv)
    with stages() as report:
        found = make.export(wanted, out, force, report)
    manifest = folder.read(out)
    row = {
        "artefact": str(out),
        "target": to,
        "precision": precision,
        "checked": found["status"],
        "relative_l2": max((row["relative_l2"] for row in found["checks"]), default=None),
        "limit": found["limit"],
        "build_s": manifest.build_s,
        "artefact_bytes": sum(facts["bytes"] for facts in manifest.files.values()),
    }
    notes = [] if found["status"] == "passed" else [f"{found['status']}: {found['reason']}"]
    options.show([row], KEYS, form, notes)
    return 0


@contextmanager
def stages() -> Iterator[Any]:
    """Show the current stage and its time on stderr: a spinner on a terminal, a line per stage elsewhere.

    Runtimes report no progress, so no remaining time is shown.
    """
    if not sys.stderr.isatty():
        started = time.monotonic()
        yield lambda what: options.say(f"[{time.monotonic() - started:.0f} s] {what}", err=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda what: progress.update(task, description=what)
