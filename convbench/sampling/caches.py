"""Caches by name."""

from ..models.cuts import Cut
from ..schema import Step
from . import cache_deep, cache_first, cache_taylor
from .method_names import CacheChoice

BEGIN = {"deep": cache_deep.begin, "first": cache_first.begin, "taylor": cache_taylor.begin}


def begin(choice: CacheChoice, cut: Cut) -> Step:
    """Start a trajectory of a batch of images with a cache; the step returned takes the place of the network."""
    return BEGIN[choice.kind](cut, **dict(choice.settings))  # type: ignore[operator] # each has its own settings
