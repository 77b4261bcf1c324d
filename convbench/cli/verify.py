"""``convbench verify``: an artefact against the fp32 PyTorch network."""

import json
from pathlib import Path

import click

from ..errors import UsageError
from ..files import write_whole
from . import options
from .export import stages

KEYS = ("batch", "height", "width", "t_from", "t_to", "relative_l2", "max_abs", "cosine", "limit", "checked")


@click.command(
    "verify",
    short_help="check an artefact against fp32 PyTorch",
    epilog="\b\nExamples:\n  convbench verify dico_s_onnx\n  convbench verify dic_s_int8 --format json",
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--weights", help="Checkpoint that the artefact was made from [default: random weights].")
@click.option(
    "--model", metavar="ID", help="Model that the artefact was made from, if its code is not part of convbench."
)
@click.option("--threads", type=click.IntRange(1, 4096), help="CPU threads [default: the runtime's choice].")
@click.option("--trajectory/--no-trajectory", default=True, show_default=True, help="Also compare sampled images.")
@click.option("--trust-native", is_flag=True, help="Open machine code even if you did not build it on this machine.")
@options.form()
def command(
    folder: Path,
    weights: str | None,
    model: str | None,
    threads: int | None,
    trajectory: bool,
    trust_native: bool,
    form: str,
) -> int:
    """Compare an artefact with the network it was made from, over timesteps, classes, batches, sizes and a sampling
    trajectory.

    Every output must lie within the tolerance of its precision. If one does not, the exit code is 1 and, for ONNX and
    OpenVINO, the first layer that differs is named. The findings are written to verification.json.

    What the artefact says about itself is not trusted: no checkpoint is opened and no code imported unless --weights or
    --model names it, and no file is opened whose hash differs from the manifest.
    """
    from ..export import folder as folders
    from ..export import verification

    with stages() as report:
        found = verification.verify(folder, weights, model, threads, trajectory, trust_native, report)
    _record(folder / folders.VERIFICATION, found)
    words = {True: "ok", False: "wrong"}
    rows = [{**row, "limit": found["limit"], "checked": words[row["ok"]]} for row in found["checks"]]
    notes = [f"{found['status']}: {found['reason']}"]
    if walk := found.get("trajectory"):
        notes.append(
            f"trajectory: {walk['steps']} steps of {walk['sampler']}, relative L2 error {walk['relative_l2']:.1e}, "
            f"at most {walk['limit']:.0e} allowed"
            if walk["relative_l2"] is not None
            else f"trajectory: {walk['steps']} steps of {walk['sampler']}, the images are not finite"
        )
    if form == "json":
        options.say_json([{"artefact": str(folder), **found}])
    elif rows:
        options.show(rows, KEYS, form, notes)
    if form != "table" or not rows:
        options.say("\n".join(notes), err=True)
    return 0 if found["status"] == "passed" else 1


def _record(file: Path, found: object) -> None:
    """Written whole or not at all; left out where the folder is read-only."""
    try:
        write_whole(file, (json.dumps(found, indent=1) + "\n").encode())
    except UsageError as error:
        options.say(str(error), err=True)
