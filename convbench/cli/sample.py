"""``convbench sample``: images from a trained backbone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import backends
from ..errors import UsageError
from ..files import require_writable
from ..schema import PRECISIONS
from . import options, sample_drift
from .progress import ImageProgress

if TYPE_CHECKING:
    from ..run.sample import SampleOrder
    from ..sampling.images import Recipe

GRID = 40  # images of a grid
EVALUATION = 50_000  # images that the papers' FID is measured on
WALKED = 100  # images that engines are compared on


class ClassList(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers with commas between them, or the words all and random."""

    name = "labels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("all", "random") or isinstance(value, list):
            return value
        try:
            return [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"'{value}' is not a list of classes such as 3,5, all, or random", param, ctx)


@click.command(
    "sample",
    short_help="sample images from a trained backbone",
    epilog="\b\nExamples:\n  convbench sample --out digits.png\n"
    "  convbench sample --model dit_xl_2 --weights official --vae sd-vae-ft-ema --npz fid.npz",
)
@click.option(
    "--model",
    default="dico_digits",
    show_default=True,
    metavar="ID",
    help="A model id, as `convbench models` lists them.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the images as a grid to this PNG file."
)
@click.option(
    "--npz",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the images in ADM's .npz layout, which FID tools read. The same command resumes a killed run; torchrun "
    "splits it over processes.",
)
@click.option("--latents", is_flag=True, help="Store undecoded float32 latents in the --npz file.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    help=f"Number of images [default: {GRID}; with --drift, {WALKED}; with --npz, {EVALUATION}, as for an FID].",
)
@click.option(
    "--class",
    "labels",
    type=ClassList(),
    metavar="N[,N…]",
    help="Class indices to cycle through, all, or random, as in the papers' evaluations [default: all; with --npz, "
    "random].",
)
@click.option(
    "--cfg-scale",
    type=options.Number(min=0),
    default=1.5,
    show_default=True,
    help="Classifier-free guidance scale; 1 turns guidance off.",
)
@click.option(
    "--guide-all", is_flag=True, help="Guide every latent channel; the papers' code guides three of the four."
)
@click.option(
    "--steps",
    type=int,
    help="Sampler steps [default: 250, as in the papers; heun 50, heun-edm 32, dpm-solver++ and euler-shift 20].",
)
@click.option(
    "--sampler",
    metavar="NAME",
    help="iddpm, ddim, dpm-solver++, euler or euler-maruyama [default: iddpm, or euler-maruyama for flow matching].",
)
@click.option(
    "--cache", metavar="C", help="Keep features between steps: deep:every=3, first:threshold=0.1, taylor:order=1."
)
@click.option(
    "--cfg-interval", metavar="LOW..HIGH", help="Guide only there, e.g. 0.2..0.8 of the way from noise to data."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Images per batch; does not affect the images [default: 40, on a GPU 64].",
)
@click.option(
    "--res",
    type=int,
    metavar="PX",
    help="Side of the image in pixels [default: the size that the weights were trained for].",
)
@click.option("--backend", default="eager", show_default=True, metavar="B", help=f"{', '.join(backends.names())}.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Precision of the network.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is a GPU]")
@click.option(
    "--weights",
    metavar="W",
    help="A .pt or .safetensors file; hf:owner/repo/file[@revision]; official; shipped; or random [default: shipped, "
    "if the package contains weights of the model].",
)
@click.option(
    "--drift",
    metavar="B[/P][,…]",
    help="Sample with these backends and precisions and print the error of each against fp32 eager; --out then "
    "plots the errors.",
)
@options.form()
@click.option(
    "--vae", metavar="V", help="Latent decoder: a folder, or a Hub repository such as hf:stabilityai/sd-vae-ft-ema."
)
def command(
    model: str,
    out: Path | None,
    npz: Path | None,
    latents: bool,
    count: int | None,
    labels: Any,
    cfg_scale: float,
    guide_all: bool,
    steps: int | None,
    sampler: str | None,
    cache: str | None,
    cfg_interval: str | None,
    seed: int,
    batch: int | None,
    res: int | None,
    backend: str,
    precision: str,
    device: str | None,
    weights: str | None,
    drift: str | None,
    form: str,
    vae: str | None,
) -> int:
    """Sample images from a backbone: by default, handwritten digits from a small DiCo model that ships with convbench.

    Each image depends only on --seed and its index, not on --batch, the number of processes, or whether the run was
    resumed.
    """
    if drift and (npz or latents):
        raise UsageError("--drift cannot be combined with --npz or --latents")
    if (out is None) == (npz is None) and not drift:
        raise UsageError("specify exactly one of --out (grid.png) or --npz (FILE)")
    if latents and not npz:
        raise UsageError("--latents requires --npz FILE: latents cannot be drawn")
    for path in (out, npz):
        if path:
            require_writable(path)
    pairs = sample_drift.engines(drift, precision) if drift else []
    from ..run.sample import sample_order

    order = sample_order(
        model=model,
        labels=labels or ("random" if npz else "all"),
        cfg_scale=cfg_scale,
        guide_all=guide_all,
        steps=steps,
        sampler=sampler,
        seed=seed,
        res=res,
        backend=backend,
        precision=precision,
        device=device,
        weights=weights,
        vae=None if latents else vae,
        cache=cache,
        cfg_interval=cfg_interval,
    )
    count = count or (EVALUATION if npz else WALKED if drift else GRID)
    batch = order.batch(batch, count)
    if order.is_small(batch):
        import torch

        torch.set_num_threads(1)  # more gain nothing here, and stall each other where the machine is shared
    if pairs:
        return sample_drift.show(order.recipe, order.sampler, pairs, count, order.device, order.weights, out, form)
    if out:
        return _draw(out, order, count, batch)
    assert npz
    return _store(npz, order, count, batch, latents)


