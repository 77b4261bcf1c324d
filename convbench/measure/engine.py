"""A network in the backend and precision of a recipe, to sample images with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .. import backends, precision
from ..checks.output import input_sets
from ..errors import UsageError
from ..models import create
from ..sampling.images import Recipe
from ..schema import Case, Step


@contextmanager
def open_engine(recipe: Recipe, batch: int, device: str, weights: str | None) -> Iterator[Step]:
    """Open the network of a recipe in its backend, for twice the batch, or for the batch at scale 1.

    Yields a Step that takes and returns float32 tensors.

    Args:
        weights: what ``models.create`` reads.
    """
    takes = recipe.variant.signature
    if takes.caption or not (takes.null_class or recipe.cfg_scale == 1):
        raise UsageError(f"{recipe.model} has no classes to guide with: sampling it is not supported")
    size = batch if recipe.cfg_scale == 1 else 2 * batch
    case = Case(recipe.model, recipe.res, size, recipe.backend, recipe.precision, device, weights=weights)
    backend = backends.find(recipe.backend)
    if reason := precision.unsupported(recipe.precision, device) or backend.unsupported(case):
        raise UsageError(f"{recipe.backend} at {recipe.precision} cannot run on {device}: {reason}")
    kind = precision.dtype_of(recipe.precision)
    model = create(recipe.model, weights, device, recipe.res).to(kind)
    x, t, y = (value.to(device) for value in input_sets(case)[0])
    with (
        torch.inference_mode(),
        precision.applied(recipe.precision),
        backend.open(model, case, (x.to(kind), t, y)) as step,
    ):
        yield lambda x, t, y: step(x.to(kind), t, y)
