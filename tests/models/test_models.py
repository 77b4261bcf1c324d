"""The zoo against the official implementations: keys, shapes, parameters, outputs, activations.

Weights are a formula of the key and the shape (fill.py), so a model with the right keys gets the right weights and
its output must be the stored one (data/README.md). Every registered variant is a parameter of these tests.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from fill import CFG_SCALE
from formula import CORE, IDS, TRACED, formula_model, golden, trace
from tolerances import RELATIVE_L2, TOLERANCES, assert_close
from torch import Tensor, nn

from convbench import models
from convbench.catalogue import find, variants
from convbench.errors import UsageError
from convbench.models.dig import GatedHeadNorm
from convbench.models.fcdm import FCDM, GlobalResponseNorm
from convbench.models.layers import NORM_EPS, LayerNorm2d, TimestepEmbedder, position_table, timestep_frequencies

ALL = [id for id, variant in variants().items() if variant.family.module in CORE and not variant.shipped]
SMALL = [id for id in ALL if id in TRACED]  # DiC-S, DiCo-S, DiG-S/2, DiT-S/2, FCDM-S
LARGE = [id for id in ALL if id in IDS and id not in SMALL]  # by family and size
CONVOLUTIONAL = [id for id in SMALL if not find(id).fixed_res]
BOUND = [id for id in SMALL if find(id).fixed_res]  # to the side that its position table was made for


@dataclass
class Golden:
    """A model with the formula weights and what the official one gave with them. Not to be changed."""

    id: str
    model: nn.Module
    stored: dict[str, Tensor]

    def run(self, x: Tensor) -> Tensor:
        return self.model(x, self.stored["t"], self.stored["y"])


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param, formula_model(request.param), golden(request.param))


@pytest.fixture(scope="module")
def weights() -> Iterator[dict[str, dict[str, Tensor]]]:
    """The last large model's, by its family: its sizes have many in common, and drawing them is slow."""
    held: dict[str, dict[str, Tensor]] = {}
    yield held
    held.clear()


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- names and shapes, without storage ----


