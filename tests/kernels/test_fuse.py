"""Fused networks on a CPU, where every op runs its PyTorch reference: the goldens, the weights, the layouts.

Small networks of the same classes stand in where no golden is needed. Whole networks on a GPU: tests/gpu/test_fuse.py.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from formula import formula_model, golden
from tolerances import RELATIVE_L2, assert_close
from torch import Tensor, nn
from watched import Watched

from convbench import models
from convbench.catalogue import find
from convbench.checks.output import relative_error
from convbench.errors import UsageError
from convbench.kernels import fuse, unfuse
from convbench.kernels.fused.fuse import fused_copy, unfusable
from convbench.kernels.fused.modules import Fused, FusedBlock
from convbench.kernels.fused.pixel_shuffle import shuffle_and_concatenate, unshuffle
from convbench.kernels.ops.winograd_conv import winograd_weight
from convbench.models.dic import DiC
from convbench.models.dico import DiCo, DiCoBlock
from convbench.models.dig import DiG
from convbench.models.fcdm import FCDM
from convbench.models.layers import LayerNorm2d, TimestepEmbedder
from convbench.models.random_weights import fill

Inputs = tuple[Tensor, Tensor, Tensor]

GOLDEN = ("dico_s", "fcdm_s", "dic_s", "dig_s_2")
SMALL: dict[str, Callable[[], nn.Module]] = {
    "dico": lambda: DiCo(16, (2, 1, 2, 1, 2)),
    "fcdm": lambda: FCDM(16, (2, 1, 2, 1, 2)),
    "dic": lambda: DiC(16, (4, 1, 1, 2, 4)),  # a decoder that takes two skips, and a block between them
    "dig": lambda: DiG(64, 3, 2, 2, res=64),
}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def small(family: str, seed: int = 0, **options: Any) -> nn.Module:
    """A network with weights that leave no layer at zero."""
    network = type(SMALL[family]())(**options) if options else SMALL[family]()
    model = network.eval().requires_grad_(False)
    fill(model, seed)
    return model


def inputs(batch: int = 2, height: int = 8, width: int = 8, channels: int = 4, dtype: Any = None) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, height, width, generator=generator).to(dtype or torch.float32)
    return x, torch.linspace(3, 990, batch), torch.arange(batch) * 300 % 1001


def derived(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that was made from weights, by its path."""
    return {
        f"{path}.{name}": getattr(module, name)
        for path, module in model.named_modules()
        if isinstance(module, Fused)
        for name in module.derive()
    }


def layout(model: nn.Module) -> dict[str, Any]:
    return {name: (type(value), value.shape, value.stride(), value.dtype) for name, value in model.state_dict().items()}


# ---- outputs ----