def _draw(out: Path, order: "SampleOrder", count: int, batch: int) -> int:
    import numpy as np

    from ..files import write_whole
    from ..measure.engine import open_engine
    from ..sampling import decoding, images, png

    recipe, device = order.recipe, order.device
    decode = decoding.create_decoder(recipe.variant.signature, recipe.decoded_by, device)
    columns = len(recipe.labels) if recipe.labels and len(recipe.labels) <= 10 and count > len(recipe.labels) else 8
    with (
        open_engine(recipe, batch, device, order.weights) as step,
        ImageProgress(count, batch, order.sampler.steps) as progress,
    ):
        sheets = [
            decoding.bytes_from_pixels(decode(done.samples)).cpu().numpy()
            for done in images.sample(recipe, step, order.sampler, range(count), batch, device, progress.update)
        ]
    write_whole(out, png.encode_png(png.image_grid(np.concatenate(sheets), min(columns, count))))
    click.echo(_summary(progress.elapsed_s, count, recipe, out), err=True)
    return 0


def _store(npz: Path, order: "SampleOrder", count: int, batch: int, latents: bool) -> int:
    from ..measure.engine import open_engine
    from ..sampling import decoding, images, shards

    recipe, device = order.recipe, order.device
    run, world = shards.ShardedNpz(npz, count, {**recipe.facts(), "latents": latents}), shards.World.of_torchrun()
    if device == "cuda":
        world.take_gpu()
    decode = None if latents else decoding.create_decoder(recipe.variant.signature, recipe.decoded_by, device)
    run.begin()
    left = run.missing(world)
    todo = [number for numbers in left.values() for number in numbers]
    if todo:
        with (
            open_engine(recipe, batch, device, order.weights) as step,
            ImageProgress(len(todo), batch, order.sampler.steps) as progress,
        ):
            _fill(
                left,
                images.sample(recipe, step, order.sampler, todo, batch, device, progress.update),
                decode,
            )
        click.echo(_summary(progress.elapsed_s, len(todo), recipe, npz), err=True)
    if run.merge():
        click.echo(f"{npz}: all {count} images are there", err=True)
    else:
        click.echo(f"{npz}: this process is done, others still have parts to make", err=True)
    return 0


def _summary(seconds: float, count: int, recipe: "Recipe", path: Path) -> str:
    return (
        f"{count} images in {seconds:.1f} s, {recipe.steps} steps of {recipe.sampler}, "
        f"guidance {recipe.cfg_scale:g}: {path}"
    )


def _fill(left: dict[Path, range], batches: Any, decode: Any) -> None:
    """Write each part as soon as its last image is there."""
    import numpy as np

    from ..sampling import decoding
    from ..sampling.shards import write_shard

    kept: dict[int, tuple[Any, int]] = {}
    waiting = list(left.items())
    for done in batches:
        if decode is None:
            arrays = done.samples.float().cpu().numpy()
        else:
            arrays = decoding.bytes_from_pixels(decode(done.samples)).cpu().numpy()
            arrays = np.repeat(arrays, 3, axis=3) if arrays.shape[3] == 1 else arrays  # FID tools want three colours
        kept |= dict(zip(done.numbers, zip(arrays, done.labels, strict=True), strict=True))
        while waiting and all(number in kept for number in waiting[0][1]):
            path, numbers = waiting.pop(0)
            found = [kept.pop(number) for number in numbers]
            write_shard(path, np.stack([array for array, _ in found]), [label for _, label in found])
