"""Random weights: the same bits however many threads draw them."""

import math
import zlib

import pytest
import torch
from torch import nn

from convbench import models
from convbench.models import random_weights


def drawn_alone(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """A weight of a product, from its definition: one generator, one thread."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))
    return torch.empty(shape).normal_(generator=generator).mul_(math.prod(shape[1:]) ** -0.5)


@pytest.mark.parametrize(("threads", "ahead"), [(1, 0), (3, 0), (5, 10_000), (8, 2**30)])
def test_the_bits_depend_on_neither_threads_nor_what_is_drawn_ahead(
    threads: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_weights, "cores", lambda: threads)
    monkeypatch.setattr(random_weights, "AHEAD_BYTES", ahead)
    model = nn.Sequential(*(nn.Linear(size, 31) for size in (7, 65, 1, 300)))
    random_weights.fill(model, seed=7)
    for name, value in model.state_dict().items():
        if name.endswith("weight"):
            assert torch.equal(value, drawn_alone(name, value.shape, 7)), name
    assert float(model[0].bias.detach().abs().max()) < 0.1


def test_weights_made_in_inference_mode_are_the_same() -> None:
    with torch.inference_mode():
        inside = models.create("dit_s_8").state_dict()
    outside = models.create("dit_s_8").state_dict()
    assert all(torch.equal(inside[name], outside[name]) for name in outside)
