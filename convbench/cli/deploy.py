"""``convbench deploy``: a model repository for a serving engine, or manifests for Kubernetes."""

from pathlib import Path

import click

from . import options

ENGINES = ("triton-server", "kubernetes")
OF_TRITON = ("backend", "guidance")
OF_KUBERNETES = ("image", "claim", "max_instances", "gpus")


@click.command(
    "deploy",
    short_help="write a model repository for Triton Inference Server, or Kubernetes manifests",
    epilog="\b\nExamples:\n  convbench deploy dico_s.onnx.d --to triton-server --out repository\n"
    "  convbench deploy dico_s.onnx.d --to kubernetes --image example/convbench:0.1 --out manifests",
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--to", type=click.Choice(ENGINES), required=True, help="Where it is served.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
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
    help="Copies of the model that run at once; pods at least [default: 1; Kubernetes: 2].",
)
@click.option(
    "--threads", type=click.IntRange(1, 4096), help="CPU threads of each copy [default: the runtime's choice]."
)
@click.option("--guidance", is_flag=True, help="Triton: also write a guidance model with a cfg_scale input.")
@click.option("--image", metavar="IMAGE", help="Kubernetes: container image with convbench installed.")
@click.option(
    "--claim",
    metavar="NAME",
    help="Kubernetes: PersistentVolumeClaim that holds the artefact's folder, mounted read-only [default: models].",
)
@click.option("--max-instances", type=click.IntRange(1, 1024), help="Kubernetes: pods at most [default: 8].")
@click.option("--gpus", type=click.IntRange(0, 16), help="Kubernetes: GPUs of a pod [default: 0].")
@click.option("--force", is_flag=True, help="Replace an existing folder.")
def command(
    folder: Path,
    to: str,
    out: Path,
    backend: str | None,
    max_batch: int | None,
    max_delay: float,
    queue: int,
    instances: int | None,
    threads: int | None,
    guidance: bool,
    image: str | None,
    claim: str | None,
    max_instances: int | None,
    gpus: int | None,
    force: bool,
) -> None:
    """Write a model repository from which Triton Inference Server serves an artefact, or Kubernetes manifests for
    `convbench serve`.

    The repository sets dynamic batching, a bounded queue and a warm-up. If the server lacks the Triton backend of the
    artefact's runtime, --backend python runs the artefact from a model.py instead; the runtime must then be installed
    in Triton's Python.

    The manifests are a Deployment with probes, resource limits and a read-only model volume, a Service, an autoscaler
    on the length of the queue, and a disruption budget: `kubectl apply -f FOLDER`.
    """
    given = click.get_current_context().params
    for option in OF_TRITON if to == "kubernetes" else OF_KUBERNETES:
        if given[option]:
            raise click.UsageError(f"--{option.replace('_', '-')} does not apply to --to {to}")
    if to == "kubernetes":
        from ..serving import kubernetes

        if image is None:
            raise click.UsageError("--to kubernetes needs --image: a container image with convbench installed")
        pods = kubernetes.Pods(
            image,
            claim or "models",
            max_batch,
            max_delay,
            queue,
            instances or kubernetes.Pods.instances,
            max_instances or max(instances or 0, kubernetes.Pods.most_instances),
            threads,
            gpus or 0,
        )
        files = kubernetes.deploy(folder, out, pods, force)
        click.echo(f"{out}: {', '.join(files)}; apply them with: kubectl apply -f {out}", err=True)
        return
    from ..serving.triton import repository

    wanted = repository.Deployment(backend, max_batch, max_delay, queue, instances or 1, threads or 0, guidance)
    names = repository.deploy(folder, out, wanted, force)
    click.echo(f"{out}: {', '.join(names)}; start it with: tritonserver --model-repository {out}", err=True)
