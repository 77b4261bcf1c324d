"""``convbench deploy``: a model repository for a serving engine."""

from pathlib import Path

import click

from . import options

ENGINES = ("triton-server",)


@click.command(
    "deploy",
    short_help="write a model repository for Triton Inference Server",
    epilog="\b\nExamples:\n  convbench deploy dico_s.onnx.d --to triton-server --out repository\n"
    "  convbench deploy dico_s.onnx.d --to triton-server --out repository --backend python --guidance",
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--to", type=click.Choice(ENGINES), required=True, help="Serving engine.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="REPOSITORY",
    help="Folder to create; written completely or not at all.",
)
@click.option(
    "--backend",
    type=click.Choice(("onnxruntime", "tensorrt", "openvino", "python")),
    help="Triton backend; the server must provide it [default: the artefact's runtime].",
)
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    help="Largest number of images in a batch [default: the artefact's maximum].",
)
@click.option(
    "--max-delay",
    type=options.Duration(60),
    default="5ms",
    show_default=True,
    help="How long an incomplete batch waits for more requests.",
)
@click.option(
    "--queue", type=click.IntRange(1, 2**20), default=256, show_default=True, help="Number of requests that may wait."
)
@click.option(
    "--instances",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Copies of the model that run at once.",
)
@click.option(
    "--threads", type=click.IntRange(1, 4096), help="CPU threads of each copy [default: the runtime's choice]."
)
@click.option("--guidance", is_flag=True, help="Also write a guidance model with a cfg_scale input.")
@click.option("--force", is_flag=True, help="Replace an existing repository.")
def command(
    folder: Path,
    to: str,
    out: Path,
    backend: str | None,
    max_batch: int | None,
    max_delay: float,
    queue: int,
    instances: int,
    threads: int | None,
    guidance: bool,
    force: bool,
) -> None:
    """Write a model repository from which Triton Inference Server serves an artefact.

    The repository sets dynamic batching, a bounded queue and a warm-up. If the server lacks the Triton backend of the
    artefact's runtime, --backend python runs the artefact from a model.py instead; the runtime must then be installed
    in Triton's Python.
    """
    from ..serving.triton import repository

    wanted = repository.Deployment(backend, max_batch, max_delay, queue, instances, threads or 0, guidance)
    names = repository.deploy(folder, out, wanted, force)
    click.echo(f"{out}: {', '.join(names)}; start it with: tritonserver --model-repository {out}", err=True)
