"""Networks cut in two: the parts make the whole, at odd sizes and in every family that has a cut."""

import pytest
import torch
from torch import Tensor, nn

from convbench import models
from convbench.catalogue import find, variants
from convbench.models.cuts import CUTS, cut_of
from convbench.sampling.method_names import ISOTROPIC, U_SHAPED

GLYPHS = [id for id, variant in variants().items() if id.endswith("_glyphs")]


def inputs(channels: int = 16, side: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, *side, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0.0, 500.0, 999.0]), torch.tensor([0, 5, 62])


def network(id: str) -> nn.Module:
    return models.create(id, res=32).double()


def test_every_family_with_a_cut_has_a_small_model() -> None:
    assert {find(id).family.module for id in GLYPHS} == {*U_SHAPED, *ISOTROPIC}
    assert {type(network(id)) for id in GLYPHS} == set(CUTS)


@pytest.mark.parametrize("id", GLYPHS)
def test_the_parts_make_the_whole(id: str) -> None:
    """In float64; the residual of DiT rounds once more."""
    whole = network(id)
    cut = cut_of(whole)
    assert cut
    sides = [(8, 8)] if id.startswith("dit") else [(8, 8), (4, 12), (12, 20)]
    for side in sides:
        asked = inputs(side=side)
        expected = whole(*asked)
        assert (cut(*asked) - expected).norm() <= 1e-13 * expected.norm()


@pytest.mark.parametrize("id", GLYPHS)
def test_the_inner_part_matters_and_is_most_of_the_weights(id: str) -> None:
    whole = network(id)
    cut = cut_of(whole)
    assert cut
    entered = cut.enter(*inputs())
    assert all(len(value) == 3 for value in entered)
    inner = cut.inner(*entered)
    expected = whole(*inputs())
    assert (cut.leave(torch.zeros_like(inner), *entered) - expected).norm() > 1e-2 * expected.norm()


def test_other_networks_have_none() -> None:
    assert cut_of(nn.Identity()) is None
    assert cut_of(models.create("dic_s@gate=no", device="meta")) is None
