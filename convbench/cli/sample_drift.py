"""``convbench sample --drift``: how far engines leave the fp32 trajectory, and what that does to the images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import backends
from ..errors import UsageError
from ..schema import PRECISIONS
from ..tolerances import FID_GAP
from . import options
from .progress import PhaseProgress

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampling.images import Recipe
    from ..sampling.sampler import Sampler

KEYS = (
    "model",
    "res",
    "batch",
    "backend",
    "precision",
    "device",
    "sampler",
    "steps",
    "cfg_scale",
    "error_last",
    "error_max",
    "limit",
    "first_wrong_step",
    "recognised",
    "frechet",
    "frechet_interval",
    "frechet_difference",
    "frechet_ratio_interval",
    "shift",
    "status",
    "verdict",
)
JUDGED = 100  # images: the bootstrap of the figures needs several of each class
FIGURE_KEYS = (
    "recognised",
    "frechet",
    "frechet_interval",
    "frechet_difference",
    "frechet_ratio_interval",
    "shift",
)
NOTE = (
    "error: of the state against fp32 eager PyTorch with the same noise, ||x - ref|| / ||ref||, at the end and at its "
    "largest; wrong where it leaves the limit of its precision."
)
FIGURES = (
    "recognised: share that a classifier of the real images takes for the class asked for. Fréchet: distance of its "
    "features from those of the real images; against fp32 it is different or the same only if the interval of their "
    f"ratio lies beyond or within {FID_GAP:.1%}. shift: distance of the mean features from those of fp32 eager."
)


def engines(text: str, precision: str) -> list[tuple[str, str]]:
    """Pairs of a backend and a precision from "eager/bf16,onnxruntime"; ``precision`` where none is given."""
    pairs = []
    for part in text.split(","):
        backend, _, own = part.strip().partition("/")
        backends.require(backend)
        if (own or precision) not in PRECISIONS:
            raise UsageError(f"--drift {part}: unknown precision '{own}', there are {', '.join(PRECISIONS)}")
        pairs.append((backend, own or precision))
    return pairs


def show(
    recipe: "Recipe",
    made: "Sampler",
    pairs: Sequence[tuple[str, str]],
    count: int,
    device: str,
    weights: str | None,
    out: Path | None,
    form: str,
) -> int:
    """Walk ``count`` images with each engine; print a row for each and draw their errors. Returns the exit code."""
    from ..measure import drift
    from ..sampling.classifier import set_of

    plot = _plotter(out) if out else None
    finished: dict[tuple[str, str], Tensor] = {}

    with PhaseProgress() as progress:

        def report(engine: tuple[str, str], step: int) -> None:
            progress.update(", ".join(engine), f"sampling {count} images", step / made.steps)

        steps = list(drift.drift(recipe, pairs, made, count, device, weights, report, finished))
    rows = [
        row | {"errors": [step["error"] for step in steps if _engine(step) == _engine(row)]}
        for row in drift.summary(steps)
    ]
    judge_of = set_of(recipe.variant, recipe.res) if count >= JUDGED else None
    if judge_of:
        _add_figures(rows, recipe, finished, count, judge_of)
    notes = [*([NOTE] if finished else []), *([FIGURES] if judge_of else []), *_reasons(rows)]
    options.show(rows, KEYS if judge_of else [key for key in KEYS if key not in FIGURE_KEYS], form, notes)
    if plot and out:
        plot(steps, out)
        click.echo(f"errors after every step: {out}", err=True)
    if any(row["verdict"] == "wrong" for row in rows):
        return 1
    return 0 if any(row["status"] == "ok" for row in rows) else 3


def _engine(row: dict[str, Any]) -> tuple[str, str]:
    return row["backend"], row["precision"]


def _plotter(out: Path) -> Any:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError(f"drawing {out} needs matplotlib: pip install matplotlib; or omit --out")
    from ..reports.plots.drift import plot

    return plot


def _add_figures(
    rows: list[dict[str, Any]],
    recipe: "Recipe",
    finished: "dict[tuple[str, str], Tensor]",
    count: int,
    judge_of: str,
) -> None:
    """Add the figures of the classifier of such images for those of each engine that finished."""
    import torch

    from ..measure.drift import REFERENCE
    from ..sampling import classifier, decoding, quality
    from ..sampling.images import labels_of

    classes = torch.tensor(labels_of(recipe, range(count)))
    decode = decoding.create_decoder(recipe.variant.signature, None, "cpu")
    ended = {
        _engine(row): decode(finished[_engine(row)])
        for row in rows
        if _engine(row) in finished and row["status"] == "ok"
    }
    by, reference = classifier.classifier(judge_of), decode(finished[REFERENCE])
    known = {_engine(row): row for row in quality.compare_engines(by, ended, reference, classes)}
    for row in rows:
        own = known.get(_engine(row), {})
        row |= {key: value for key, value in own.items() if key not in ("verdict", "reason")}
        if own.get("verdict") == "wrong":
            row["verdict"] = "wrong"
            row["reason"] = "; ".join(filter(None, [row["reason"], own["reason"]]))


def _reasons(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        if row["reason"]:
            yield f"{row['backend']}, {row['precision']}: {row['verdict'] or row['status']}, {row['reason']}"
