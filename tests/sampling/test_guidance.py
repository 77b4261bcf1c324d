"""Guidance compared with the outputs of the official wrappers, and its rule for other channel counts."""

import pytest
import torch
from formula import formula_model, golden
from tolerances import assert_close
from torch import Tensor

from convbench.catalogue import find
from convbench.sampling.guidance import combine, guided, power_cosine_scale

IDS = (
    "dico_s",
    "dit_s_2",
)  # tests/models/test_models.py covers all five families


@pytest.mark.parametrize("id", IDS)
def test_the_guided_output_is_the_official_one(id: str) -> None:
    stored, model = golden(id), formula_model(id)
    calls = []

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        calls.append(y.tolist())
        return model(x, t, y)

    found = guided(step, stored["y_cfg"][:2], 1000, float(stored["cfg_scale"]))(
        stored["x_cfg"][:2], stored["t_cfg"][:2]
    )
    assert calls == [[207, 88, 1000, 1000]]  # one forward of twice the batch
    assert_close(found, stored["out_cfg"][:2], "guidance")


def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Return the state plus the class, and its negative as the variance."""
    value = x + y[:, None, None, None]
    return torch.cat([value, -value], dim=1)


@pytest.mark.parametrize(
    ("in_channels", "channels", "guided_channels"), [(4, None, 3), (4, 4, 4), (4, 9, 4), (3, None, 3), (1, None, 1)]
)
@pytest.mark.parametrize("variance", [True, False])
def test_guided_channels(in_channels: int, channels: int | None, guided_channels: int, variance: bool) -> None:
    """Guided channels are without + s (with - without) = 10 + s (3 - 10); all others are those with the class."""
    x, y = torch.zeros(2, in_channels, 2, 2), torch.tensor([3, 3])

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return network(x, t, y) if variance else network(x, t, y)[:, :in_channels]

    out = guided(step, y, 10, 1.5, channels)(x, torch.zeros(2))
    assert out.shape == (2, in_channels * (2 if variance else 1), 2, 2)
    expected = [-0.5] * guided_channels + [3.0] * (in_channels - guided_channels) + [-3.0] * in_channels * variance
    assert out[0, :, 0, 0].tolist() == out[1, :, 1, 1].tolist() == expected


def test_scale_one_runs_the_batch_only_once() -> None:
    shapes = []

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        shapes.append(x.shape)
        return network(x, t, y)

    x, t, y = torch.randn(2, 4, 2, 2), torch.zeros(2), torch.tensor([1, 2])
    assert torch.equal(guided(step, y, 10)(x, t), network(x, t, y))  # no guidance is what nothing asks for
    shapes.clear()
    assert torch.equal(guided(step, y, 10, 1.0)(x, t), network(x, t, y))
    twice = guided(step, y, 10, 1.0 + 1e-12)(x, t)
    torch.testing.assert_close(twice, network(x, t, y))
    assert shapes == [(2, 4, 2, 2), (4, 4, 2, 2)]


def test_half_precision_is_combined_in_float32() -> None:
    """A scaled difference of two close half-precision numbers would lose its digits."""
    output = torch.cat([torch.full((1, 1, 1, 1), 1.001), torch.ones(1, 1, 1, 1)]).bfloat16()
    out = combine(output, 1, 7.0)
    assert out.dtype == torch.float32
    assert out.item() == 1 + 7 * (output[0].item() - 1)


def test_captions_are_guided_with_an_empty_caption() -> None:
    captions, empty = torch.ones(2, 3, 5), torch.zeros(3, 5)
    seen = []

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return x

    guided(step, captions, empty, 2.0)(torch.zeros(2, 4, 2, 2), torch.zeros(2))
    assert torch.equal(seen[0], torch.cat([captions, empty.expand(2, 3, 5)]))


@pytest.mark.parametrize(("t", "expected"), [(1000.0, 1.0), (500.0, 1.0192), (250.0, 1.4547), (0.0, 3.0)])
def test_the_scale_grows_from_the_noise_to_the_data(t: float, expected: float) -> None:
    """1 + 2 (1 - cos(pi p^4)) / 2 with p = 0, 1/2, 3/4 and 1: worked out by hand."""
    assert power_cosine_scale(torch.tensor([t]), 3.0, 4.0).item() == pytest.approx(expected, abs=5e-5)


def test_the_scale_of_each_image_is_that_of_its_time() -> None:
    """With the class 3, without 10: 10 + s (3 - 10) at s = 1 and s = 3, and outside an interval 3."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x + y[:, None, None, None]

    y, t = torch.tensor([3, 3, 3]), torch.tensor([1000.0, 0.0, 500.0])
    out = guided(step, y, 10, 3.0, 4, power=4)(torch.zeros(3, 4, 1, 1), t)
    assert out[:2, :, 0, 0].tolist() == [[3.0] * 4, [-11.0] * 4]
    assert out[2, 0, 0, 0].item() == pytest.approx(10 - 7 * 1.0192, abs=5e-4)
    for at in (100.0, 1000.0):  # neither end is inside
        ends = guided(step, y, 10, 3.0, 4, (100, 1000))(torch.zeros(3, 4, 1, 1), torch.tensor([at, at - 1, at + 1]))
        assert (ends[:, 0, 0, 0] == -11.0).tolist() == [False, at == 1000, at == 100]
    out = guided(step, y, 10, 3.0, 4, (100, 1000), 4)(torch.zeros(3, 4, 1, 1), t)
    assert out[:2, :, 0, 0].tolist() == [[3.0] * 4, [3.0] * 4] and out[2, 0, 0, 0] < 2.9


@pytest.mark.parametrize(
    ("id", "channels"), [("lightningdit_xl_1", 3), ("flowdcn_xl_2", 4), ("mdtv2_xl_2", None), ("ddt_xl_2", None)]
)
def test_guidance_settings_of_other_families(id: str, channels: int | None) -> None:
    takes = find(id).signature
    assert takes.guided_channels == channels
    assert takes.guidance_power == (4 if id == "mdtv2_xl_2" else None)
    assert takes.guidance_interval == ((0.125, 2) if id == "lightningdit_xl_1" else None)