@pytest.fixture(scope="module", params=GOLDEN)
def official(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model with the formula weights, and what the official one gave with them."""
    return formula_model(request.param), golden(request.param)


@pytest.mark.parametrize("products", ["ours", "library"])
def test_fused_outputs_are_those_of_the_official_code(official: Any, products: str) -> None:
    model, stored = official
    fused = fused_copy(model, products)
    out = fused(stored["x"], stored["t"], stored["y"])
    assert_close(out, stored["out"], "fp32")
    wide = copy.deepcopy(fused).double()
    assert_close(wide(stored["x"].double(), stored["t"], stored["y"]), stored["out_f64"], "fp64")


def test_the_error_against_float64_is_no_larger_than_eagers(official: Any) -> None:
    """In the same memory format: oneDNN rounds more often in channels_last than in NCHW, by up to 1.7 times."""
    model, stored = official
    plain = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x, t, y = stored["x"].contiguous(memory_format=torch.channels_last), stored["t"], stored["y"]
    eager, fused = (relative_error(step(x, t, y), stored["out_f64"]) for step in (plain, fused_copy(model)))
    assert fused <= 1.1 * eager


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("products", ["ours", "library"])
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 8, 8), (3, 4, 12), (2, 20, 16)])
def test_any_batch_and_shape(family: str, products: str, batch: int, height: int, width: int) -> None:
    """Down to one pixel at the lowest level. DiG has one size."""
    if family == "dig":
        height = width = 8
    given = inputs(batch, height, width, dtype=torch.float64)
    model = small(family).double()
    expected = model(*given)
    assert_close(fuse(model, products)(*given), expected, "fp64")


def test_small_pixels_of_one_channel() -> None:
    """A map of one channel is in every layout at once, so the first layer's output has to be told."""
    for products in ("ours", "library"):
        model = small("dico", width=16, depths=(1, 1, 1, 1, 1), in_channels=1, num_classes=10).double()
        x, t, _ = inputs(channels=1, dtype=torch.float64)
        given = x, t, torch.tensor([3, 10])
        expected = model(*given)
        assert_close(fuse(model, products)(*given), expected, "fp64")


def test_other_windows_and_ratios() -> None:
    """The ablations of the papers: FCDM with 3x3 and 5x5, DiCo-H's wider perceptron, DiCo with 5x5, no variance."""
    dico = small("dico", width=16, depths=(1, 1, 1, 1, 1), mlp_ratio=4, learn_sigma=False)
    for block in dico.modules():
        if isinstance(block, DiCoBlock):
            block.conv2 = nn.Conv2d(c := block.conv2.in_channels, c, 5, padding=2, groups=c).eval()
    fcdm = [small("fcdm", width=16, depths=(1, 1, 1, 1, 1), mlp_ratio=2, kernel=k) for k in (3, 5)]
    for model in (dico, *fcdm):
        model.double()
        expected = model(*inputs(dtype=torch.float64))
        assert_close(fuse(model)(*inputs(dtype=torch.float64)), expected, "fp64")


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize(("dtype", "row"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")], ids=["bf16", "fp16"])
def test_half_precision_is_no_worse_than_eager(family: str, dtype: torch.dtype, row: str) -> None:
    """Error against float64. Fewer roundings: the fused one is held to 1.1 times eager's."""
    model = small(family)
    x, t, y = inputs(4, dtype=dtype)
    exact = copy.deepcopy(model).to(dtype).double()(x.double(), t, y)
    errors = []
    for make in (lambda half: half, fuse):
        out = make(copy.deepcopy(model).to(dtype))(x, t, y)
        assert out.dtype == dtype
        errors.append(float((out.double() - exact).norm() / exact.norm()))
    eager, fused = errors
    assert fused <= 1.1 * eager
    assert fused < RELATIVE_L2[row]


# ---- weights ----


def test_winograd_convolutions_follow_weights_and_types() -> None:
    """Of DiC's blocks: transformed weights are made again after loading, and a model in half precision has none."""
    with Watched() as seen:
        out = fuse(small("dic"), convolutions="winograd")(*inputs())
    assert seen.calls["winograd_conv"] == 2 * 12
    assert_close(out, small("dic")(*inputs()), "fp32")

    model, other = fuse(small("dic"), convolutions="winograd"), small("dic", seed=1)
    model.load_state_dict(other.state_dict())
    block = model.lat_blocks[0][0].conv
    assert torch.equal(block.conv1_points, winograd_weight(block.conv1.weight))
    assert_close(model(*inputs()), other(*inputs()), "fp32")
    assert block.conv1_points.data_ptr() != block.conv1.weight.data_ptr()
    model.to(torch.bfloat16)
    assert not any(name.endswith("points") for name, _ in model.named_buffers())
    model.to(torch.float32)
    assert torch.equal(block.conv0_points, winograd_weight(block.conv0.weight))

    with pytest.raises(UsageError, match="unknown convolutions 'fft'; choose from library, winograd"):
        fuse(small("dic"), convolutions="fft")
    with pytest.raises(UsageError, match="cannot fuse this DiCo with Winograd convolutions: only DiC's blocks have"):
        fuse(small("dico"), convolutions="winograd")


@pytest.mark.parametrize("family", SMALL)
def test_unfuse_puts_everything_back(family: str) -> None:
    model = small(family)
    before, kind = copy.deepcopy(model), type(model)
    modules = {name: id(module) for name, module in model.named_modules()}
    assert fuse(model) is model
    assert type(model) is not kind and isinstance(model, kind)
    assert unfuse(model) is model
    assert type(model) is kind
    assert {name: id(module) for name, module in model.named_modules()} == modules
    assert layout(model) == layout(before)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert vars(model).keys() == vars(before).keys()
    assert [name for name, _ in model.named_buffers()] == [name for name, _ in before.named_buffers()]
    assert not model._load_state_dict_post_hooks
    assert torch.equal(model(*inputs()), before(*inputs()))


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("assign", [False, True])
def test_state_dicts_load_in_both_directions(family: str, assign: bool) -> None:
    fused, plain = fuse(small(family, seed=0)), small(family, seed=1)
    assert list(fused.state_dict()) == list(plain.state_dict())
    expected = plain(*inputs())
    fused.load_state_dict(plain.state_dict(), assign=assign)
    fresh = fuse(copy.deepcopy(plain))
    for (name, found), wanted in zip(derived(fused).items(), derived(fresh).values(), strict=True):
        assert torch.equal(found, wanted), name
    assert torch.equal(fused(*inputs()), fresh(*inputs()))

    other = small(family, seed=2)
    other.load_state_dict(fused.state_dict(), assign=assign)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), plain.parameters(), strict=True))
    assert_close(other(*inputs()), expected, "fp32")  # assigned weights bring their layout along
    assert torch.equal(unfuse(fused)(*inputs()), expected)


