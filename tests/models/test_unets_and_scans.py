"""ADM, LDM, DiS, DiM and DiMSUM against the official implementations, and small networks of theirs against themselves.

Goldens and counts: data/README.md. What those cannot tell is tried on networks of a few channels, made here.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchprofile
from formula import formula_model, formula_state, golden
from tolerances import RELATIVE_L2, assert_close
from torch import Tensor, nn
from torch.nn import functional as F

from convbench import models
from convbench.catalogue import Signature, find, variants
from convbench.checks.output import LEAST_CHANGE
from convbench.counting import Count, count
from convbench.errors import WeightsError
from convbench.models import load_weights
from convbench.models.adm import ADM, ADMU
from convbench.models.counts import count_row, count_variant, meta_inputs
from convbench.models.dim import DiM
from convbench.models.dimsum import DiMSUM
from convbench.models.dis import DiS
from convbench.models.ldm import LDM
from convbench.models.random_weights import fill
from convbench.weights.fixed_tables import fixed_tables

DATA = Path(__file__).parents[1] / "data"
REFERENCE: dict[str, Any] = json.loads(gzip.decompress((DATA / "unets_and_scans.json.gz").read_bytes()))
FAMILIES = ("adm", "ldm", "dis", "dim", "dimsum")
OURS = [id for id, variant in variants().items() if variant.family.module in FAMILIES]
CASCADES = ("adm_u_256", "adm_u_512")
COUNTS = [(id, int(res)) for id in OURS for res in REFERENCE[id]["macs"]]
GOLDENS = ("adm_64", "adm_128", "adm_up_64_256", "adm_up_128_512", "ldm_4", "dis_s_2")
# The reference counts of ADM leave these out, which torchprofile counts: its means of four pixels, its resized images.
LEFT_OUT = {"adm": ("pool_mean", "resize")}


@cache
def counted(id: str, res: int) -> Count:
    return count_variant(find(id), res)


def test_all_variants_are_registered() -> None:
    assert set(OURS) == set(REFERENCE) - {"dim_tiny"}
    assert {id for id in OURS if find(id).printed_as == "adm_u"} == set(CASCADES)


# ---- names, shapes and counts, without storage ----


@pytest.mark.parametrize("id", [id for id in OURS if id not in CASCADES])
def test_state_dict_equals_the_official_one(id: str) -> None:
    model = models.on_meta(find(id), find(id).res)
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == REFERENCE[id]["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == REFERENCE[id]["parameters"]
    assert all(p.requires_grad for p in model.parameters())
    assert fixed_tables(model) == set(REFERENCE[id].get("buffers", ()))


@pytest.mark.parametrize("id", CASCADES)
def test_a_cascade_has_the_keys_of_its_stages(id: str) -> None:
    found = [[key, list(value.shape)] for key, value in models.on_meta(find(id), find(id).res).state_dict().items()]
    assert list(find(id).stages) == REFERENCE[id]["stages"]
    assert found == [
        [f"{part}.{key}", shape]
        for part, stage in zip(("base", "upsampler"), find(id).stages, strict=True)
        for key, shape in REFERENCE[stage]["state_dict"]
    ]


@pytest.mark.parametrize(("id", "res"), COUNTS)
def test_macs_equal_the_reference_exactly(id: str, res: int) -> None:
    variant, expected = find(id), REFERENCE[id]
    found = counted(variant.id, res)
    kinds = found.by_kind()
    left_out = sum(kinds.get(kind, 0) for kind in LEFT_OUT.get(variant.family.module, ()))
    assert found.macs - left_out == expected["macs"][str(res)]
    assert left_out < 2e-5 * found.macs
    if res == variant.res:
        assert found.params == expected["parameters"]
    states = expected.get("macs_scan_state_elements", {}).get(str(res), 0)
    assert kinds.get("scan_core", 0) == 3 * states  # decay, outer product and read-out
    if states:
        assert found.macs_full > found.macs - sum(kinds[kind] for kind in ("mul", "pool_mean"))


@pytest.mark.parametrize("res", [256, 512])
def test_the_printed_counts_of_the_scans_omit_the_same_parts(res: int) -> None:
    """To the unit: DiM by a tracer that stops at the fused Mamba call, DiMSUM by the rules of its authors' counter."""
    printed = {id: count_row(find(id), res, counted(id, res))["macs_as_printed"] for id in ("dim_h", "dimsum_l_2")}
    assert printed["dim_h"] == REFERENCE["dim_h"]["macs_outside_fused_kernel"][str(res)]
    if res == 256:
        assert printed["dimsum_l_2"] == REFERENCE["dimsum_l_2"]["macs_counter_of_the_authors"]
    for id in ("dis_s_2", "dis_h_2"):  # nobody printed these; what is inside the fused call is known all the same
        inside = ["x_proj/linear", "dt_proj/linear", "conv1d/dwconv4", "core/mul"]
        inside += ["x_proj_b/linear", "dt_proj_b/linear", "conv1d_b/dwconv4"]
        outside = REFERENCE[id]["macs_outside_fused_kernel"][str(res)]
        assert counted(id, res).without(inside) == outside


