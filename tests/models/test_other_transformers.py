"""SiT, U-ViT, PixArt, DiffiT, DiT-LLaMA and U-DiT against the official implementations, and their parts by formula.

Goldens and counts: data/README.md. What those cannot tell is tried on networks of width 32, made here.
"""

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fill import generator
from formula import formula_model, golden
from tolerances import RELATIVE_L2, assert_close
from torch import Tensor, nn

from convbench import models
from convbench.catalogue import find, variants
from convbench.checks.output import LEAST_CHANGE
from convbench.errors import WeightsError
from convbench.models import load_weights
from convbench.models.counts import count_variant, meta_inputs
from convbench.models.diffit import DiffiT, TimeDependentAttention
from convbench.models.dit import DiT
from convbench.models.dit_llama import DiTLLaMA
from convbench.models.pixart import PixArt
from convbench.models.random_weights import fill
from convbench.models.rotary import Rotary
from convbench.models.sit import SiT
from convbench.models.udit import UDiT, merge_layers
from convbench.models.uvit import UViT

FAMILIES = ("diffit", "dit_llama", "pixart", "sit", "udit", "uvit")
ALL = [id for id, variant in variants().items() if variant.family.module in FAMILIES]
REFERENCE: dict[str, dict[str, Any]] = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "data" / "transformers.json.gz").read_bytes())
)
# Forms of a network whose keys are not official ones, and the count of them that the reference holds.
OTHER_FORMS = {
    "pixart_xl_2_class": ("pixart_xl_2", "macs_class_conditional_variant"),
    **{f"udit_{size}_merged": (f"udit_{size}", "macs_torchprofile") for size in "sbl"},
}
# Each after one that it has many weights in common with: drawing them takes longer than computing.
GOLDENS = ["dit_llama_xl_2", "sit_xl_2", "pixart_xl_2", "diffit_xl_2", "uvit_h_2", "uvit_h_4_512", "uvit_l_4_512"]

CHANNELS = {"noise and variance": 8, "noise": 4, "velocity": 4}
T, Y = torch.tensor([17.0, 903.0]), torch.tensor([2, 10])
SIZE = {"width": 32, "depth": 2, "heads": 2, "patch": 2, "res": 64, "num_classes": 10}
CAPTION = (7, 24)  # tokens, width


def tiny(family: str, **options: Any) -> nn.Module:
    """A network of the family for 8x8 latents, with weights that leave no layer silent."""
    network = {
        "diffit": lambda: DiffiT(**SIZE, **options),
        "dit_llama": lambda: DiTLLaMA(**SIZE, hidden=48, **options),
        "pixart": lambda: PixArt(**{**SIZE, "num_classes": None}, caption_width=CAPTION[1], **options),
        "pixart class": lambda: PixArt(**SIZE, **options),
        "sit": lambda: SiT(**SIZE, **options),
        "udit": lambda: UDiT(16, (1, 1, 1, 1, 1), 2, res=64, num_classes=10, **options),
        "uvit": lambda: UViT(**SIZE, **options),
    }[family]()
    fill(network)
    return network.eval().requires_grad_(False)


