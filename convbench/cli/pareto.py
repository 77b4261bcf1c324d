"""``convbench pareto``: the fastest ways to sample at the same quality."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import NothingMeasured, UsageError
from ..files import require_writable
from ..reports.tables.frontier import KEYS, notes
from ..schema import PRECISIONS, QualityRow
from . import INTERRUPTED, options
from .progress import CaseProgress, PhaseProgress

if TYPE_CHECKING:
    from ..reports.plots.pictures import Picture
    from ..run.frontier_plan import PlannedRace
    from ..store import Results

PLAN_KEYS = ("model", "seed", "on", "sampling", "backend", "precision", "role", "evaluations")


@click.command(
    "pareto",
    short_help="the fastest ways to sample at the same quality",
    epilog="\b\nExamples:\n  convbench pareto --model dic_glyphs --plot frontier.png\n"
    "  convbench pareto --model dico_glyphs,dit_glyphs --seed 0,1,2 --launcher slurm --out ways.jsonl",
)
@options.model(help="Model ids. A classifier judges glyphs and digits; other images need --reference and --features.")
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
@click.option(
    "--batch", type=click.IntRange(min=1), help="Images per batch [default: one of each class, above 100 classes 50]."
)
@click.option(
    "--seed",
    "seeds",
    type=options.CommaList(int, most_whole=2**63 - 1),
    default="0",
    show_default=True,
    metavar="N[,N…]",
    help="Seeds of the noise.",
)
@click.option("--weights", metavar="W", help="A checkpoint, as of `convbench sample` [default: shipped].")
@click.option(
    "--vae", metavar="V", help="Latent decoder: a folder, or a Hub repository such as hf:stabilityai/sd-vae-ft-ema."
)
@click.option(
    "--reference",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="NPZ",
    help="Statistics of real images, mu and sigma, as of ADM's and EDM's evaluation: the FID decides.",
)
@click.option(
    "--features",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PT",
    help="Network of those statistics in TorchScript, such as inception-2015-12-05.pt. It is a program that is run: "
    "name only a file that you trust.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is a GPU]")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads [default: those of PyTorch; with --launcher, all physical cores].",
)
@click.option(
    "--budget",
    type=options.Duration(),
    help="Time limit, e.g. 30m: stop with the images sampled by then; with --launcher, of each job.",
)
@options.launcher("model and seed")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the rows to this file; a run whose rows it holds is not made again.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the frontier into this .svg or .png file; several into files whose names say which they are.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be sampled, how many images and how long, and exit.")
@options.form()
def command(
    model: list[str],
    res: int | None,
    sampling: tuple[str, ...],
    engines: list[str] | None,
    artefacts: tuple[Path, ...],
    cfg_scale: float,
    images: int | None,
    batch: int | None,
    seeds: list[int],
    weights: str | None,
    vae: str | None,
    reference: Path | None,
    features: Path | None,
    device: str | None,
    threads: int | None,
    budget: float | None,
    launcher: str | None,
    on: list[str] | None,
    out: Path | None,
    plot: Path | None,
    dry_run: bool,
    form: str,
) -> int:
    """Find the ways to sample that give the most images/s, and say of each whether its images are as good.

    Caches, intervals of guidance, fewer steps and other engines sample the same images as the full sampler. Each gets a
    verdict: better, same, worse, or inconclusive if there are too few images to tell.
    """
    from ..environment import cores, default_device
    from ..run import fleet, frontier_plan, pareto
    from ..run.jobs import open_results

    if min(seeds) < 0:
        raise UsageError("--seed must be at least 0")
    if weights and len(set(model)) > 1:
        raise UsageError(f"--weights is a checkpoint of one model, but --model names {len(set(model))}")
    fleet.require_launchable(launcher, out, on)
    elsewhere, device = fleet.is_elsewhere(launcher), device or default_device()
    if launcher and device == "cpu":
        threads = threads or cores()
    if plot:
        require_writable(plot)
        if plot.suffix not in (".svg", ".png"):
            raise UsageError(f"--plot {plot}: the name must end in .svg or .png")
    if launcher and (reference or features):
        raise UsageError(
            "--features is a program, which no job is given: omit --launcher, or --reference and --features"
        )
    kinds: list[str | None] = [*dict.fromkeys(on)] if on else [None]
    races = [
        frontier_plan.planned(
            frontier_plan.FrontierRequest(
                model=each,
                res=res,
                cfg=cfg_scale,
                weights=weights,
                device=device,
                threads=threads,
                seed=seed,
                images=images,
                batch=batch,
                sampling=sampling,
                engines=tuple(_engine(text) for text in engines or ()),
                artefacts=artefacts,
                budget_s=budget,
                on=kind,
                vae=vae,
                reference=reference,
                features=features,
            ),
            elsewhere,
        )
        for each, seed, kind in itertools.product(dict.fromkeys(model), dict.fromkeys(seeds), kinds)
    ]
    results = open_results(out, anywhere=elsewhere)
    if dry_run:
        planned = [_planned_row(found, number) for found in races for number in range(len(found.ways))]
        options.show(planned, [key for key in PLAN_KEYS if key != "on" or on], form)
    expected_s = {found.id: frontier_plan.expected_s(found) for found in races if device == "cpu" or not elsewhere}
    options.say(_summary(races, sum(expected_s.values())), err=True)
    if dry_run:
        return 0
    if launcher:
        rows, code = _launched(races, results, launcher, expected_s)
    else:
        rows, code = _measured(races, results)
        if budget is None and any(pareto.is_unfinished(row.reason) for row in rows):
            code = INTERRUPTED
    shown = [row.to_json() for row in rows]
    options.show(shown, KEYS, form, notes(shown))
    if plot:
        from ..reports.plots.pictures import frontiers

        _draw(list(frontiers(shown)), plot)
    return code


def _measured(races: "list[PlannedRace]", results: "Results") -> "tuple[list[QualityRow], int]":
    """Rows of races that this process runs, and the exit code; what is there is kept on Ctrl-C."""
    from ..run import pareto

    rows: list[QualityRow] = []
    with PhaseProgress() as progress:
        try:
            for row in pareto.measured_all(races, results, progress.update):
                rows.append(row)
        except KeyboardInterrupt:
            if not rows:
                raise
            return rows, INTERRUPTED
    return rows, 0


def _launched(
    races: "list[PlannedRace]", results: "Results", launcher: str, expected_s: dict[str, float]
) -> tuple[list[QualityRow], int]:
    """Rows of races that a launcher runs, in the order of the plan, and the exit code; also after Ctrl-C."""
    from ..run import pareto

    rows: list[QualityRow] = []
    code = 0
    with CaseProgress(expected_s, len(races)) as progress:
        try:
            for row in pareto.launched(races, results, launcher, progress.update, progress.tell):
                rows.append(row)
                if row.role == "reference":
                    progress.finished(row.case, f"{row.images} images of each way")
        except KeyboardInterrupt:
            code = INTERRUPTED
    if not rows and not code:
        raise NothingMeasured("no frontier could be measured; see the lines above")
    rows.sort(key=lambda row: [pareto.is_of(row, found) for found in races], reverse=True)  # in the order of the races
    return rows, code


def _draw(pictures: "list[Picture]", plot: Path) -> None:
    from ..reports.plots.figures import save_as

    for picture in pictures:
        path = plot if len(pictures) == 1 else plot.with_stem(f"{plot.stem}-{picture.name}")
        save_as(picture.figure(), path)
        click.echo(f"the frontier: {path}", err=True)


def _engine(text: str) -> tuple[str, str]:
    backend, _, precision = text.partition("/")
    if (precision or "fp32") not in PRECISIONS:
        raise UsageError(f"--engine {text}: unknown precision '{precision}', there are {', '.join(PRECISIONS)}")
    return backend, precision or "fp32"


def _planned_row(found: "PlannedRace", number: int) -> dict[str, Any]:
    from ..sampling.images import sampler_for

    way = found.ways[number]
    made = sampler_for(found.variant, way.plan.sampler, way.plan.steps)
    wanted = {"model": found.wanted.model, "seed": found.wanted.seed, "on": found.wanted.on}
    facts = wanted | {"sampling": str(way.plan), "backend": way.backend, "precision": way.precision, "role": way.role}
    return {**facts, "evaluations": made.steps, "images": found.images}


def _summary(races: "list[PlannedRace]", seconds: float) -> str:
    from ..tolerances import QUALITY_MARGINS

    found, minutes = races[0], seconds / 60
    times = f"{len(races)} times " if len(races) > 1 else ""
    about = f": about {f'{minutes:.0f} min' if minutes >= 2 else f'{seconds:.0f} s'}" if seconds else ""
    about += ", the decoder not counted" if about and not found.variant.signature.in_pixels else ""
    margins = f"{QUALITY_MARGINS['frechet']:.0%} Fréchet"
    if found.judge.recognises:
        margins = f"{100 * QUALITY_MARGINS['recognised']:g} points recognised and {margins}"
    return (
        f"{times}{len(found.ways)} ways to sample {found.images} images each (margins: {margins}), and plain fewer "
        f"steps beside each method{about}."
    )