def test_a_cascade_costs_the_sum_of_its_stages() -> None:
    for id in CASCADES:
        parts = [counted(stage, find(stage).res) for stage in find(id).stages]
        whole = counted(id, find(id).res)
        assert whole.macs == sum(part.macs for part in parts)
        assert whole.macs_full == sum(part.macs_full for part in parts)
        assert whole.params == sum(part.params for part in parts)


# ---- outputs of the official implementations ----


@pytest.fixture(scope="module")
def drawn_before() -> Iterator[dict[str, Tensor]]:
    """The weights of the model before: the two upsamplers have nearly all in common, and drawing them is slow."""
    held: dict[str, Tensor] = {}
    yield held
    held.clear()


@pytest.mark.slow
@pytest.mark.parametrize("id", GOLDENS)
def test_output_in_float32(id: str, drawn_before: dict[str, Tensor]) -> None:
    """ADM at 64 pixels, LDM-4 and DiS-S/2 at their own size; an upsampler has the small image in the last channels."""
    stored, known = golden(id), dict(drawn_before)
    drawn_before.clear()
    model = formula_model(id, known=known)
    drawn_before.update(model.state_dict())
    assert_close(model(stored["x"], stored["t"], stored["y"]), stored["out"], "fp32")


def test_output_of_a_small_dim_in_float32() -> None:
    """DiM-H's options, 13 layers of width 192: above width 512 only the merging of a skip has other names."""
    model = DiM(192, 13, 2).eval().requires_grad_(False)
    model.load_state_dict(formula_state(model))
    expected = REFERENCE["dim_tiny"]
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == expected["state_dict"]
    with np.load(DATA / "golden_tiny" / "dim_tiny.npz") as arrays:
        stored = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    assert_close(model(stored["x"], stored["t"], stored["y"]), stored["out"], "fp32")
    found = count(model.to("meta"), meta_inputs(256))
    assert found.macs == expected["macs"]["256"]
    assert (
        found.without(find("dim_h").family.facts["counting"]["papers_leave_out"])
        == (expected["macs_outside_fused_kernel"]["256"])
    )


# ---- small networks of each class ----


@dataclass
class Tiny:
    """A small network with convbench's random weights, and what it takes."""

    model: nn.Module
    takes: Signature
    side: int  # of x

    def inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        random = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, self.takes.channels, self.side, self.side, generator=random)
        t = torch.rand(batch, generator=random) * self.takes.t_end
        return x, t, torch.randint(10, (batch,), generator=random)


