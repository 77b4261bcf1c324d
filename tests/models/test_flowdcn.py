"""FlowDCN's deformable sampling against sums by hand, at every kind of place; and any height and width."""

import itertools

import pytest
import torch
from tolerances import assert_close
from torch import Tensor
from torch.nn import functional as F

from convbench.models.deformable import sample_and_sum
from convbench.models.flowdcn import DeformableAttention, FlowDCN
from convbench.models.random_weights import fill


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """One sample after the other, with Python's own numbers."""
    b, height, width, groups, _ = values.shape
    out = torch.zeros_like(values)
    for n, i, j, g, k in itertools.product(*map(range, (b, height, width, groups, weights.shape[4]))):
        x, y = j + float(offsets[n, i, j, g, k, 0]), i + float(offsets[n, i, j, g, k, 1])
        for row, share_y in ((int(y), 1 - (y - int(y))), (int(y) + 1, y - int(y))):
            for column, share_x in ((int(x), 1 - (x - int(x))), (int(x) + 1, x - int(x))):
                if 0 <= row < height and 0 <= column < width:
                    out[n, i, j, g] += weights[n, i, j, g, k] * share_x * share_y * values[n, row, column, g]
    return out


@pytest.mark.parametrize(
    ("shape", "samples", "reach"),
    [((2, 4, 4, 2, 3), 9, 2.0), ((1, 3, 5, 1, 4), 9, 0.5), ((1, 2, 7, 3, 1), 4, 8.0), ((1, 1, 1, 1, 2), 1, 1.0)],
    ids=["square", "wide, close", "one channel, far", "one token"],
)
def test_a_sum_of_samples_by_hand(shape: tuple[int, ...], samples: int, reach: float) -> None:
    values, weights = noise(0, *shape), noise(1, *shape[:4], samples)
    offsets = reach * noise(2, *shape[:4], samples, 2)
    assert_close(sample_and_sum(values, offsets, weights), by_hand(values, offsets, weights), "fp64")


# On a row of four tokens with the values 1, 10, 100, 1000.
PLACES = [
    (0.0, 1),
    (1.25, 0.75 * 10 + 0.25 * 100),
    (2.5, 0.5 * 100 + 0.5 * 1000),
    (3.0, 1000),
    (3.75, 0.25 * 1000),  # past the last token the missing corner is zero
    (4.0, 0),
    (9.0, 0),
    (-0.5, 1.5 * 1 - 0.5 * 10),  # extrapolated, not faded out
    (-1.0, 0),  # corners -1 and 0, shares 1 and 0
    (-1.5, -0.5 * 1),  # corners -1 and 0, shares 1.5 and -0.5
    (-2.0, 0),
    (-2.5, 0),
    (-50.0, 0),
]


@pytest.mark.parametrize(("place", "expected"), PLACES)
@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
def test_corners_come_from_truncation(place: float, expected: float, axis: int) -> None:
    """Along x and along y alike; the token at the start of the row asks."""
    values = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64).reshape(1, 1, 4, 1, 1)
    offsets = torch.zeros(1, 1, 4, 1, 1, 2, dtype=torch.float64)
    offsets[..., axis] = place
    if axis:
        values, offsets = values.transpose(1, 2), offsets.transpose(1, 2)
    found = sample_and_sum(values, offsets, torch.ones(offsets.shape[:5], dtype=torch.float64))
    assert found[0, 0, 0, 0, 0] == pytest.approx(expected, abs=1e-9)