def test_a_block_loaded_alone_has_its_own_tensors_made_again() -> None:
    fused, other = fuse(small("fcdm")), small("fcdm", seed=1)
    fused.latent[0].load_state_dict(other.latent[0].state_dict())
    assert torch.equal(fused.latent[0].taps, other.latent[0].dwconv.weight.flatten(1).t())


@pytest.mark.parametrize("family", SMALL)
def test_casting_makes_the_derived_tensors_again_from_the_weights(family: str) -> None:
    fused, half = fuse(small(family)), small(family).half()
    assert len(derived(fused)) >= 2
    fresh = fuse(half)
    fused.half()
    for (name, found), wanted in zip(derived(fused).items(), derived(fresh).values(), strict=True):
        assert found.dtype == torch.float16, name
        assert torch.equal(found, wanted), name
    assert torch.equal(fused(*inputs(dtype=torch.float16)), fresh(*inputs(dtype=torch.float16)))
    assert layout(unfuse(fused)) == layout(small(family).half())


def test_beta_is_folded_in_float64() -> None:
    """b + W beta, rounded once."""
    block = fuse(small("fcdm").half()).latent[0]
    original: Any = block.replaced[0]
    weight, beta = original.pwconv2.weight.flatten(1).double(), original.grn.beta.flatten().double()
    exact = original.pwconv2.bias.double() + (weight * beta).sum(dim=1)
    assert torch.equal(block.bias2, exact.half())
    assert not torch.equal(block.bias2, original.pwconv2.bias)


@pytest.mark.parametrize("family", SMALL)
def test_a_fused_copy_shares_the_weights_and_leaves_the_model_alone(family: str) -> None:
    model = small(family)
    before, expected = layout(model), model(*inputs())
    fused = fused_copy(model)
    assert (layout(model), type(model)) == (before, type(small(family)))
    assert torch.equal(model(*inputs()), expected)
    dense = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    windows = {f"{name}.weight" for name in dense if model.get_submodule(name).kernel_size != (1, 1)}
    for (name, mine), theirs in zip(fused.named_parameters(), model.parameters(), strict=True):
        if name not in windows:  # those lie in another order
            assert mine.data_ptr() == theirs.data_ptr(), name


