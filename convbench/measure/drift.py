"""Drift of a runtime from the fp32 trajectory: the error after every step, from the same start with the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checks import output
from ..errors import UsageError
from ..sampling import images
from ..sampling.images import Recipe, labels_of
from ..sampling.noise import PerImage
from ..sampling.sampler import Sampler
from ..tolerances import TRAJECTORY_L2
from .engine import open_engine

Row = dict[str, Any]
Engine = tuple[str, str]  # a backend and a precision
REFERENCE = ("eager", "fp32")
FULL = 20  # from so many steps on the limits of tolerances.TRAJECTORY_L2 hold as they stand
Report = Callable[[Engine, int], None]
"""Called after each step with how many are done."""


def drift(
    recipe: Recipe,
    engines: Sequence[Engine],
    made: Sampler,
    count: int = 16,
    device: str = "cpu",
    weights: str | None = None,
    report: Report = lambda engine, step: None,
    finished: dict[Engine, Tensor] | None = None,
) -> Iterator[Row]:
    """Sample the first ``count`` images of a recipe with each engine; yields a row for each step of each.

    ``error`` is ||x - ref|| / ||ref|| over all images, ref being eager PyTorch in fp32, and ``error_worst`` that of
    the worst image; both None where the images are not finite. ``limit`` is what ``limit`` allows for the precision;
    ``verdict`` is "ok", or "wrong" from the first step on that lies above it. An engine that cannot run
    has one row without a step, with ``status`` "skipped" or "failed" and the reason.

    Args:
        engines: take the place of the recipe's backend and precision.
        weights: what ``models.create`` reads.
        finished: receives the images of each engine that finished, and those of REFERENCE.
    """
    finished = {} if finished is None else finished
    first = replace(recipe, backend=REFERENCE[0], precision=REFERENCE[1])
    known = [x.cpu() for x in states(first, made, range(count), device, weights)]
    finished[REFERENCE] = known[-1]
    for backend, precision in engines:
        other = replace(recipe, backend=backend, precision=precision)
        # Not one by one: a suspended generator would leave its inference mode and precision switches to the caller.
        yield from list(_walk(other, made, known, device, weights, report, finished))


def _walk(
    recipe: Recipe,
    made: Sampler,
    known: Sequence[Tensor],
    device: str,
    weights: str | None,
    report: Report,
    finished: dict[Engine, Tensor],
) -> Iterator[Row]:
    engine, count = (recipe.backend, recipe.precision), len(known[0])
    allowed, verdict = limit(recipe.precision, made.steps), "ok"
    row: Row = {
        **{"model": recipe.model, "res": recipe.res, "batch": count, "backend": recipe.backend},
        **{"precision": recipe.precision, "device": device, "sampler": made.name, "steps": made.steps},
        **{"cfg_scale": recipe.cfg_scale, "status": "ok", "reason": ""},
        **dict.fromkeys(("step", "t", "error", "error_worst", "limit", "verdict")),
    }
    try:
        for step, (x, reference) in enumerate(
            zip(states(recipe, made, range(count), device, weights), known, strict=True)
        ):
            error, worst = distances(x.cpu(), reference)
            verdict = verdict if error is not None and error <= allowed else "wrong"
            report(engine, step + 1)
            if step == made.steps - 1:
                finished[engine] = x.cpu()
            numbers = {"error": error, "error_worst": worst, "limit": allowed, "verdict": verdict}
            reason = "the images are not finite" if error is None else ""
            yield {**row, "step": step, "t": made.times[step], **numbers, "reason": reason}
    except UsageError as error:
        yield {**row, "status": "skipped", "reason": str(error)}
    except Exception as error:  # a backend may raise anything; the row says what, and the others are sampled
        yield {**row, "status": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}


def states(
    recipe: Recipe, made: Sampler, numbers: Sequence[int], device: str = "cpu", weights: str | None = None
) -> Iterator[Tensor]:
    """The images of those numbers after every step: (B, C, S, S) each, float32, on the device."""
    takes, side = recipe.variant.signature, recipe.res // recipe.variant.signature.factor
    noise = PerImage(recipe.seed, numbers, (takes.channels, side, side), device)
    labels = torch.tensor(labels_of(recipe, numbers), device=device)
    with open_engine(recipe, len(numbers), device, weights) as step:
        model = images.model_of(recipe, step, labels)
        yield from made.trajectory(model, noise.start(), noise)


def limit(precision: str, steps: int) -> float:
    """The relative L2 error that is allowed after any of so many steps."""
    return TRAJECTORY_L2[precision] * max(1.0, FULL / steps)


def distances(x: Tensor, reference: Tensor) -> tuple[float | None, float | None]:
    """Compute the relative L2 errors of all images (B, C, H, W) and of the worst one; None if not finite."""
    worst = max(output.relative_error(a, b) for a, b in zip(x, reference, strict=True))
    error = output.relative_error(x, reference)
    return (error if math.isfinite(error) else None), (worst if math.isfinite(worst) else None)


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row an engine: its last and its largest error, and the first step that is wrong, None where none is."""
    found = []
    for engine in dict.fromkeys((row["backend"], row["precision"]) for row in rows):
        walked = [row for row in rows if (row["backend"], row["precision"]) == engine]
        row = {key: value for key, value in walked[-1].items() if key not in ("step", "t", "error", "error_worst")}
        row["error_last"] = walked[-1]["error"]
        row["error_max"] = max((step["error"] for step in walked if step["error"] is not None), default=None)
        row["first_wrong_step"] = next((step["step"] for step in walked if step["verdict"] == "wrong"), None)
        found.append(row)
    return found
