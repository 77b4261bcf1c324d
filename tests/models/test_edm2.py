"""EDM2's outputs and parts by formula, and that folding its weights leaves the function as it is."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from formula import formula_model, golden
from tolerances import assert_close
from torch import Tensor, nn

from convbench import models
from convbench.catalogue import find
from convbench.checks.output import relative_error
from convbench.errors import WeightsError
from convbench.models import load_weights
from convbench.models.counts import count_variant, meta_inputs
from convbench.models.edm2 import EDM2, EDM2Block, Fourier, MPLayer, mp_cat, mp_silu, mp_sum
from convbench.models.edm2_ablations import FoldedEDM2, FoldedLayer, fold_weights
from convbench.models.random_weights import fill

SIZE = {"width": 16, "multipliers": [1, 2], "depth": 1, "attention_at": [8], "head_width": 16}
SIZE |= {"res": 128, "num_classes": 10}


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(network: type[EDM2] = EDM2) -> EDM2:
    made = network(**SIZE).eval().requires_grad_(False)
    fill(made)
    return made


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return noise(0, batch, 4, 16, 16), torch.tensor([0.25, 8.0, 80.0])[:batch], torch.tensor([3, 10, 9])[:batch]


# ---- outputs of the official implementation ----


def raw(model: nn.Module, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
    """The U-Net alone, its input scaled as the denoiser scales it."""
    assert isinstance(model, EDM2)
    return model.unet(x / (sigma[:, None, None, None] ** 2 + 0.25).sqrt(), model.noise_code(sigma), model.one_hot(y))


@pytest.mark.slow
def test_output_in_float32_and_float64_and_with_folded_weights() -> None:
    stored, model = golden("edm2_xs"), formula_model("edm2_xs", 512)
    x, sigma, y, nobody = stored["x"], stored["sigma"], stored["y"], torch.tensor([1000, 1000])
    out = model(x, sigma, y)
    assert_close(out, stored["out"], "fp32")
    assert_close(model(x, sigma, model.one_hot(y)), out, "fp64")  # one-hot rows in place of indices
    assert_close(model(x, sigma, nobody), stored["out_uncond"], "fp32")
    assert_close(raw(model, x, sigma, y), stored["out_unet"], "fp32")
    assert_close(model.log_variance(sigma), stored["logvar"], "fp32")

    folded = models.create("edm2_xs@weights=folded", device="meta", res=512)
    folded.load_state_dict(fold_weights(model.state_dict()), assign=True)
    assert relative_error(folded(x, sigma, y), out) < 1e-6
    assert_close(folded(x, sigma, y), stored["out"], "fp32")
    del folded

    model.double()
    x, sigma = x.double(), sigma.double()
    assert_close(raw(model, x, sigma, y), stored["out_unet_f64"], "fp64")
    assert_close(model.log_variance(sigma), stored["logvar_f64"], "fp64")


# ---- parts, by formula ----


def test_a_layer_by_hand() -> None:
    """Row (3, 4): root mean square sqrt(12.5), two weights; so the gain over (sqrt(12.5) + eps) sqrt(2)."""
    layer = MPLayer(2, 1).double()
    layer.weight.data = torch.tensor([[3.0, 4.0]]).double()
    scale = 2 / ((math.sqrt(12.5) + 1e-4) * math.sqrt(2))
    found = layer(torch.tensor([[1.0, 10.0]]).double(), gain=2.0)
    assert found.item() == pytest.approx(scale * (3 + 40), rel=1e-12)


@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_only_the_direction_of_a_weight_matters_and_magnitude_is_kept(kernel: int) -> None:
    layer = MPLayer(64, 32, kernel).requires_grad_(False)
    x = noise(1, 500, 64) if kernel == 0 else noise(1, 4, 64, 16, 16)
    out = layer(x)
    assert out.shape[1] == 32 and out[..., 1:-1, 1:-1].std() == pytest.approx(1, abs=0.05)
    layer.weight *= 7
    torch.testing.assert_close(layer(x), out, rtol=1e-3, atol=1e-3)  # but for the eps


def test_sums_and_concatenations_keep_the_magnitude_of_normal_maps() -> None:
    a, b = noise(2, 1, 100, 32, 32).double(), noise(3, 1, 50, 32, 32).double()
    assert mp_silu(a).square().mean().sqrt() == pytest.approx(1, abs=5e-3)
    found = mp_sum(a, b.repeat(1, 2, 1, 1), 0.3)
    torch.testing.assert_close(found, (0.7 * a + 0.3 * b.repeat(1, 2, 1, 1)) / math.sqrt(0.49 + 0.09))
    both = mp_cat(a, b, 0.5)
    torch.testing.assert_close(both[:, :100], a * math.sqrt(150 / 0.5) * 0.5 / 10)
    torch.testing.assert_close(both[:, 100:], b * math.sqrt(150 / 0.5) * 0.5 / math.sqrt(50))
    assert both.square().mean().sqrt() == pytest.approx(1, abs=5e-3)


def test_attention_equals_the_unfused_form() -> None:
    """Channels by head, then channel, then q, k, v; each of these at unit root mean square over a head's channels."""
    block, qkv = EDM2Block(8, 8, 16, decoder=True, heads=2), noise(4, 2, 24, 3, 3).double()
    q, k, v = qkv.reshape(2, 2, 4, 3, 9).unbind(3)
    q, k, v = (part / (part.square().mean(dim=2, keepdim=True).sqrt() + 1e-4) for part in (q, k, v))
    scores = torch.einsum("bhcq,bhck->bhqk", q, k) / math.sqrt(4)
    expected = torch.einsum("bhqk,bhck->bhcq", scores.softmax(-1), v).reshape(2, 8, 3, 3)
    assert_close(block.attention(qkv), expected, "fp64")