@pytest.mark.parametrize("family", SMALL)
def test_a_deep_copy_is_a_fused_model_of_its_own(family: str) -> None:
    fused = fuse(small(family))
    twin, expected = copy.deepcopy(fused), fused(*inputs())
    twin.load_state_dict(small(family, seed=1).state_dict())
    assert torch.equal(fused(*inputs()), expected)
    assert torch.equal(unfuse(twin)(*inputs()), small(family, seed=1)(*inputs()))
    assert torch.equal(fused(*inputs()), expected)


def test_without_storage() -> None:
    with torch.device("meta"):
        model = fuse(SMALL["dico"]().eval())
        out = model(torch.empty(3, 4, 8, 8), torch.empty(3), torch.empty(3, dtype=torch.long))
    assert (out.shape, out.device.type) == ((3, 8, 8, 8), "meta")
    model.to_empty(device="cpu")
    model.t_embedder_1.fill_tables()
    model.load_state_dict(small("dico").state_dict())
    assert torch.equal(model(*inputs()), fuse(small("dico"))(*inputs()))


# ---- what runs in a step ----


@pytest.mark.parametrize("products", ["ours", "library"])
@pytest.mark.parametrize("family", ["dico", "fcdm", "dic"])
def test_no_map_is_copied_but_to_resample_it(family: str, products: str) -> None:
    """One copy of the latents; then one each way down, one each way up, which is the concatenation with the skip."""
    model, given = fuse(small(family), products), inputs(2, 8, 12)
    with Watched() as seen:
        out = model(*given)
    assert seen.misplaced == []
    assert [copied.split()[0] for copied in seen.copies] == ["clone"] * 3, seen.copies
    assert seen.copies[0] == "clone (2, 4, 8, 12)"
    maps = seen.calls["cat"] - 1  # the timestep code is a cat, once
    assert maps == (3 if family == "dic" else 2)  # the small DiC has one skip more than the two ways up
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_dig_copies_tokens_only_to_turn_the_scan() -> None:
    plain, fused, given = small("dig"), fuse(small("dig")), inputs()
    with Watched() as before:
        plain(*given)
    with Watched() as seen:
        fused(*given)
    for name in ("clone", "copy_", "_to_copy", "flip"):
        assert seen.calls[name] <= before.calls[name], name


@pytest.mark.parametrize("family", SMALL)
def test_one_product_for_all_modulations_of_a_condition(family: str) -> None:
    """And one timestep code, whatever the number of widths."""
    model = fuse(small(family))
    levels = 1 if family == "dig" else 3
    with Watched() as seen:
        model(*inputs())
    assert seen.calls["cos"] == seen.calls["sin"] == 1
    inside = 2 * 3 if family == "dig" else 0  # of each block's perceptron and output gate
    assert seen.calls["silu"] == 2 * levels + inside  # of the embedders, of the conditions
    assert seen.calls["embedding"] == levels
    block_names = [name for name, module in model.named_modules() if isinstance(module, FusedBlock)]
    called = [name for name, module in model.named_modules() if name.endswith(("adaLN_modulation", "affine"))]
    assert len(called) == len(block_names) + 1
    for name in called:  # none of them runs by itself
        model.get_submodule(name).forward = None  # type: ignore[assignment]
    model(*inputs())


def test_every_op_of_the_plan_is_called() -> None:
    counts = {}
    for family in SMALL:
        model = fuse(small(family), "ours")
        with Watched() as seen:
            model(*inputs())
        counts[family] = {name: count for name, count in seen.calls.items() if hasattr(torch.ops.convbench, name)}
    assert counts["dico"] == {
        "layer_norm_modulate": 2 * 8 + 1,
        "depthwise_gelu": 8,
        "channel_gates": 8,
        "pointwise": 8,
        "pointwise_residual": 2 * 8,
    }
    assert counts["fcdm"] == {
        "depthwise": 8,
        "layer_norm_modulate": 8 + 1,
        "pointwise_squares": 8,
        "response_factors": 8,
        "pointwise_residual": 8,
    }
    assert counts["dic"] == {"group_norm_gelu": 2 * 12, "gate_residual": 12, "layer_norm_modulate": 1}
    assert counts["dig"] == {"layer_norm_modulate": 2 * 3 + 1, "depthwise": 3}


