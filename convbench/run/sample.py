"""``convbench.sample``: numbered images of a trained backbone, and the defaults that the command shares with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import backends, catalogue, environment
from ..errors import UsageError
from ..measure.engine import open_engine
from ..sampling import decoding, images, sampler_names
from ..sampling.images import Recipe
from ..sampling.method_names import CacheChoice, interval_of_text, require_interval
from ..sampling.sampler import Sampler
from ..weights import locate

if TYPE_CHECKING:
    import numpy as np

BATCH = {"cpu": 40, "cuda": 64}
SMALL_STEP = 2e9  # MACs of a guided step that a single thread computes fastest


@dataclass(frozen=True)
class SampleOrder:
    """A checked request for images: ``weights`` is the file of the checkpoint, None for random weights."""

    recipe: Recipe
    sampler: Sampler
    weights: str | None
    device: str

    def batch(self, wanted: int | None, count: int) -> int:
        """Return the images per batch: those wanted, else the default of the device; never more than ``count``."""
        return min(wanted or BATCH[self.device], count)

    def is_small(self, batch: int) -> bool:
        """Tell whether a guided step on a batch is too little work for several threads."""
        return (self.recipe.variant.macs or SMALL_STEP) * 2 * batch < SMALL_STEP


def sample(
    model: str = "dico_digits",
    count: int = 40,
    labels: Sequence[int] | str = "all",
    cfg_scale: float = 1.5,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    res: int | None = None,
    backend: str = "eager",
    precision: str = "fp32",
    device: str | None = None,
    weights: str | None = None,
    vae: str | None = None,
    latents: bool = False,
) -> "np.ndarray[Any, Any]":
    """Sample images from a backbone, as ``convbench sample`` does. Each image depends only on ``seed`` and its index.

    Args:
        labels: classes to cycle through; "all"; or "random", as the papers evaluate.
        cfg_scale: scale of classifier-free guidance (Ho and Salimans, 2022); 1 for none.
        steps: of the sampler, by default those of the papers.
        sampler: iddpm, ddim, dpm-solver++, euler ...; by default that of the paper.
        res: side of an image in pixels, by default that of the weights.
        weights: a file; "hf:owner/repo/file[@revision]"; "official"; "shipped"; or "random".
        vae: decoder of latents, a folder or "hf:stabilityai/sd-vae-ft-ema" and the like.
        latents: return what the sampler ends with, undecoded.

    Returns uint8 images (count, H, W, 1 or 3), or float32 samples (count, C, S, S) if ``latents``.

    Raises:
        UsageError: a model, class, sampler or backend that does not exist or cannot do this.
        WeightsError: a checkpoint that cannot be read.
    """
    import numpy as np

    if count < 1:
        raise UsageError(f"count is {count}: it must be at least 1")
    order = sample_order(
        model=model,
        labels=labels,
        cfg_scale=cfg_scale,
        steps=steps,
        sampler=sampler,
        seed=seed,
        res=res,
        backend=backend,
        precision=precision,
        device=device,
        weights=weights,
        vae=None if latents else vae,
    )
    size = order.batch(batch, count)
    signature = order.recipe.variant.signature
    decode = None if latents else decoding.create_decoder(signature, order.recipe.decoded_by, order.device)
    found = []
    with open_engine(order.recipe, size, order.device, order.weights) as step:
        for done in images.sample(order.recipe, step, order.sampler, range(count), size, order.device, _ignore):
            pixels = done.samples.float() if decode is None else decoding.bytes_from_pixels(decode(done.samples))
            found.append(pixels.cpu().numpy())
    return np.concatenate(found)


def _ignore(finished: int, step: int) -> None:
    """Report no progress."""


def sample_order(
    *,
    model: str,
    labels: Sequence[int] | str,
    cfg_scale: float,
    steps: int | None,
    sampler: str | None,
    seed: int,
    res: int | None,
    backend: str,
    precision: str,
    device: str | None,
    weights: str | None,
    vae: str | None,
    guide_all: bool = False,
    cache: str | None = None,
    cfg_interval: str | None = None,
) -> SampleOrder:
    """Check a request for images and locate its checkpoint, before any network is built. Arguments as in ``sample``.

    Args:
        guide_all: guide every channel, not only those that the papers guide.
        cache: features to keep between steps, such as "deep:every=3".
        cfg_interval: guidance only there, such as "0.2..0.8".
    """
    variant = catalogue.find(model)
    res = res or variant.res
    variant.require_res(res)
    backends.require(backend)
    chosen, source = _labels(labels, variant), _weights(weights, variant)
    device = device or environment.default_device()
    if device == "cuda" and environment.default_device() != "cuda":
        raise UsageError("torch found no NVIDIA GPU; omit --device")
    if source != "random" and variant.family.module in sampler_names.OTHER_SCHEDULES:
        raise UsageError(
            f"{variant.family.name} was trained with a noise schedule that the samplers here do not support"
        )
    made = images.sampler_for(variant, sampler, steps)
    kept, interval = (cache and CacheChoice.of_text(cache)) or None, cfg_interval and interval_of_text(cfg_interval)
    if kept:
        kept.require(variant, backend)
    if interval:
        require_interval(variant, cfg_scale)
    located = None if source == "random" else locate.locate(source, variant, res)
    recipe = Recipe(
        model=model,
        res=res,
        weights_sha256=locate.announce(located) if located else None,
        sampler=made.name,
        steps=made.steps,
        cfg_scale=cfg_scale,
        guided_channels=variant.signature.channels if guide_all else None,
        seed=seed,
        labels=chosen,
        backend=backend,
        precision=precision,
        decoded_by=None if variant.signature.in_pixels else vae,
        cache=kept,
        cfg_interval=interval or None,
    )
    return SampleOrder(recipe, made, str(located.path) if located else None, device)


def _labels(labels: Sequence[int] | str, variant: catalogue.Variant) -> tuple[int, ...] | None:
    """Return the classes to cycle through; None for random ones."""
    classes = variant.signature.classes
    if isinstance(labels, str):
        if labels not in ("all", "random"):
            raise UsageError(f"unknown classes '{labels}': specify numbers, all or random")
        return None if labels == "random" else tuple(range(classes))
    for label in labels:
        if not 0 <= label < classes:
            raise UsageError(f"--class {label}: {variant.id} has the classes 0 to {classes - 1}")
    return tuple(labels)


def _weights(weights: str | None, variant: catalogue.Variant) -> str:
    if weights is None and variant.shipped_weights is None:
        raise UsageError(
            f"convbench ships no weights of {variant.id}: specify --weights with {locate.KINDS}; or random"
        )
    return weights or "shipped"
