"""SANA's outputs, its parts by formula, the class of diffusers on the same weights, and both sets of official keys."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fill import generator
from formula import formula_state
from tolerances import assert_close
from torch import Tensor

from convbench.catalogue import find
from convbench.counting import count
from convbench.errors import WeightsError
from convbench.models import load_weights
from convbench.models.random_weights import fill
from convbench.models.sana import RENAMED, SANA, UNREAD, LinearAttention, rename_keys

DATA = Path(__file__).parents[1] / "data"
CAPTION = (7, 24)  # tokens, width


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny() -> SANA:
    network = SANA(64, 2, 4, caption_width=CAPTION[1]).eval().requires_grad_(False)
    fill(network)
    return network


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return noise(0, 2, 32, 6, 4), torch.tensor([17.0, 903.0]), noise(1, 2, *CAPTION)


# ---- outputs of the official implementation ----


def golden_tiny() -> tuple[SANA, dict[str, Tensor]]:
    """Six blocks of width 384, a size of the reference's own, and its arrays with the captions."""
    network = SANA(384, 6, 6, caption_width=256).eval().requires_grad_(False)
    network.load_state_dict(formula_state(network))
    with np.load(DATA / "golden_tiny" / "sana_tiny.npz") as arrays:
        stored = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    caption = torch.from_numpy(generator("y").standard_normal((2, 20, 256), dtype=np.float32))
    return network, stored | {"caption": caption}


def test_keys_and_counts_of_the_tiny_network() -> None:
    with torch.device("meta"):
        network, given = SANA(384, 6, 6, caption_width=256).eval(), (torch.empty(1, 32, 16, 16), torch.empty(1))
        found = count(network, (*given, torch.empty(1, 20, 256)))
    expected = json.loads(gzip.decompress((DATA / "jit_edm2_sana.json.gz").read_bytes()))["sana_tiny"]
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == expected["state_dict"]
    assert (found.params, found.macs) == (expected["parameters"], expected["macs_torchprofile"]["16"])
    assert found.macs_full == expected["macs_full"]["16"]


def test_output_in_float32_and_float64() -> None:
    network, stored = golden_tiny()
    x, t, y, mask = (stored[name] for name in ("x", "t", "caption", "mask"))
    assert_close(network(x, t, y), stored["out"], "fp32")
    assert_close(network(x, t, y, mask), stored["out_masked"], "fp32")
    assert mask.sum(1).tolist() == [20, 7]
    assert_close(network.double()(x.double(), t, y.double()), stored["out_f64"], "fp64")


def test_diffusers_computes_the_same_with_the_same_weights() -> None:
    """Sides that differ, and a mask."""
    diffusers = pytest.importorskip("diffusers")
    network = tiny()
    official: Any = diffusers.SanaTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        num_layers=2,
        num_cross_attention_heads=4,
        cross_attention_head_dim=16,
        cross_attention_dim=64,
        caption_channels=CAPTION[1],
    )
    official.load_state_dict(network.state_dict())
    x, t, y = inputs()
    mask = torch.arange(CAPTION[0]) < torch.tensor([[7], [3]])
    for given, keep in ((None, None), (mask.long(), mask)):
        with torch.inference_mode():
            (out,) = official.eval()(x, y, t, encoder_attention_mask=given, return_dict=False)
        assert_close(network(x, t, y, keep), out, "fp32")


# ---- parts, by formula ----


def test_linear_attention_equals_the_unfused_form() -> None:
    layer, x = LinearAttention(64).double().requires_grad_(False), noise(2, 2, 15, 64).double()
    q, k, v = (
        project(x).unflatten(2, (2, 32)).transpose(1, 2) for project in (layer.to_q, layer.to_k, layer.to_v)
    )  # (B, heads, N, D)
    weights = q.relu() @ k.relu().mT  # each token's share of each other one
    expected = (weights @ v) / (weights.sum(-1, keepdim=True) + 1e-15)
    assert_close(layer(x), layer.to_out[0](expected.transpose(1, 2).flatten(2)), "fp64")


def test_a_caption_is_used_up_to_its_mask() -> None:
    network, (x, t, y) = tiny(), inputs()
    out = network(x, t, y)
    assert_close(network(x, t, y, torch.ones(2, CAPTION[0])), out, "fp32")
    masked = network(x, t, y, torch.arange(CAPTION[0]) < torch.tensor([[7], [3]]))
    assert_close(masked[0], out[0], "fp32")
    assert_close(masked[1], network(x[1:], t[1:], y[1:, :3])[0], "fp32")
    assert (masked[1] - out[1]).abs().max() > 1e-2