TINY = ["diffit", "dit_llama", "pixart", "pixart class", "sit", "udit", "uvit"]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(family: str, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    y = noise(1, batch, *CAPTION) if family == "pixart" else Y[:batch]
    return noise(0, batch, 4, 8, 8), T[:batch] * (1e-3 if family == "sit" else 1), y


# ---- names, sizes and counts ----


def test_every_variant_has_a_reference() -> None:
    assert sorted(ALL) == sorted([*REFERENCE, *OTHER_FORMS])


@pytest.mark.parametrize("id", REFERENCE)
def test_state_dict_and_parameters_equal_the_official_ones(id: str) -> None:
    model, official = models.on_meta(find(id), find(id).res), REFERENCE[id]
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == official["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == official["parameters"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == official["parameters_trainable"]
    assert [name for name, _ in model.named_buffers() if name in model.state_dict()] == official["buffers"]


@pytest.mark.parametrize("id", ALL)
def test_macs_equal_the_reference_exactly(id: str) -> None:
    """U-DiT under its own id is the network in training; torchprofile's count of the official one is of the other."""
    of, key = OTHER_FORMS.get(id, (id, "macs_torchprofile_unmerged" if id.startswith("udit") else "macs_torchprofile"))
    found = count_variant(find(id), find(id).res)
    assert found.macs == REFERENCE[of][key]
    assert found.winograd_macs == found.macs  # no block holds a dense 3x3 convolution
    dense = found.by_kind().get("conv3x3_s1", 0)
    assert found.winograd_macs_all == found.macs - dense + dense * 4 // 9
    if id == "pixart_xl_2_class":
        assert found.params == REFERENCE[of]["parameters_class_conditional_variant"]


@pytest.mark.long_grid
@pytest.mark.parametrize("res", [256, 512])
@pytest.mark.parametrize("id", ALL)
def test_output_follows_the_signature(id: str, res: int) -> None:
    takes, side = find(id).signature, res // 8
    out = models.create(id, device="meta", res=res)(*meta_inputs(res, 3, takes))
    assert tuple(out.shape) == (3, CHANNELS[takes.predicts], side, side)


def test_signatures() -> None:
    assert find("pixart_xl_2").signature.caption == (120, 4096)
    assert find("pixart_xl_2_class").signature.caption is None
    assert find("sit_xl_2").signature.t_end == 1
    assert [find(id).res for id in ("uvit_l_2", "uvit_h_2", "uvit_l_4_512", "uvit_h_4_512")] == [256, 256, 512, 512]


# ---- outputs of the official implementations ----


@pytest.fixture(scope="module")
def weights() -> Iterator[dict[str, Tensor]]:
    """Of the last large model."""
    held: dict[str, Tensor] = {}
    yield held
    held.clear()


def caption(stored: dict[str, Tensor]) -> Tensor:
    """Class indices, or the text embeddings of the PixArt golden, which its file leaves to the formula."""
    if "y" in stored:
        return stored["y"]
    return torch.from_numpy(generator("y").standard_normal((2, 1, 120, 4096), dtype=np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("id", GOLDENS)
def test_large_output_in_float32(id: str, weights: dict[str, Tensor]) -> None:
    """The first image of two; the second costs as much again and differs in t and y alone. PixArt: both under masks."""
    stored = golden(id)
    model = formula_model(id, find(id).res, known=weights)
    weights.clear()
    weights.update({key: value for key, value in model.state_dict().items() if key != "pos_embed"})
    x, t, y = stored["x"], stored["t"], caption(stored)
    assert_close(model(x[:1], t[:1], y[:1]), stored["out"][:1], "fp32")
    if "out_masked" in stored:
        mask = torch.arange(120) < stored["caption_lengths"][:, None]
        assert_close(model(x[1:], t[1:], y[1:, 0], mask[1:]), stored["out_masked"][1:], "fp32")
        assert (
            torch.equal(stored["out"][0], stored["out_masked"][0]) and mask[0].all()
        )  # no mask: its own caption, whole


def test_udit_in_training_and_merged() -> None:
    stored = golden("udit_s")
    model = formula_model("udit_s")
    args = stored["x"], stored["t"], stored["y"]
    assert_close(model(*args), stored["out"], "fp32")
    merged = models.create("udit_s_merged", device="meta").to_empty(device="cpu")
    for module in merged.modules():
        if hasattr(module, "fill_tables"):
            module.fill_tables()
    merged.load_state_dict(merge_layers(model.state_dict()), assign=True)
    assert_close(merged(*args), stored["out_merged"], "fp32")


# ---- what holds for each of them ----


@pytest.mark.parametrize("family", TINY)
def test_every_input_affects_the_output_with_random_weights(family: str) -> None:
    """The benchmark's proof asks the same of every output that it times."""
    model, (x, t, y) = tiny(family), inputs(family)
    out = model(x, t, y)
    assert 0.3 < out.std() < 3
    others = (noise(9, *x.shape), t, y), (x, t.flip(0), y), (x, t, y.flip(0))
    for other in others:
        change = (model(*other) - out).flatten(1).norm(dim=1) / out.flatten(1).norm(dim=1)
        assert (change > 10 * LEAST_CHANGE).all()


@pytest.mark.parametrize("family", TINY)
def test_samples_of_a_batch_are_independent(family: str) -> None:
    model, args = tiny(family).double(), inputs(family)
    x, t, y = args[0].double(), args[1], args[2].double() if family == "pixart" else args[2]
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(2)])
    assert_close(alone, model(x, t, y), "fp64")


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize(("kind", "row"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")], ids=["bf16", "fp16"])
def test_half_precision_is_close_to_float32(family: str, kind: torch.dtype, row: str) -> None:
    model, (x, t, y) = tiny(family), inputs(family)
    expected = model(x, t, y)
    out = model.to(kind)(x.to(kind), t, y)  # captions as the benchmark gives them, in float32
    assert out.dtype == kind
    assert torch.linalg.vector_norm(out.float() - expected) < RELATIVE_L2[row] * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("family", [family for family in TINY if family not in ("sit", "uvit")])
def test_without_the_variance_the_output_has_the_channels_of_the_input(family: str) -> None:
    assert tiny(family, learn_sigma=False)(*inputs(family)).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("family", TINY)
def test_a_different_side_is_refused_by_name(family: str) -> None:
    _, t, y = inputs(family)
    name = next(find(id).family.name for id in ALL if find(id).family.module == family.removesuffix(" class"))
    with pytest.raises(ValueError, match=rf"^this {name} is built for 8x8 latents \(64 px\), got 16x16"):
        tiny(family)(noise(0, 2, 4, 16, 16), t, y)


# ---- what is special about one of them ----


def test_sit_is_half_of_dit() -> None:
    sit, dit = tiny("sit"), DiT(**SIZE).eval()
    dit.load_state_dict(sit.state_dict())
    x, t, y = inputs("sit")
    assert torch.equal(sit(x, t, y), dit(x, t, y)[:, :4])


def test_a_caption_is_used_up_to_its_mask() -> None:
    model, (x, t, y) = tiny("pixart"), inputs("pixart")
    out = model(x, t, y)
    assert_close(model(x, t, y[:, None]), out, "fp64")  # as the released code has them
    assert_close(model(x, t, y, torch.ones(2, CAPTION[0])), out, "fp32")
    mask = torch.arange(CAPTION[0]) < torch.tensor([[7], [3]])
    masked = model(x, t, y, mask)
    assert_close(masked[0], out[0], "fp32")
    assert_close(masked[1], model(x[1:], t[1:], y[1:, :3])[0], "fp32")
    assert (masked[1] - out[1]).abs().max() > 1e-2


@pytest.mark.parametrize(("width", "grid"), [(8, 3), (72, 4)])
def test_rotary_is_a_product_of_complex_numbers(width: int, grid: int) -> None:
    rotary = Rotary(width, grid).double()
    rotary.fill_tables()
    x = noise(3, 2, grid**2, width).double()
    pairs = torch.view_as_complex(x.unflatten(2, (-1, 2)))
    angle = torch.zeros(grid**2, width // 2, dtype=torch.float64)
    for token in range(grid**2):
        for pair in range(width // 2):
            place = token // grid if pair % 2 else token % grid  # row, column
            angle[token, pair] = place * 10_000 ** (-4 * (pair // 2) / width)
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(2)
    assert_close(rotary(x), expected, "fp64")


def test_offsets_of_tokens_have_a_row_of_the_bias_table_each() -> None:
    index = TimeDependentAttention(8, 2, 3).relative_position_index
    offsets = {}
    for i in range(9):
        for j in range(9):
            offset = (i // 3 - j // 3, i % 3 - j % 3)
            assert offsets.setdefault(offset, int(index[i, j])) == index[i, j]
    assert len(offsets) == 25 and sorted(offsets.values()) == list(range(25))
    assert sorted(offsets, key=lambda offset: offsets[offset]) == sorted(offsets)  # rows first


def test_diffit_adds_the_condition_and_the_bias() -> None:
    """Attention in single steps, in float64."""
    layer = TimeDependentAttention(8, 2, 3).double().requires_grad_(False)
    layer.relative_position_bias_table.copy_(noise(5, 25, 2))
    x, c = noise(6, 2, 9, 8).double(), noise(7, 2, 8).double()
    q, k, v = (layer.qkv(x) + layer.qkv_temb(c)[:, None]).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    bias = layer.relative_position_bias_table[layer.relative_position_index].permute(2, 0, 1)
    scores = (q @ k.mT) / math.sqrt(4) + bias
    expected = layer.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert_close(layer(x, c), expected, "fp64")


def test_a_merged_udit_is_the_same_function(tmp_path: Path) -> None:
    """And is what a checkpoint of the trained form becomes; one of anything else is refused in one line."""
    trained, merged = tiny("udit").double(), tiny("udit", merged=True).double()
    args = inputs("udit")[0].double(), T, Y
    torch.save({"ema": trained.state_dict()}, tmp_path / "official.pt")
    load_weights(merged, str(tmp_path / "official.pt"), find("udit_s_merged"))
    assert_close(merged(*args), trained(*args), "fp64")
    torch.save(merged.state_dict(), tmp_path / "merged.pt")
    again = tiny("udit", merged=True).double()
    load_weights(again, str(tmp_path / "merged.pt"), find("udit_s_merged"))
    assert torch.equal(again(*args), merged(*args))

    half = {key: value for key, value in trained.state_dict().items() if ".project_in.0." not in key}
    torch.save(half, tmp_path / "half.pt")
    with pytest.raises(WeightsError, match=r"half.pt is not a checkpoint of udit_s_merged: \d+ missing"):
        load_weights(again, str(tmp_path / "half.pt"), find("udit_s_merged"))


def test_indices_of_a_checkpoint_are_ignored(tmp_path: Path) -> None:
    """DiffiT's are integers, which index a table: they are computed, whatever the file says."""
    state = tiny("diffit").state_dict()
    state["blocks.0.attn.relative_position_index"] = torch.full((16, 16), 10**9)
    torch.save(state, tmp_path / "weights.pt")
    model = DiffiT(**SIZE).eval().requires_grad_(False)
    load_weights(model, str(tmp_path / "weights.pt"), find("diffit_xl_2"))
    args = inputs("diffit")
    assert torch.equal(model(*args), tiny("diffit")(*args))


def test_a_learned_position_table_must_be_in_the_file(tmp_path: Path) -> None:
    state = tiny("uvit").state_dict()
    del state["pos_embed"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"1 missing \(first: pos_embed\)"):
        load_weights(tiny("uvit"), str(tmp_path / "weights.pt"), find("uvit_l_2"))