STAGE = {"width": 32, "multipliers": [1, 2], "depth": 1, "attention_at": [2], "heads": 2, "num_classes": 10}
PIXELS = Signature(channels=3, factor=1)
TINY = {
    "adm": lambda: (ADM(**STAGE), PIXELS, 16),
    "adm, q k v first": lambda: (ADM(**STAGE, qkv_first=True), PIXELS, 16),
    "upsampler": lambda: (ADM(**STAGE, low_res=4), Signature(channels=6, factor=1), 16),
    "cascade": lambda: (ADMU([STAGE, {**STAGE, "low_res": 4}]), PIXELS, 16),
    "ldm": lambda: (LDM(32, [1, 2], 1, [2], num_classes=10), Signature(channels=3, factor=4), 16),
    "dis": lambda: (DiS(48, 4, 2, res=64, num_classes=10), Signature(), 8),
    "dim": lambda: (DiM(48, 5, 2, res=64, num_classes=10), Signature(), 8),
    "dimsum": lambda: (DiMSUM(64, 4, 4, 2, res=64, num_classes=10), Signature(t_end=1), 8),
}


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request: pytest.FixtureRequest) -> Iterator[Tiny]:
    network, takes, side = TINY[request.param]()
    network.eval().requires_grad_(False)
    fill(network)
    yield Tiny(network, takes, side)


def test_random_weights_keep_the_output_near_unit_size_and_every_input_moves_it(tiny: Tiny) -> None:
    x, t, y = tiny.inputs(3)
    out = tiny.model(x, t, y)
    assert out.isfinite().all() and 0.3 < out.std() < 2
    for other in ((x.flip(0), t, y), (x, t * 0.9, y), (x, t, (y + 1) % 10)):
        change = (tiny.model(*other) - out).flatten(1).norm(dim=1) / out.flatten(1).norm(dim=1)
        assert (change[[0, 2]] > LEAST_CHANGE).all()


def test_samples_of_a_batch_are_independent(tiny: Tiny) -> None:
    x, t, y = tiny.inputs(3, seed=1)
    out, order = tiny.model(x, t, y), torch.tensor([2, 0, 1])
    assert_close(tiny.model(x[order], t[order], y[order]), out[order], "fp32")
    assert_close(tiny.model(x[1:2], t[1:2], y[1:2]), out[1:2], "fp32")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_is_close_to_float32(tiny: Tiny, kind: torch.dtype) -> None:
    x, t, y = tiny.inputs(2, seed=2)
    expected = tiny.model(x, t, y)
    state = {key: value.clone() for key, value in tiny.model.state_dict().items()}
    try:
        out = tiny.model.to(kind)(x.to(kind), t, y)
    finally:
        tiny.model.float().load_state_dict(state)
    limit = "bf16" if kind == torch.bfloat16 else "fp16"
    assert out.dtype == kind
    assert torch.linalg.vector_norm(out.float() - expected) < RELATIVE_L2[limit] * torch.linalg.vector_norm(expected)


def test_float64_is_close_to_float32(tiny: Tiny) -> None:
    """The chunks of a scan, the resized images and the norms lose nothing that float32 has."""
    x, t, y = tiny.inputs(2, seed=3)
    expected = tiny.model(x, t, y)
    state = {key: value.clone() for key, value in tiny.model.state_dict().items()}
    try:
        out = tiny.model.double()(x.double(), t, y)
    finally:
        tiny.model.float().load_state_dict(state)
    assert_close(expected, out, "fp32")


def count_of(network: nn.Module, takes: Signature, side: int) -> Count:
    return count(network.to("meta"), meta_inputs(side * takes.factor, takes=takes))


@pytest.mark.parametrize("name", ["adm", "upsampler", "cascade"])
@pytest.mark.filterwarnings("ignore")  # torchprofile traces with torch.jit and names what it counts as nothing
def test_torchprofile_counts_the_means_and_resized_images_of_adm_too(name: str) -> None:
    network, takes, side = TINY[name]()
    inputs = torch.zeros(1, takes.channels, side, side), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    counted = torchprofile.profile_macs(network.eval(), inputs)
    assert count_of(network, takes, side).macs == counted


def test_an_upsampler_resizes_the_image_in_its_last_channels() -> None:
    network = ADM(**STAGE, low_res=4).eval().requires_grad_(False)
    fill(network)
    x, small = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 4, 4)
    t, y = torch.tensor([17.0, 903.0]), torch.tensor([3, 9])
    repeated = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    large = F.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    found = network(torch.cat([x, repeated], dim=1), t, y)
    assert torch.equal(found, network.network(torch.cat([x, large], dim=1), t, y))


