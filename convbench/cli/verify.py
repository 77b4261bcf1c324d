"""``convbench verify``: an artefact against the fp32 PyTorch network."""

import json
import os
from pathlib import Path

import click

from ..errors import UsageError
from . import options
from .export import stages

KEYS = ("batch", "height", "width", "t_from", "t_to", "relative_l2", "max_abs", "cosine", "limit", "checked")


@click.command(
    "verify",
    short_help="prove an artefact against fp32 PyTorch",
    epilog="\b\nExamples:\n  convbench verify dico_s_onnx\n  convbench verify dic_s_int8 --format json",
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--weights", help="The checkpoint it was made from, where that has moved.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: what the runtime takes].")
@click.option("--trajectory/--no-trajectory", default=True, show_default=True, help="Sample images with both, too.")
@options.form()
def command(folder: Path, weights: str | None, threads: int | None, trajectory: bool, form: str) -> int:
    """Compare an artefact with the network it was made from: over timesteps, classes, batches, sizes and a trajectory.

    Every image must lie within the tolerance of its precision. Where one does not, the layers inside are compared
    and the first that differs is named (ONNX and OpenVINO), and the exit code is 1. Writes verification.json.
    """
    from .. import catalogue, models
    from ..export import folder as folders
    from ..export import make, shapes, verify

    manifest = folders.read(folder)
    source = weights or manifest.weights["source"]
    takes = catalogue.find(manifest.model).signature
    sizes = shapes.of_ports(
        manifest.inputs, manifest.outputs, manifest.dimensions, takes, side=manifest.res // takes.factor
    )
    with stages() as report:
        report("loading")
        network = models.create(manifest.model, None if source.startswith("random") else source, res=manifest.res)
        if make.parameters_sha256(network) != manifest.weights["sha256"]:
            raise UsageError(
                f"the weights of {manifest.model} from {source} are not those that {folder} was made from: "
                "give the right ones with --weights"
            )
        found = verify.check(folder, network, sizes, trajectory, threads, report)
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
        click.echo(json.dumps([{"artefact": str(folder), **found}], indent=1))
    elif rows:
        options.show(rows, KEYS, form, notes)
    if form != "table" or not rows:
        click.echo("\n".join(notes), err=True)
    return 0 if found["status"] == "passed" else 1


def _record(file: Path, found: object) -> None:
    """Written whole or not at all; left out where the folder is read-only."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        partial.replace(file)
    except OSError as error:
        click.echo(f"{file} was not written: {error.strerror}", err=True)
        partial.unlink(missing_ok=True)