def test_resampling_is_that_of_torch() -> None:
    x = torch.randn(2, 12, 6, 8).contiguous(memory_format=torch.channels_last)
    skip = torch.randn(2, 5, 12, 16).contiguous(memory_format=torch.channels_last)
    down, up = unshuffle(x), shuffle_and_concatenate(x, skip)
    assert torch.equal(down, nn.PixelUnshuffle(2)(x))
    assert torch.equal(up, torch.cat([nn.PixelShuffle(2)(x), skip], dim=1))
    assert down.is_contiguous(memory_format=torch.channels_last) and up.is_contiguous(memory_format=torch.channels_last)


# ---- compilers ----


@pytest.mark.slow
@pytest.mark.parametrize("family", ["fcdm"])
def test_compile_takes_a_fused_model_as_one_graph(family: str) -> None:
    model = fuse(small(family, width=8, depths=(1, 1, 1, 1, 1)))
    expected = model(*inputs())
    try:
        compiled = torch.compile(model, fullgraph=True, dynamic=False)
        assert_close(compiled(*inputs()), expected, "fp32")
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("family", ["dico", "dic", "dig"])
def test_the_others_are_one_graph_too(family: str) -> None:
    """Traced and run without generating code."""
    model = fuse(small(family))
    expected = model(*inputs())
    try:
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
        assert_close(compiled(*inputs()), expected, "fp32")
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("family", SMALL)
def test_export_takes_any_batch(family: str) -> None:
    model = fuse(small(family))
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, inputs(3), dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
    names = {str(node.target) for node in program.graph.nodes if "convbench" in str(node.target)}
    assert "convbench.layer_norm_modulate.default" in names
    assert_close(program.module()(*inputs(5)), model(*inputs(5)), "fp32")


# ---- refusals ----


class OwnBlock(DiCoBlock):
    """A block with an unknown forward."""


def changed(family: str, change: Callable[[Any], Any]) -> nn.Module:
    model = small(family)
    change(model)
    return model.eval()