def test_the_denoiser_around_the_network() -> None:
    """Nearly without noise it returns what it is given; with all of it, half of what the network gives."""
    model, (x, _, y) = tiny(), inputs()
    still, wild = torch.full((2,), 1e-5), torch.full((2,), 1e6)
    assert (model(x, still, y) - x).abs().max() < 1e-3
    predicted = raw(model, x, wild, y)
    torch.testing.assert_close(model(x, wild, y), 0.5 * predicted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_frequencies_survive_half_precision(kind: torch.dtype) -> None:
    code, x = Fourier(8), torch.tensor([-1.5, 0.3])
    expected = code(x)
    half = nn.Sequential(code).to(kind)
    assert torch.equal(half(x), expected) and code.freqs.dtype == torch.float32
    assert half.double()(x.double()).dtype == torch.float64
    assert {p.dtype for p in tiny().to(kind).parameters()} == {kind}


def test_a_different_side_is_refused_by_name() -> None:
    message = r"^this EDM2 is built for 16x16 latents \(128 px\), got 32x32: create it with res=256$"
    with pytest.raises(ValueError, match=message):
        tiny()(noise(0, 1, 4, 32, 32), torch.ones(1), torch.tensor([3]))


# ---- weights that are folded ----


def test_a_folded_network_is_the_same_function() -> None:
    model, folded = tiny(), FoldedEDM2(**SIZE).eval().requires_grad_(False)
    folded.load_state_dict(fold_weights(model.state_dict()))
    for each, other in ((model, folded), (model.double(), folded.double())):
        kind = next(each.parameters()).dtype
        x, t, y = inputs(3)
        assert relative_error(other(x.to(kind), t, y), each(x.to(kind), t, y)) < 1e-6
    assert not any(type(module) is MPLayer for module in folded.modules())
    assert sum(isinstance(module, FoldedLayer) for module in folded.modules()) > 20
    gains = {key for key in model.state_dict() if key.endswith("_gain")}
    assert model.state_dict().keys() - folded.state_dict().keys() == gains


def test_a_folded_network_reads_both_forms_of_a_checkpoint(tmp_path: Path) -> None:
    model, folded, again = tiny(), tiny(FoldedEDM2), tiny(FoldedEDM2)
    torch.save(model.state_dict(), tmp_path / "official.pt")
    load_weights(folded, str(tmp_path / "official.pt"), find("edm2_xs@weights=folded"))
    assert relative_error(folded(*inputs()), model(*inputs())) < 1e-6
    torch.save(folded.state_dict(), tmp_path / "folded.pt")
    load_weights(again, str(tmp_path / "folded.pt"), find("edm2_xs@weights=folded"))
    assert torch.equal(again(*inputs()), folded(*inputs()))

    broken = {**model.state_dict(), "unet.out_gain": torch.ones(3), "unet.emb_label.weight": torch.ones(5)}
    torch.save(broken, tmp_path / "broken.pt")
    with pytest.raises(WeightsError, match=r"1 unexpected \(first: unet.out_gain\); 1 mis-shaped"):
        load_weights(again, str(tmp_path / "broken.pt"), find("edm2_xs@weights=folded"))


def test_folding_saves_exactly_one_product_per_weight() -> None:
    """But for the uncertainty head, which no forward pass reads; the gains of 36 blocks and of the output are gone."""
    own, folded = (count_variant(find(id), 512) for id in ("edm2_xs", "edm2_xs@weights=folded"))
    official = models.on_meta(find("edm2_xs"), 512)
    weights = sum(p.numel() for name, p in official.unet.named_parameters() if name.endswith("weight"))
    assert own.macs - folded.macs == weights == 124_713_088
    assert own.macs_full == folded.macs_full
    gains = [name for name, _ in official.named_parameters() if name.endswith("_gain")]
    assert own.params - folded.params == len(gains) == 37
    out = models.create("edm2_xs@weights=folded", device="meta", res=512)(*meta_inputs(512))
    assert out.shape == (1, 4, 64, 64)


def test_one_hot_rows_by_hand() -> None:
    model = tiny()
    assert model.one_hot(torch.tensor([3, 10])).tolist() == np.eye(11)[[3, 10], :10].tolist()
    assert torch.equal(model.one_hot(torch.full((2, 10), 0.1)), torch.full((2, 10), 0.1))
