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
    "--out", type=click.Path(path_type=Path), required=True, metavar="REPOSITORY", help="Written whole or not at all."
)
@click.option(
    "--backend",
    type=click.Choice(("onnxruntime", "tensorrt", "openvino", "python")),
    help="Triton backend; the server must provide it [default: the artefact's runtime].",
)
@click.option("--max-batch", type=click.IntRange(min=1), help="Images of a batch [default: the artefact's most].")
@click.option(
    "--max-delay",
    type=options.Duration(60),
    default="5ms",
    show_default=True,
    help="Time that an incomplete batch waits for more.",
)
@click.option("--queue", type=click.IntRange(1, 2**20), default=256, show_default=True, help="Requests that may wait.")
@click.option(
    "--instances", type=click.IntRange(1, 1024), default=1, show_default=True, help="Copies that run at once."
)
@click.option("--threads", type=click.IntRange(1, 4096), help="CPU threads of each [default: what the runtime takes].")
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
    """Write a model repository with which Triton Inference Server serves an artefact.

    With dynamic batching, a bounded queue and a warm-up. The python backend runs the artefact by a model.py of
    convbench, where Triton's own backends are not installed; it needs the artefact's runtime in Triton's Python.
    """
    from ..serving.triton import repository

    wanted = repository.Deployment(backend, max_batch, max_delay, queue, instances, threads or 0, guidance)
    names = repository.deploy(folder, out, wanted, force)
    click.echo(f"{out}: {', '.join(names)}; start it with: tritonserver --model-repository {out}", err=True)