def replaced(path: str, make: Callable[[Any], nn.Module]) -> Callable[[Any], Any]:
    return lambda model: model.set_submodule(path, make(model.get_submodule(path)))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "training": (
        lambda: small("dico").train(),
        "cannot fuse this DiCo: the model is in training mode, but fused kernels do not compute gradients; "
        "call .eval() first",
    ),
    "part in training": (
        lambda: [model := small("fcdm"), model.latent[0].train()][0],
        "cannot fuse this FCDM: latent.0 is in training mode, but fused kernels do not compute gradients; "
        "call .eval() first",
    ),
    "other network": (
        lambda: nn.Linear(2, 2).eval(),
        "cannot fuse this Linear: only DiC, DiCo, DiG, FCDM and FlowDCN have fused blocks",
    ),
    "no network of ours": (
        lambda: models.create("dit_s_8", device="meta"),
        "cannot fuse this DiT: only DiC, DiCo, DiG, FCDM and FlowDCN have fused blocks",
    ),
    "already": (lambda: fuse(small("dic")), "cannot fuse this FusedDiC: it is already fused"),
    "unknown block": (
        lambda: changed("dico", replaced("latent.1", lambda block: OwnBlock(64, 2))),
        "cannot fuse this DiCo: latent.1 is of type OwnBlock, which has no fused counterpart",
    ),
    "unknown layer": (
        lambda: changed("dico", replaced("latent.0.ca.2", lambda layer: nn.Hardsigmoid())),
        "cannot fuse this DiCo: latent.0.ca.2 is of type Hardsigmoid, which has no fused counterpart",
    ),
    "hook": (
        lambda: changed("dico", lambda model: model.latent[0].conv1.register_forward_hook(lambda *_: None)),
        "cannot fuse this DiCo: latent.0.conv1 has a forward hook or a replaced forward, which fused blocks would "
        "not call",
    ),
    "norm of a DiC block": (
        lambda: changed("dic", replaced("lat_blocks.0.0.conv.norm1", lambda norm: LayerNorm2d())),
        "cannot fuse this DiC: lat_blocks.0.0.conv: norm1 is a LayerNorm2d; only GroupNorm has a kernel",
    ),
    "affine of a DiC block": (
        lambda: changed("dic", replaced("lat_blocks.0.0.conv.norm0", lambda norm: nn.GroupNorm(16, 64, affine=False))),
        "cannot fuse this DiC: lat_blocks.0.0.conv: norm0 has no weight and bias",
    ),
    "scale of a DiC block": (
        lambda: changed("dic", lambda model: setattr(model.lat_blocks[0][0].conv, "residual_scale", 0.5)),
        "cannot fuse this DiC: lat_blocks.0.0.conv: residual_scale is 0.5; the kernel supports 1 only, as in every "
        "published model",
    ),
    "window": (
        lambda: changed("dic", replaced("lat_blocks.0.0.conv.conv0", lambda conv: nn.Conv2d(64, 64, 5, padding=2))),
        "cannot fuse this DiC: lat_blocks.0.0.conv: conv0 has a 5x5 window; there are kernels for 3x3",
    ),
    "window of DiCo": (
        lambda: changed("dico", replaced("latent.0.conv2", lambda conv: nn.Conv2d(64, 64, 7, padding=3, groups=64))),
        "cannot fuse this DiCo: latent.0: conv2 has a 7x7 window; there are kernels for 3x3 and 5x5",
    ),
    "no bias": (
        lambda: changed("fcdm", replaced("latent.0.pwconv2", lambda conv: nn.Conv2d(192, 64, 1, bias=False))),
        "cannot fuse this FCDM: latent.0: pwconv2 has no bias",
    ),
    "stride": (
        lambda: changed(
            "dig", replaced("blocks.0.dw_conv", lambda conv: nn.Conv2d(64, 64, 3, padding=2, dilation=2, groups=64))
        ),
        "cannot fuse this DiG: blocks.0: dw_conv differs from the published block in stride, padding, dilation or "
        "number of groups",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_fused_is_refused_and_left_as_it_was(name: str) -> None:
    make, words = REFUSED[name]
    model = make()
    before, modules = layout(model), {path: type(module) for path, module in model.named_modules()}
    with pytest.raises(UsageError) as error:
        fuse(model)
    assert str(error.value) == words
    assert layout(model) == before
    assert {path: type(module) for path, module in model.named_modules()} == modules


def test_other_misuse_is_named() -> None:
    with pytest.raises(UsageError, match=r"^cannot unfuse this DiCo: it is not fused$"):
        unfuse(small("dico"))
    with pytest.raises(UsageError, match=r"^unknown products 'theirs'; choose from table, ours, library$"):
        fuse(small("dico"), "theirs")
    fused = fuse(small("dico"))
    with pytest.raises(UsageError, match=r"^a fused model does not compute gradients; unfuse it before training$"):
        fused.train()
    assert not fused.eval().training
    with pytest.raises(ValueError, match=r"^DiCo needs a latent height and width divisible by 4, got 6x8$"):
        fused(*inputs(2, 6, 8))
    with pytest.raises(ValueError, match=r"^this DiG is built for 8x8 latents"):
        fuse(small("dig"))(*inputs(2, 16, 16))


def test_every_registered_variant_of_the_families_can_be_fused() -> None:
    """The largest and the smallest of each."""
    ids = ("dico_h", "dico_digits", "fcdm_l", "fcdm_xl", "dic_s", "dic_h", "dig_s_2", "flowdcn_s_2", "flowdcn_xl_2")
    for id in ids:
        assert unfusable(models.create(id, device="meta", res=find(id).res)) is None, id


def test_embedders_of_all_widths_give_one_code() -> None:
    t = torch.tensor([0.0, 17.5, 999])
    assert torch.equal(TimestepEmbedder(8).code(t), TimestepEmbedder(64).code(t))