def test_positions_only_enter_by_the_depthwise_convolution() -> None:
    """Without its outer eight weights, the network of a permuted latent is the permuted network."""
    network, (x, t, y) = tiny().double(), inputs()
    for block in network.transformer_blocks:
        block.ff.conv_depth.weight.mul_(torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]]))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    x, y = x.double(), y.double()
    moved = network(x.flatten(2)[..., order].unflatten(2, (6, 4)), t, y)
    assert_close(moved.flatten(2), network(x, t, y).flatten(2)[..., order], "fp64")


# ---- the authors' keys ----


def authors_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the authors' files hold them, written from the other end: by block, by hand."""
    named = {
        "x_embedder.proj": "patch_embed.proj",
        "t_embedder.mlp.0": "time_embed.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_embed.emb.timestep_embedder.linear_2",
        "t_block.1": "time_embed.linear",
        "y_embedder.y_proj.fc1": "caption_projection.linear_1",
        "y_embedder.y_proj.fc2": "caption_projection.linear_2",
        "final_layer.linear": "proj_out",
    }
    made = {f"{old}.{kind}": state[f"{new}.{kind}"] for old, new in named.items() for kind in ("weight", "bias")}
    made["attention_y_norm.weight"] = state["caption_norm.weight"]
    made["final_layer.scale_shift_table"] = state["scale_shift_table"]
    for index in range(2):
        old, new = f"blocks.{index}", f"transformer_blocks.{index}"
        parts = [state[f"{new}.attn1.to_{each}.weight"] for each in "qkv"]
        made[f"{old}.scale_shift_table"] = state[f"{new}.scale_shift_table"]
        made[f"{old}.attn.qkv.weight"] = torch.cat(parts)
        for kind in ("weight", "bias"):
            made[f"{old}.attn.proj.{kind}"] = state[f"{new}.attn1.to_out.0.{kind}"]
            made[f"{old}.cross_attn.q_linear.{kind}"] = state[f"{new}.attn2.to_q.{kind}"]
            parts = [state[f"{new}.attn2.to_{each}.{kind}"] for each in "kv"]
            made[f"{old}.cross_attn.kv_linear.{kind}"] = torch.cat(parts)
            made[f"{old}.cross_attn.proj.{kind}"] = state[f"{new}.attn2.to_out.0.{kind}"]
            made[f"{old}.mlp.inverted_conv.conv.{kind}"] = state[f"{new}.ff.conv_inverted.{kind}"]
            made[f"{old}.mlp.depth_conv.conv.{kind}"] = state[f"{new}.ff.conv_depth.{kind}"]
        made[f"{old}.mlp.point_conv.conv.weight"] = state[f"{new}.ff.conv_point.weight"]
    return made | dict.fromkeys(UNREAD, torch.zeros(3))


def test_the_authors_keys_are_renamed_one_to_one() -> None:
    state = tiny().state_dict()
    official = authors_state(state)
    found = rename_keys(official)
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in found.items())
    assert all(any(part in key for key in official) for part in RENAMED)  # no row of the table is idle


def test_both_forms_of_a_checkpoint_are_read(tmp_path: Path) -> None:
    network, other = tiny(), tiny()
    for name, state in (("ours", network.state_dict()), ("theirs", authors_state(network.state_dict()))):
        fill(other, seed=1)
        torch.save({"state_dict": state}, tmp_path / f"{name}.pth")
        load_weights(other, str(tmp_path / f"{name}.pth"), find("sana_600m"))
        assert torch.equal(other(*inputs()), network(*inputs()))

    broken = authors_state(network.state_dict())
    broken["blocks.1.attn.qkv.weight"] = torch.zeros(2, 64)
    torch.save(broken | {"blocks.2.more": torch.zeros(1)}, tmp_path / "broken.pth")
    message = r"1 missing \(first: transformer_blocks.1.attn1.to_v.weight\); 1 unexpected \(first: transformer_blocks.2"
    with pytest.raises(WeightsError, match=message):
        load_weights(other, str(tmp_path / "broken.pth"), find("sana_600m"))
