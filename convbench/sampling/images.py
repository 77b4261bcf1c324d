"""Sampling of numbered images in batches: image i does not depend on its batch, its position or the process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..catalogue import Variant, find
from ..errors import UsageError
from ..schema import Step
from . import sampler_names, samplers
from .guidance import guided
from .guidance_interval import within
from .method_names import CacheChoice, Interval
from .noise import PerImage, draw_classes
from .sampler import Model, Sampler

ProgressCallback = Callable[[int, int], None]
"""Called after each step with the number of finished images and of finished steps of the current batch."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an image except its number. Two runs of the same recipe make the same images."""

    model: str
    res: int
    weights_sha256: str | None  # of the file; None for random weights
    sampler: str
    steps: int
    cfg_scale: float
    guided_channels: int | None  # None: as in the papers
    seed: int
    labels: tuple[int, ...] | None  # image i has label i modulo their number; None for random labels
    backend: str
    precision: str
    decoded_by: str | None  # decoder of latents; None for pixels or undecoded latents
    cache: CacheChoice | None = None  # of features between steps
    cfg_interval: Interval | None = None  # guidance only there

    def facts(self) -> dict[str, Any]:
        """Convert to values for JSON; those of methods only where one is used."""
        facts = {**asdict(self), "labels": None if self.labels is None else list(self.labels)}
        facts |= {"cache": str(self.cache) if self.cache else None}
        facts |= {"cfg_interval": list(self.cfg_interval) if self.cfg_interval else None}
        return {key: value for key, value in facts.items() if value or key not in ("cache", "cfg_interval")}

    @property
    def variant(self) -> Variant:
        return find(self.model)


@dataclass(frozen=True)
class Batch:
    """Finished images of one batch."""

    numbers: list[int]
    labels: list[int]
    samples: Tensor  # (B, C, S, S) float32, on the device


def sampler_for(variant: Variant, name: str | None, steps: int | None) -> Sampler:
    """Create the named sampler, or the one in the papers. Raises UsageError if it does not suit the network."""
    kind = sampler_names.prediction(variant.signature)
    takes, name = variant.signature, name or sampler_names.default_sampler(variant.signature)
    made = samplers.create(
        name, sampler_names.default_steps(name) if steps is None else steps, noise=takes.noise, shift=takes.shift
    )
    if made.prediction != kind:
        suiting = [known for known, predicts in sampler_names.PREDICTS.items() if predicts == kind]
        raise UsageError(f"{variant.id} predicts {kind}, {name} needs {made.prediction}: use {' or '.join(suiting)}")
    return made


def labels_of(recipe: Recipe, numbers: Sequence[int]) -> list[int]:
    if recipe.labels is None:
        return draw_classes(recipe.seed, numbers, recipe.variant.signature.classes)
    return [recipe.labels[number % len(recipe.labels)] for number in numbers]


def model_of(recipe: Recipe, step: Step, labels: Tensor) -> Model:
    """Combine a network with its classes, guidance and the methods of a recipe, for one trajectory of a batch.

    Args:
        step: of an engine; one with a method ``begin`` keeps values between steps, from the start of a trajectory.
        labels: (B,).
    """
    takes = recipe.variant.signature
    begin = getattr(step, "begin", None)
    step = begin() if begin else step
    model = guided(
        step,
        labels,
        takes.classes,
        recipe.cfg_scale,
        recipe.guided_channels or takes.guided_channels,
        takes.guidance_interval,
        takes.guidance_power,
    )
    if recipe.cfg_interval:
        model = within(recipe.cfg_interval, takes, model, guided(step, labels, takes.classes))
    return model


def sample(
    recipe: Recipe, step: Step, made: Sampler, numbers: Sequence[int], batch: int, device: str, report: ProgressCallback
) -> Iterator[Batch]:
    """Sample the images with these numbers in batches; the last batch is padded, as engines have a fixed size."""
    takes, side = recipe.variant.signature, recipe.res // recipe.variant.signature.factor
    finished = 0
    for start in range(0, len(numbers), batch):
        wanted = list(numbers[start : start + batch])
        padded = wanted + wanted[:1] * (batch - len(wanted))
        noise = PerImage(recipe.seed, padded, (takes.channels, side, side), device)
        labels = labels_of(recipe, padded)
        model = model_of(recipe, step, torch.tensor(labels, device=device))
        last = noise.start()
        with torch.inference_mode():
            for done, state in enumerate(made.trajectory(model, last, noise), start=1):
                report(finished, done)
                last = state
        finished += len(wanted)
        yield Batch(wanted, labels[: len(wanted)], last[: len(wanted)])