@pytest.mark.parametrize("id", ALL)
def test_state_dict_equals_the_official_one(id: str, reference: dict[str, Any]) -> None:
    """Every key in the official order with the official shape: checkpoints load, and the formula gives the weights."""
    model = models.on_meta(find(id), 256)
    found = [[key, list(value.shape)] for key, value in model.state_dict().items()]
    if id in reference:
        assert found == reference[id]["state_dict"]
    else:  # DiT with larger patches: only the two ends and the table depend on the patch
        patch = find(id).options["patch"]
        width = find(id).options["width"]
        changed = {
            "pos_embed": [1, (32 // patch) ** 2, width],
            "x_embedder.proj.weight": [width, 4, patch, patch],
            "final_layer.linear.weight": [patch * patch * 8, width],
            "final_layer.linear.bias": [patch * patch * 8],
        }
        official = reference[id[:-1] + "2"]["state_dict"]
        assert found == [[key, changed.get(key, shape)] for key, shape in official]


@pytest.mark.parametrize("id", ALL)
def test_parameters_are_counted_with_and_without_the_fixed_table(id: str, reference: dict[str, Any]) -> None:
    model = models.on_meta(find(id), 256)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    table = model.state_dict()["pos_embed"].numel() if "pos_embed" in model.state_dict() else 0
    assert total - trainable == table
    if id in reference:
        assert (total, trainable) == (reference[id]["params_all"], reference[id]["params_trainable"])
    else:
        patch, width = find(id).options["patch"], find(id).options["width"]
        small_patch = reference[id[:-1] + "2"]["params_trainable"]
        assert trainable - small_patch == (patch**2 - 4) * (4 * width + 8 * width + 8)


@pytest.mark.long_grid
@pytest.mark.parametrize("res", [256, 512])
@pytest.mark.parametrize("id", ALL)
def test_output_has_noise_and_variance_per_latent_pixel(id: str, res: int) -> None:
    model = models.create(id, device="meta", res=res)
    with torch.device("meta"):
        out = model(torch.empty(3, 4, res // 8, res // 8), torch.empty(3), torch.empty(3, dtype=torch.long))
    assert (tuple(out.shape), out.dtype, out.device.type) == ((3, 8, res // 8, res // 8), torch.float32, "meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_goldens_belong_to_variants_and_cover_every_family() -> None:
    assert set(IDS) <= set(variants())
    assert {find(id).family.module for id in SMALL} == {find(id).family.module for id in ALL}
    assert SMALL == TRACED == ["dic_s", "dico_s", "dig_s_2", "dit_s_2", "fcdm_s"]
    assert len(LARGE) == 9


# ---- outputs of the official implementations ----


def test_small_output_in_float32(small: Golden) -> None:
    assert_close(small.run(small.stored["x"]), small.stored["out"], "fp32")


def test_small_output_in_float64(small: Golden) -> None:
    model = copy.deepcopy(small.model).double()
    out = model(small.stored["x"].double(), small.stored["t"], small.stored["y"])
    assert out.dtype == torch.float64
    assert_close(out, small.stored["out_f64"], "fp64")


def test_small_output_with_integer_or_real_timesteps(small: Golden) -> None:
    out = small.model(small.stored["x"], small.stored["t"].double(), small.stored["y"].int())
    assert_close(out, small.stored["out"], "fp32")


@pytest.mark.parametrize("small", CONVOLUTIONAL, indirect=True)
def test_small_output_at_512_pixels(small: Golden) -> None:
    """One set of weights for every resolution, so these are the same models."""
    assert_close(small.run(small.stored["x_64"]), small.stored["out_64"], "fp32")


def test_small_output_under_guidance(small: Golden) -> None:
    """The official guidance around the model: the first half of x twice, scale 1.5 on channels 0, 1, 2."""
    stored = small.stored
    half = stored["x_cfg"][:2]
    out = small.model(torch.cat([half, half]), stored["t_cfg"], stored["y_cfg"])
    with_class, without = out[:2, :3], out[2:, :3]
    guided = without + CFG_SCALE * (with_class - without)
    found = torch.cat([torch.cat([guided, guided]), out[:, 3:]], dim=1)
    assert stored["cfg_scale"] == CFG_SCALE
    assert_close(found, stored["out_cfg"], "guidance")


@pytest.mark.slow
@pytest.mark.parametrize("id", LARGE)
def test_large_output_in_float32(id: str, weights: dict[str, dict[str, Tensor]]) -> None:
    """Sizes differ in more than width: skips, heads, groups, mlp ratio. At 512 pixels too, where there is an output."""
    stored = golden(id)
    family = find(id).family.name
    known = weights.pop(family, {})
    weights.clear()  # of another family: up to 4 GB, of which nothing is used again
    model = formula_model(id, known=known)
    weights[family] = model.state_dict()
    row = f"fp32 {id}" if f"fp32 {id}" in TOLERANCES else "fp32"
    for suffix in [suffix for suffix in ("", "_64") if f"out{suffix}" in stored]:
        assert_close(model(stored[f"x{suffix}"], stored["t"], stored["y"]), stored[f"out{suffix}"], row)


# ---- activations of the official implementations ----

# Where an official module is a plain function here: whose input or which call of which module shows the same tensor.
STANDS_FOR = {
    "dic_s": {
        "enc_blocks.0.0.conv.act0": ("enc_blocks.0.0.conv.conv0", "input"),
        "enc_blocks.0.0.conv.act1": ("enc_blocks.0.0.conv.conv1", "input"),
    },
    "dico_s": {
        **{f"y_embedder[{level}]": (f"y_embedder.embedding_table_{level}", "output") for level in range(3)},
        "encoder_level_1.0.norm1": ("encoder_level_1.0.norm", "output"),
        "encoder_level_1.0.norm2": ("encoder_level_1.0.norm", "second output"),
    },
    "dig_s_2": {},
    "dit_s_2": {"blocks.0.mlp.act": ("blocks.0.mlp.fc2", "input")},
    "fcdm_s": {"encoder_level_1.0.act": ("encoder_level_1.0.grn", "input")},
}
# The two norms of a DiT or DiG block are functions whose result no module gets or gives unchanged.
NOT_SEEN = {id: {"blocks.0.norm1", "blocks.0.norm2"} for id in ("dig_s_2", "dit_s_2")}


def test_activations_of_every_stage_and_of_the_first_block(small: Golden) -> None:
    """Mean, standard deviation and first values, so that a difference is found where it arises."""
    seen: dict[tuple[str, str], Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            seen[name, "input"] = args[0]
            seen[name, "second output" if (name, "output") in seen else "output"] = out

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in small.model.named_modules()]
    try:
        small.run(small.stored["x"])
    finally:
        for handle in handles:
            handle.remove()

    *inside, last = trace(small.id)
    assert last["name"] == "output"
    compared, unseen = 0, set()
    for expected in [*inside, {**last, "name": ""}]:
        place = STANDS_FOR[small.id].get(expected["name"], (expected["name"], "output"))
        if place not in seen:
            unseen.add(expected["name"])
            continue
        found = seen[place]
        assert list(found.shape) == expected["shape"], place
        numbers = [found.double().mean(), found.double().std(), *found.double().flatten()[:8]]
        values = [expected["mean"], expected["std"], *expected["first8"]]
        assert_close(torch.tensor(numbers), torch.tensor(values), "fp32")
        compared += 1
    assert unseen == NOT_SEEN.get(small.id, set())
    assert compared >= 24


# ---- shapes of inputs ----


class Transposed(nn.Module):
    """A module that sees its map with height and width exchanged."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.mT).mT


@pytest.mark.parametrize("small", CONVOLUTIONAL, indirect=True)
@pytest.mark.parametrize(("height", "width"), [(8, 20), (24, 4)])
def test_height_and_width_are_treated_equally(small: Golden, height: int, width: int) -> None:
    """The network with transposed kernels gives the transposed output: no layer takes a map for a square."""
    model = copy.deepcopy(small.model).double()
    turned = copy.deepcopy(model)
    for module in list(turned.modules()):
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.mT.contiguous()
        for name, child in module.named_children():
            if isinstance(child, nn.PixelShuffle | nn.PixelUnshuffle):
                setattr(module, name, Transposed(child))
    x = noise(0, 2, 4, height, width).double()
    t, y = small.stored["t"], small.stored["y"]
    out = model(x, t, y)
    assert out.shape == (2, 8, height, width)
    assert_close(turned(x.mT, t, y).mT, out, "fp64")
    assert (model(x.mT, t, y).mT - out).abs().max() > 0.1  # the kernels are not symmetric


def test_samples_of_a_batch_are_independent(small: Golden) -> None:
    x, t, y = noise(1, 3, 4, 32, 32), torch.tensor([3, 500, 999]), torch.tensor([1000, 0, 999])
    out = small.model(x, t, y)
    alone = torch.cat([small.model(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
    order = torch.tensor([2, 0, 1])
    assert_close(alone, out, "fp32")
    assert_close(small.model(x[order], t[order], y[order]), out[order], "fp32")
    assert (out - out[order]).abs().mean() > 0.5


def test_memory_format_does_not_matter(small: Golden) -> None:
    x = small.stored["x"].to(memory_format=torch.channels_last)
    model = copy.deepcopy(small.model).to(memory_format=torch.channels_last)
    assert_close(model(x, small.stored["t"], small.stored["y"]), small.stored["out"], "fp32")


@pytest.mark.parametrize("small", CONVOLUTIONAL, indirect=True)
@pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 33), (2, 2)])
def test_sides_not_divisible_by_four_are_refused(small: Golden, height: int, width: int) -> None:
    name = find(small.id).family.name
    message = rf"^{name} needs a latent height and width divisible by 4, got {height}x{width}$"
    with pytest.raises(ValueError, match=message):
        small.run(noise(0, 2, 4, height, width))


@pytest.mark.parametrize("small", BOUND, indirect=True)
def test_a_model_with_a_position_table_names_the_required_size(small: Golden) -> None:
    name = find(small.id).family.name
    other = rf"^this {name} is built for 32x32 latents \(256 px\), got 64x64: create it with res=512$"
    with pytest.raises(ValueError, match=other):
        small.run(noise(0, 2, 4, 64, 64))
    with pytest.raises(ValueError, match=r"got 32x16: create it with res=256 \(square latents only\)$"):
        small.run(noise(0, 2, 4, 32, 16))


@pytest.mark.parametrize("id", BOUND)
def test_a_model_with_a_position_table_is_built_for_one_size(id: str) -> None:
    """At another size only the table differs, and it is the one of that grid."""
    states = {res: formula_model(id, res).state_dict() for res in (128, 256)}
    tables = {res: state.pop("pos_embed") for res, state in states.items()}
    assert all(torch.equal(states[128][key], value) for key, value in states[256].items())
    assert tables[128].shape == (1, 64, 384)
    # Rows and columns are counted from 0 at every size, so the smaller grid is a corner of the larger.
    corner = tables[256].reshape(16, 16, 384)[:8, :8]
    assert torch.equal(tables[128].reshape(8, 8, 384), corner)
    out = formula_model(id, 128)(noise(2, 2, 4, 16, 16), torch.tensor([17, 903]), torch.tensor([207, 1000]))
    assert out.shape == (2, 8, 16, 16)
    assert 0.8 < out.std() < 1.3


def test_a_class_beyond_the_null_class_is_refused(small: Golden) -> None:
    with pytest.raises(IndexError):
        small.model(small.stored["x"], small.stored["t"], torch.tensor([0, 1001]))


@pytest.mark.parametrize("id", ["dic_s", "dit_s_8"])
def test_an_invalid_resolution_is_refused_before_building(id: str) -> None:
    multiple = find(id).res_multiple
    with pytest.raises(UsageError, match=f"must be a positive multiple of {multiple}"):
        models.create(id, device="meta", res=256 + multiple // 2)


# ---- what create gives ----


@pytest.mark.parametrize("id", SMALL)
def test_created_models_are_for_inference_and_fully_initialised(id: str) -> None:
    """Storage is taken unset; filled with NaN and huge integers by torch here, it would show in the output."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        model = models.create(id, res=64)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for tensor in (*model.parameters(), *model.buffers()))
    for module in model.modules():
        if isinstance(module, TimestepEmbedder):
            assert torch.equal((module.frequencies.double() / 2**37).float(), timestep_frequencies())


@pytest.mark.parametrize("id", SMALL)
def test_random_weights_follow_the_seed_and_affect_the_output(id: str) -> None:
    """The official initial values would give zeros, which any mistake inside reproduces."""
    x, t, y = noise(3, 2, 4, 8, 8), torch.tensor([17, 903]), torch.tensor([207, 1000])
    model, same, other = (models.create(id, res=64, seed=seed) for seed in (0, 0, 1))
    for (key, a), b, c in zip(model.state_dict().items(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), key
        assert key == "pos_embed" or not torch.equal(a, c), key
        assert a.count_nonzero() > 0.9 * a.numel() or key == "pos_embed", key
    out = model(x, t, y)
    assert 0.5 < out.std() < 2
    assert torch.equal(out, same(x, t, y))
    assert (out - other(x, t, y)).std() > 0.5
    # Another class and another step are seen.
    assert (out - model(x, t, torch.tensor([208, 999]))).std() > 0.01
    assert (out - model(x, t + 3, y)).std() > 0.1


@pytest.mark.parametrize("id", CONVOLUTIONAL)
def test_random_weights_do_not_depend_on_the_resolution(id: str) -> None:
    a, b = (models.create(id, res=res, seed=5).state_dict() for res in (64, 512))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("id", SMALL)
@pytest.mark.parametrize(("kind", "row"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")], ids=["bf16", "fp16"])
def test_half_precision_is_close_to_float32(id: str, kind: torch.dtype, row: str) -> None:
    model = models.create(id, res=64)
    x, t, y = noise(4, 2, 4, 8, 8), torch.tensor([17, 903]), torch.tensor([207, 1000])
    expected = model(x, t, y)
    out = model.to(kind)(x.to(kind), t, y)
    assert out.dtype == kind
    assert torch.linalg.vector_norm(out.float() - expected) < RELATIVE_L2[row] * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("id", SMALL)
def test_without_the_variance_the_output_has_the_channels_of_the_input(id: str) -> None:
    """FCDM's flow models are trained so; the other classes take the same argument."""
    variant = find(id)
    network = type(models.on_meta(variant, 64))
    with torch.device("meta"):
        model = network(**variant.constructor_arguments(64), in_channels=3, num_classes=10, learn_sigma=False)
        assert model(torch.empty(1, 3, 8, 8), torch.empty(1), torch.zeros(1, dtype=torch.long)).shape == (1, 3, 8, 8)
    tables = [value.shape[0] for key, value in model.state_dict().items() if "embedding_table" in key]
    assert set(tables) == {11}


# ---- layers whose oracle is a formula ----


def test_the_timestep_code_is_cosines_then_sines() -> None:
    embedder = TimestepEmbedder(8)
    embedder.mlp = nn.Sequential(nn.Linear(256, 256))
    embedder.mlp[0].weight.data = torch.eye(256)
    embedder.mlp[0].bias.data.zero_()
    t = torch.tensor([0.0, 0.25, 17, 999])
    angles = np.outer(t.numpy().astype(np.float64), np.exp(-math.log(10_000) * np.arange(128) / 128))
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    # A timestep of 999 times the rounding of a float32 frequency.
    np.testing.assert_allclose(embedder(t).detach().numpy(), expected, rtol=0, atol=999 * 2**-24)


def test_the_timestep_code_survives_half_precision() -> None:
    """The table is float32 in every precision: 999 and 1000 are one number in bfloat16."""
    embedder = TimestepEmbedder(8)
    code = []
    embedder.mlp[0].register_forward_pre_hook(lambda module, args: code.append(args[0]))
    t = torch.tensor([3, 501, 999])
    embedder(t)
    embedder.bfloat16()(t)
    assert [c.dtype for c in code] == [torch.float32, torch.bfloat16]
    assert torch.equal(code[0].bfloat16(), code[1])


def test_the_position_table_codes_the_column_first() -> None:
    table = position_table(24, 5).reshape(5, 5, 24)
    for row in range(5):
        for column in range(5):
            expected = [
                wave(place * 10_000 ** (-i / 6))
                for place in (column, row)
                for wave in (math.sin, math.cos)
                for i in range(6)
            ]
            np.testing.assert_allclose(table[row, column], expected, rtol=0, atol=2**-24)


def test_the_norm_over_channels_is_that_of_each_pixel() -> None:
    x = noise(6, 2, 5, 3, 4).double() * 1e-3  # so small that the eps counts
    mean = x.mean(dim=1, keepdim=True)
    expected = (x - mean) / (((x - mean) ** 2).mean(dim=1, keepdim=True) + NORM_EPS).sqrt()
    assert NORM_EPS == 1e-6
    assert_close(LayerNorm2d()(x), expected, "fp64")


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_response_norm_and_its_range(kind: torch.dtype) -> None:
    """ConvNeXt V2, eq. 1-3. The norm of 400 over 64x64 pixels, times up to 5, is beyond float16."""
    norm = GlobalResponseNorm(6)
    norm.gamma.data, norm.beta.data = noise(7, 1, 6, 1, 1), noise(8, 1, 6, 1, 1)
    norm = norm.to(kind)
    x = (400 * noise(9, 2, 6, 64, 64) * torch.arange(6)[:, None, None]).to(kind)
    wide = x.double()
    response = (wide**2).sum(dim=(2, 3), keepdim=True).sqrt()
    share = response / (response.mean(dim=1, keepdim=True) + 1e-6)
    expected = norm.gamma.double() * (wide * share) + norm.beta.double() + wide
    found = norm(x).detach()
    assert found.dtype == kind
    np.testing.assert_allclose(
        found.double(), expected.detach(), rtol=0, atol=4 * torch.finfo(kind).eps * expected.abs().max().item()
    )


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_gated_norm_of_a_head(kind: torch.dtype) -> None:
    norm = GatedHeadNorm(64).to(kind)
    norm.weight.data = (1 + noise(10, 64)).to(kind)
    x = 1e-3 * noise(11, 2, 5, 3, 64).to(kind)  # so small that the eps counts
    gate = noise(12, 2, 5, 3, 64).to(kind)
    wide = x.double()
    expected = wide / ((wide**2).mean(dim=-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    expected = expected * gate.double() * gate.double().sigmoid()
    np.testing.assert_allclose(
        norm(x, gate).detach().double(), expected.detach(), rtol=6 * torch.finfo(kind).eps, atol=1e-12
    )


def test_the_kernel_of_fcdm_is_an_argument() -> None:
    """The ablations of its paper have 3x3 and 5x5: the map keeps its size, and only the depthwise weights change."""
    with torch.device("meta"):
        state = {k: FCDM(8, (1, 1, 1, 1, 1), kernel=k) for k in (3, 5, 7)}
        sizes = {
            k: model(torch.empty(1, 4, 8, 8), torch.empty(1), torch.zeros(1, dtype=torch.long)).shape
            for k, model in state.items()
        }
    assert set(sizes.values()) == {(1, 8, 8, 8)}
    assert state[5].latent[0].dwconv.weight.shape == (32, 1, 5, 5)
    count = {k: sum(p.numel() for p in model.parameters()) for k, model in state.items()}
    assert count[7] - count[5] == (49 - 25) * (8 + 16 + 32 + 16 + 8)
    assert count[5] - count[3] == (25 - 9) * (8 + 16 + 32 + 16 + 8)