def test_a_cascade_is_its_first_stage_into_its_second() -> None:
    network = ADMU([STAGE, {**STAGE, "low_res": 4}]).eval().requires_grad_(False)
    fill(network)
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([17.0, 903.0]), torch.tensor([3, 9])
    small = network.base(x[:, :, ::4, ::4], t, y)[:, :3]
    repeated = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert torch.equal(network(x, t, y), network.upsampler(torch.cat([x, repeated], dim=1), t, y))


def test_dimsum_shares_one_attention_behind_every_fourth_block() -> None:
    network = DiMSUM(64, 8, 4, 2, res=64, num_classes=10).eval().requires_grad_(False)
    fill(network)
    seen: list[str] = []
    for name, module in [*((f"block {i}", b) for i, b in enumerate(network.blocks)), ("attention", network.attn_block)]:
        module.register_forward_hook(lambda module, args, out, name=name: seen.append(name))
    network(torch.randn(1, 4, 8, 8), torch.rand(1), torch.tensor([3]))
    assert seen == [*(f"block {i}" for i in range(4)), "attention", *(f"block {i}" for i in range(4, 8)), "attention"]


def test_dimsum_remarks_that_its_condition_is_not_verified() -> None:
    assert find("dimsum_l_2").remark.startswith("not verified: ")
    assert all("mamba-ssm" in find(id).remark for id in OURS if id.startswith("di"))


@pytest.mark.parametrize(
    ("network", "side", "message"),
    [
        (lambda: ADM(**STAGE), 15, "ADM needs a latent height and width divisible by 2, got 15x15"),
        (lambda: LDM(32, [1, 2], 1, [2]), 9, "LDM needs a latent height and width divisible by 2, got 9x9"),
        (lambda: DiS(48, 4, 2, res=64), 16, r"this DiS is built for 8x8 latents \(64 px\), got 16x16"),
        (lambda: DiM(48, 5, 2, res=64), 16, r"this DiM is built for 8x8 latents \(64 px\), got 16x16"),
        (lambda: DiMSUM(64, 4, 4, 2, res=64), 16, r"this DiMSUM is built for 8x8 latents \(64 px\), got 16x16"),
    ],
)
def test_an_invalid_size_is_refused(network: Any, side: int, message: str) -> None:
    model = network()
    channels = 3 if isinstance(model, ADM | LDM) else 4
    with pytest.raises(ValueError, match=message):
        model(torch.randn(1, channels, side, side), torch.rand(1), torch.tensor([3]))


def test_the_network_is_read_from_a_complete_ldm_checkpoint(tmp_path: Path) -> None:
    """Nothing else is passed over: loading stays strict."""
    network, other = (LDM(32, [1, 2], 1, [2], num_classes=10) for _ in range(2))
    fill(network, seed=1)
    beside = dict.fromkeys(("first_stage_model.encoder.conv_in.weight", "betas", "model_ema.decay"), torch.zeros(1))
    torch.save({"state_dict": {**network.state_dict(), **beside}}, tmp_path / "model.ckpt")
    load_weights(other, str(tmp_path / "model.ckpt"), find("ldm_4"))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in other.state_dict().items())
    torch.save({**network.state_dict(), "another.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"1 unexpected \(first: another\.weight\)"):
        load_weights(other, str(tmp_path / "other.pt"), find("ldm_4"))


@pytest.mark.long_grid
@pytest.mark.parametrize("id", OURS)
def test_every_variant_is_called_by_its_signature(id: str) -> None:
    """Twice the channels with a variance, the same without; the three last channels of an upsampler are no noise."""
    variant = find(id)
    takes = variant.signature
    inputs = meta_inputs(variant.res, batch=3, takes=takes)
    out = models.create(id, device="meta", res=variant.res)(*inputs)
    channels = {"noise and variance": 6, "noise": takes.channels, "velocity": takes.channels}[takes.predicts]
    channels = 8 if variant.family.module == "dis" else channels
    assert tuple(out.shape) == (3, channels, *inputs[0].shape[2:])
