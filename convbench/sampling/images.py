"""Sampling numbered images in batches: image i is the same whatever is sampled with it, before it or elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..catalogue import Variant, find
from ..errors import UsageError
from ..schema import Step
from . import names, samplers
from .guidance import guided
from .noise import PerImage, classes
from .sampler import Sampler

Report = Callable[[int, int], None]
"""Called after each step with how many images are finished and how many steps of the running batch."""


@dataclass(frozen=True)
class Recipe:
    """What decides an image, but for its number. Two runs of one recipe make the same images."""

    model: str
    res: int
    weights_sha256: str | None  # of the file, None for random weights
    sampler: str
    steps: int
    cfg_scale: float
    guided_channels: int | None  # None for the papers' way
    seed: int
    labels: tuple[int, ...] | None  # image i has label i modulo their number; None for random ones
    backend: str
    precision: str
    decoded_by: str | None  # what decodes latents; None for pixels or for latents kept as they are

    def facts(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "labels": None if self.labels is None else list(self.labels)}

    @property
    def variant(self) -> Variant:
        return find(self.model)


@dataclass(frozen=True)
class Batch:
    """Finished images."""

    numbers: list[int]
    labels: list[int]
    samples: Tensor  # (B, C, S, S) float32, on the device


def sampler_for(variant: Variant, name: str | None, steps: int | None) -> Sampler:
    """The sampler of that name, or the one the papers use. Raises UsageError where it does not suit the network."""
    kind = names.prediction(variant.signature)
    takes, name = variant.signature, name or names.default(variant.signature)
    made = samplers.create(name, names.steps(name) if steps is None else steps, noise=takes.noise, shift=takes.shift)
    if made.prediction != kind:
        suiting = [known for known, predicts in names.PREDICTS.items() if predicts == kind]
        raise UsageError(f"{variant.id} predicts {kind}, {name} needs {made.prediction}: take {' or '.join(suiting)}")
    return made


def labels_of(recipe: Recipe, numbers: Sequence[int]) -> list[int]:
    if recipe.labels is None:
        return classes(recipe.seed, numbers, recipe.variant.signature.classes)
    return [recipe.labels[number % len(recipe.labels)] for number in numbers]


def sample(
    recipe: Recipe, step: Step, made: Sampler, numbers: Sequence[int], batch: int, device: str, report: Report
) -> Iterator[Batch]:
    """Sample the images of those numbers, ``batch`` at a time; the last is filled up, as engines have one size."""
    takes, side = recipe.variant.signature, recipe.res // recipe.variant.signature.factor
    finished = 0
    for start in range(0, len(numbers), batch):
        wanted = list(numbers[start : start + batch])
        padded = wanted + wanted[:1] * (batch - len(wanted))
        noise = PerImage(recipe.seed, padded, (takes.channels, side, side), device)
        labels = labels_of(recipe, padded)
        model = guided(
            step,
            torch.tensor(labels, device=device),
            takes.classes,
            recipe.cfg_scale,
            recipe.guided_channels or takes.guided_channels,
            takes.guidance_interval,
            takes.guidance_power,
        )
        last = noise.start()
        with torch.inference_mode():
            for done, state in enumerate(made.trajectory(model, last, noise), start=1):
                report(finished, done)
                last = state
        finished += len(wanted)
        yield Batch(wanted, labels[: len(wanted)], last[: len(wanted)])
