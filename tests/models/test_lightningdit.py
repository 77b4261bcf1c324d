"""LightningDiT's rotary tables by hand, and the side it is built for."""

import math

import pytest
import torch
from tolerances import assert_close

from convbench.models.lightningdit import AxialRotary, LightningDiT


@pytest.mark.parametrize(("width", "grid"), [(8, 3), (72, 4)])
def test_rotary_is_a_product_of_complex_numbers(width: int, grid: int) -> None:
    """The first half of the channels turns with the row, the second with the column; float32 tables."""
    rotary = AxialRotary(width, grid)
    x = torch.randn(2, grid**2, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = torch.view_as_complex(x.unflatten(2, (-1, 2)))
    angle = torch.zeros(grid**2, width // 2, dtype=torch.float64)
    for token in range(grid**2):
        for pair in range(width // 2):
            place = token // grid if pair < width // 4 else token % grid
            angle[token, pair] = place * 10_000 ** (-4 * (pair % (width // 4)) / width)
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(2)
    assert_close(rotary(x.float()), expected, "fp32")
    assert rotary.freqs_cos[grid + 1, :2].tolist() == pytest.approx([math.cos(1)] * 2, rel=1e-7)


def test_a_different_side_names_the_required_size() -> None:
    """A pixel of the latent stands for 16 of the image."""
    model = LightningDiT(32, 1, 2, 1, res=128, num_classes=10)
    with pytest.raises(ValueError, match=r"^this LightningDiT is built for 8x8 latents \(128 px\), got 16x16: create "):
        model(torch.zeros(1, 32, 16, 16), torch.zeros(1), torch.zeros(1, dtype=torch.long))
