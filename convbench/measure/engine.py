"""A network in the backend and precision of a recipe, to sample images with."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .. import backends, precision
from ..checks.output import input_sets
from ..errors import UsageError
from ..export import parts
from ..models import create
from ..models.cuts import Cut, cut_of
from ..sampling import caches
from ..sampling.images import Recipe
from ..sampling.method_names import CacheChoice
from ..schema import Case, Step


@contextmanager
def open_engine(
    recipe: Recipe, batch: int, device: str, weights: str | None, network: nn.Module | None = None
) -> Iterator[Step]:
    """Open the network of a recipe in its backend, for twice the batch, or for the batch at scale 1.

    Yields a Step that takes and returns float32 tensors.

    Args:
        weights: what ``models.create`` reads.
        network: one that is there already, in the precision of the recipe.
    """
    takes = recipe.variant.signature
    if takes.caption or not (takes.null_class or recipe.cfg_scale == 1):
        raise UsageError(f"{recipe.model} has no classes to guide with: sampling it is not supported")
    if recipe.cache:
        recipe.cache.require(recipe.variant, recipe.backend)
    case = Case(recipe.model, recipe.res, batch, recipe.backend, recipe.precision, device, weights=weights)
    backend = backends.find(recipe.backend)
    if reason := precision.unsupported(recipe.precision, device) or backend.unsupported(case):
        raise UsageError(f"{recipe.backend} at {recipe.precision} cannot run on {device}: {reason}")
    kind = precision.dtype_of(recipe.precision)
    model = network or create(recipe.model, weights, device, recipe.res).to(kind)
    # Guidance runs twice the batch; within an interval, an engine of a fixed size is opened for both.
    sizes = [batch] if recipe.cfg_scale == 1 else [2 * batch]
    sizes += [batch] if recipe.cfg_interval and not backend.eager else []
    with torch.inference_mode(), precision.applied(recipe.precision), ExitStack() as stack:
        opened = {}
        for size in sizes:
            own = replace(case, batch=size)
            x, t, y = (value.to(device) for value in input_sets(own)[0])
            opened[size] = stack.enter_context(backend.open(model, own, (x.to(kind), t, y)))

        def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return opened.get(len(x), opened[sizes[0]])(x.to(kind), t, y)

        if not recipe.cache:
            yield step
            return
        cut = open_cut(own, model, (x, t, y), stack)
        yield Cached(recipe.cache, cut, step, kind)


def open_cut(case: Case, network: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], stack: ExitStack) -> Cut:
    """Open the network of a case in parts: its own functions, or for ONNX Runtime files made from them.

    Args:
        inputs: x (B, C, S, S), t (B,) and y (B,), of any values.

    Raises UsageError where the network cannot be cut, or the backend cannot run parts on the device.
    """
    if case.backend == "onnxruntime":
        if case.device != "cpu" or case.precision != "fp32":
            raise UsageError("a cache runs in ONNX Runtime only on a CPU in fp32: use --backend eager")
        return stack.enter_context(parts.opened(network, inputs, case.threads))
    if cut := cut_of(network):
        return cut
    raise UsageError(f"no cut of {type(network).__name__} is known: omit the cache")


@dataclass(frozen=True)
class Cached:
    """A network whose features are kept between steps: ``begin`` starts a trajectory; called, it runs as a whole."""

    choice: CacheChoice
    cut: Cut
    whole: Callable[[Tensor, Tensor, Tensor], Tensor]
    kind: torch.dtype

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.whole(x, t, y)

    def begin(self) -> Step:
        """Start a trajectory."""
        step = caches.begin(self.choice, self.cut)
        return lambda x, t, y: step(x.to(self.kind), t.contiguous(), y)
