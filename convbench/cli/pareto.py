"""``convbench pareto``: the fastest ways to sample at the same quality."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..files import require_writable
from ..reports.tables.frontier import KEYS, notes
from ..schema import PRECISIONS
from . import INTERRUPTED, options
from .progress import PhaseProgress

if TYPE_CHECKING:
    from ..run.pareto import PlannedRace

PLAN_KEYS = ("sampling", "backend", "precision", "role", "evaluations")


@click.command(
    "pareto",
    short_help="the fastest ways to sample at the same quality",
    epilog="\b\nExamples:\n  convbench pareto --model dic_glyphs --plot frontier.png\n"
    "  convbench pareto --model dit_glyphs --sampling cache=first:threshold=0.2 --out ways.jsonl",
)
@click.option("--model", required=True, metavar="ID", help="A model whose images a classifier here can judge.")
@click.option("--res", type=int, metavar="PX", help="Side of the image in pixels [default: that of the weights].")
@click.option(
    "--sampling",
    multiple=True,
    metavar="PLAN",
    help="Way to sample, such as cache=deep:every=3 or sampler=ddim,steps=25; may be repeated [default: a set that "
    "suits the model]. What it leaves out is as in the full sampler.",
)
@click.option(
    "--engine",
    "engines",
    type=options.CommaList(),
    metavar="B[/P][,…]",
    help="Run the full sampler with these backends and precisions too, such as onnxruntime,eager/bf16.",
)
@click.option(
    "--artefact",
    "artefacts",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Run the full sampler with an artefact of `convbench export` too, such as an int8 one; may be repeated.",
)
@click.option(
    "--cfg-scale",
    type=options.Number(min=0),
    default=1.5,
    show_default=True,
    help="Classifier-free guidance scale; 1 turns guidance off.",
)
@click.option("--images", type=click.IntRange(min=2), help="Number of images [default: as many as the margins need].")
@click.option("--batch", type=click.IntRange(min=1), help="Images per batch [default: one of each class].")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the noise.")
@click.option("--weights", metavar="W", help="A checkpoint, as of `convbench sample` [default: shipped].")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is a GPU]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: those of PyTorch].")
@click.option("--budget", type=options.Duration(), help="Time limit, e.g. 30m: stop with the images sampled by then.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the rows to this file; a run whose rows it holds is not made again.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the frontier into this .svg or .png file."
)
@click.option("--dry-run", is_flag=True, help="Print what would be sampled, how many images and how long, and exit.")
@options.form()
def command(
    model: str,
    res: int | None,
    sampling: tuple[str, ...],
    engines: list[str] | None,
    artefacts: tuple[Path, ...],
    cfg_scale: float,
    images: int | None,
    batch: int | None,
    seed: int,
    weights: str | None,
    device: str | None,
    threads: int | None,
    budget: float | None,
    out: Path | None,
    plot: Path | None,
    dry_run: bool,
    form: str,
) -> int:
    """Find the ways to sample that give the most images/s, and say of each whether its images are as good.

    Caches, intervals of guidance, fewer steps and other engines sample the same images as the full sampler. Each gets a
    verdict: better, same, worse, or inconclusive if there are too few images to tell.
    """
    from ..environment import default_device
    from ..run import pareto
    from ..run.jobs import open_results

    if plot:
        require_writable(plot)
        if plot.suffix not in (".svg", ".png"):
            raise UsageError(f"--plot {plot}: the name must end in .svg or .png")
    wanted = pareto.FrontierRequest(
        model=model,
        res=res,
        cfg=cfg_scale,
        weights=weights,
        device=device or default_device(),
        threads=threads,
        seed=seed,
        images=images,
        batch=batch,
        sampling=sampling,
        engines=tuple(_engine(text) for text in engines or ()),
        artefacts=artefacts,
        budget_s=budget,
    )
    found = pareto.planned(wanted)
    results = open_results(out)
    if dry_run:
        options.show([_planned_row(found, number) for number in range(len(found.ways))], PLAN_KEYS, form)
    options.say(_summary(found), err=True)
    if dry_run:
        return 0
    with PhaseProgress() as progress:
        rows = list(pareto.measured(found, results, progress.update))
    shown = [row.to_json() for row in rows]
    options.show(shown, KEYS, form, notes(shown))
    if plot:
        from ..reports.plots.figures import save_as
        from ..reports.plots.pictures import frontiers

        for picture in frontiers(shown):
            save_as(picture.figure(), plot)
        click.echo(f"the frontier: {plot}", err=True)
    return INTERRUPTED if budget is None and any(row.reason == pareto.UNFINISHED for row in rows) else 0


def _engine(text: str) -> tuple[str, str]:
    backend, _, precision = text.partition("/")
    if (precision or "fp32") not in PRECISIONS:
        raise UsageError(f"--engine {text}: unknown precision '{precision}', there are {', '.join(PRECISIONS)}")
    return backend, precision or "fp32"


def _planned_row(found: "PlannedRace", number: int) -> dict[str, Any]:
    from ..sampling.images import sampler_for

    way = found.ways[number]
    made = sampler_for(found.variant, way.plan.sampler, way.plan.steps)
    facts = {"sampling": str(way.plan), "backend": way.backend, "precision": way.precision, "role": way.role}
    return {**facts, "evaluations": made.steps, "images": found.images}


def _summary(found: "PlannedRace") -> str:
    from ..tolerances import QUALITY_MARGINS

    minutes = found.expected_s / 60
    margins = f"{100 * QUALITY_MARGINS['recognised']:g} points recognised and {QUALITY_MARGINS['frechet']:.0%} Fréchet"
    return (
        f"{len(found.ways)} ways to sample {found.images} images each (margins: {margins}), and plain fewer steps "
        f"beside each method: about {f'{minutes:.0f} min' if minutes >= 2 else f'{60 * minutes:.0f} s'}."
    )