def test_samples_inside_the_grid_equal_grid_sample() -> None:
    """Another implementation of bilinear samples; outside it is another function."""
    height, width = 5, 6
    values, weights = noise(3, 1, height, width, 1, 4), torch.ones(1, height, width, 1, 1, dtype=torch.float64)
    place = torch.rand(height, width, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    place = place * torch.tensor([width - 1, height - 1])
    here = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), dim=-1)
    found = sample_and_sum(values, (place - here).reshape(1, height, width, 1, 1, 2), weights)
    scaled = 2 * place / torch.tensor([width - 1, height - 1]) - 1
    expected = F.grid_sample(values[:, :, :, 0].permute(0, 3, 1, 2), scaled[None], align_corners=True)
    assert_close(found[:, :, :, 0].permute(0, 3, 1, 2), expected, "fp64")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_positions_keep_their_fraction_in_half_precision(kind: torch.dtype) -> None:
    """Column 300.5 of 320 is no number of bfloat16; a ramp shows where the sample was taken."""
    ramp = torch.linspace(0, 1, 320).reshape(1, 1, 320, 1, 1)
    offsets = torch.zeros(1, 1, 320, 1, 1, 2)
    offsets[..., 0] = 0.5
    found = sample_and_sum(ramp.to(kind), offsets.to(kind), torch.ones(1, 1, 320, 1, 1).to(kind))
    assert found.dtype == kind
    between = (ramp[0, 0, 300, 0, 0] + ramp[0, 0, 301, 0, 0]) / 2
    assert found[0, 0, 300, 0, 0].item() == pytest.approx(between.item(), rel=2 * torch.finfo(kind).eps)


def test_a_token_of_the_attention_by_hand() -> None:
    """With offsets and scales that depend on nothing, a group is a 3x3 window of its own reach around each token."""
    width, groups, height, across = 8, 2, 3, 4
    layer = DeformableAttention(width, groups).double().requires_grad_(False)
    for part in (layer.qk_deformables, layer.qk_scales):
        part.weight.zero_()
    layer.qk_deformables.bias.zero_()
    reach = torch.tensor([1 / 6, 2 / 6], dtype=torch.float64)  # windows of one and of two tokens
    layer.deformables_scale.copy_(reach.logit().reshape(layer.deformables_scale.shape))
    x = noise(5, 1, height * across, width)
    found = layer(x, height, across)
    values = layer.v(x).reshape(height, across, groups, 4)
    weights = layer.qk_weights(x).reshape(height, across, groups, 3, 3)
    expected = torch.zeros(height, across, groups, 4, dtype=torch.float64)
    for i, j, g, down, right in itertools.product(range(height), range(across), range(groups), range(3), range(3)):
        row, column = i + (g + 1) * (down - 1), j + (g + 1) * (right - 1)
        if 0 <= row < height and 0 <= column < across:
            expected[i, j, g] += weights[i, j, g, down, right] * values[row, column, g]
    # Tokens whose windows stay inside: at -1 and -2 samples jump, and rounding decides on which side they lie.
    inside = (slice(2, None), slice(2, None))
    assert_close(found.reshape(height, across, width)[inside], layer.out(expected.flatten(2))[inside], "fp64")


@pytest.mark.parametrize(("height", "width"), [(8, 20), (24, 4), (2, 2)])
def test_any_height_and_width(height: int, width: int) -> None:
    """A latent turned over its diagonal gives the turned output, with the windows and patches turned too."""
    model = FlowDCN(32, 2, 2, 2, num_classes=10)
    fill(model)
    model = model.double().eval().requires_grad_(False)
    x, t, y = noise(6, 2, 4, height, width), torch.tensor([0.25, 0.75]), torch.tensor([2, 10])
    out = model(x, t, y)
    assert out.shape == (2, 4, height, width)
    model.x_embedder.proj.weight.data = model.x_embedder.proj.weight.data.mT.contiguous()
    head = model.final_layer.linear
    for value in (head.weight, head.bias):
        value.data = value.data.unflatten(0, (2, 2, 8)).transpose(0, 1).flatten(0, 2).contiguous()
    for block in model.blocks:
        offsets = block.attn.qk_deformables
        for value in (offsets.weight, offsets.bias):
            value.data = value.data.unflatten(0, (-1, 2)).flip(1).flatten(0, 1).contiguous()
        block.attn.deformables_prior.data = block.attn.deformables_prior.data.flip(-1)
    assert_close(model(x.mT, t, y).mT, out, "fp64")


def test_a_side_that_the_patch_does_not_divide_is_refused() -> None:
    model = FlowDCN(32, 1, 2, 2, num_classes=10)
    with pytest.raises(ValueError, match=r"^FlowDCN needs a latent height and width divisible by 2, got 8x7$"):
        model(torch.zeros(1, 4, 8, 7), torch.zeros(1), torch.zeros(1, dtype=torch.long))
