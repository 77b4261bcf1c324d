"""FlowDCN, LightningDiT, DDT and MDTv2 against the official implementations: keys, sizes, counts, outputs.

Goldens and counts: data/README.md. What is special about one of them stands in its own test file.
"""

from functools import cache

import pytest
import torch
from formula import formula_model, golden, token_rivals
from tolerances import RELATIVE_L2, assert_close
from torch import Tensor, nn

from convbench import models
from convbench.catalogue import find, variants
from convbench.checks.output import LEAST_CHANGE
from convbench.counting import Count
from convbench.models.counts import count_variant, meta_inputs
from convbench.models.ddt import DDT
from convbench.models.flowdcn import FlowDCN
from convbench.models.lightningdit import LightningDiT
from convbench.models.mdtv2 import MDTv2
from convbench.models.random_weights import fill
from convbench.weights.fixed_tables import fixed_tables

FAMILIES = ("flowdcn", "lightningdit", "ddt", "mdtv2")
ALL = [id for id, variant in variants().items() if variant.family.module in FAMILIES]
REFERENCE = token_rivals()
# The paper's names of DDT's sizes say how many blocks encode and how many decode.
CALLED = {"ddt_b_2": "ddt_b_2_8en4de", "ddt_l_2": "ddt_l_2_20en4de", "ddt_xl_2": "ddt_xl_2_22en6de"}
KINDS = {"conv2x2": "conv_patch", "matmul": "attention_matmul"}  # what the reference calls them, and we
COUNTS = [(id, int(side)) for id in ALL for side in REFERENCE[CALLED.get(id, id)]["macs_full"]]
SMALLEST = [id for id in ("flowdcn_s_2", "lightningdit_b_1", "ddt_b_2", "mdtv2_s_2") if id in ALL]
GOLDENS = [id for id in ALL if id in ("flowdcn_s_2", "lightningdit_b_1")]

T, Y = torch.tensor([0.25, 0.75]), torch.tensor([2, 10])
CHANNELS = {"noise and variance": 2, "velocity": 1}  # of the output, for each of the input


def tiny(family: str) -> nn.Module:
    """A network of the family for 8x8 latents, with weights that leave no layer silent."""
    network = {
        "flowdcn": lambda: FlowDCN(32, 2, 2, 2, num_classes=10),
        "ddt": lambda: DDT(32, 2, 1, 2, 2, res=64, num_classes=10),
        "mdtv2": lambda: MDTv2(32, 6, 2, 2, 2, res=64, num_classes=10),
        "lightningdit": lambda: LightningDiT(32, 2, 2, 1, res=128, num_classes=10),
    }[family]()
    fill(network)
    return network.eval().requires_grad_(False)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(family: str, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    takes = find(next(id for id in ALL if id.startswith(family))).signature
    return noise(0, batch, takes.channels, 8, 8), T[:batch] * takes.t_end, Y[:batch]


@cache
def counted(id: str, side: int) -> Count:
    return count_variant(find(id), side * find(id).signature.factor)


# ---- names, sizes and counts ----


def test_every_variant_has_a_reference() -> None:
    known = {id for id in REFERENCE if id.startswith(FAMILIES)}
    assert {CALLED.get(id, id) for id in ALL} == known - {"ddt_tiny"}


@pytest.mark.parametrize("id", ALL)
def test_state_dict_and_parameters_equal_the_official_ones(id: str) -> None:
    model, official = models.on_meta(find(id), find(id).res), REFERENCE[CALLED.get(id, id)]
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == official["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == official["parameters"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == official["parameters_trainable"]
    assert [name for name, _ in model.named_buffers() if name in model.state_dict()] == official["buffers"]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == official["non_trainable_parameters"]
    assert fixed_tables(model) == {*frozen, *official["buffers"]}  # MDTv2's tables of positions are learned


@pytest.mark.parametrize(("id", "side"), COUNTS)
def test_macs_equal_the_reference_exactly(id: str, side: int) -> None:
    found, official = counted(id, side), REFERENCE[CALLED.get(id, id)]
    kinds = {KINDS.get(kind, kind): macs for kind, macs in official["macs_by_kind"][str(side)].items() if macs}
    samples = official.get("dcn_samples", {}).get(str(side), 0)
    assert found.macs == official["macs_torchprofile"][str(side)]
    assert found.macs_full == official["macs_full"][str(side)]
    assert found.dcn_samples == samples
    assert found.by_kind() == kinds
    assert found.winograd_macs == found.winograd_macs_all == found.macs  # no block holds a dense 3x3 convolution


@pytest.mark.long_grid
@pytest.mark.parametrize("id", ALL)
def test_output_follows_the_signature(id: str) -> None:
    takes = find(id).signature
    for res in (find(id).res, 2 * find(id).res):
        out = models.create(id, device="meta", res=res)(*meta_inputs(res, 3, takes))
        side = res // takes.factor
        assert tuple(out.shape) == (3, takes.channels * CHANNELS[takes.predicts], side, side)


# ---- outputs of the official implementations ----


@pytest.mark.parametrize("id", [pytest.param(id, marks=pytest.mark.slow if "_b_" in id else ()) for id in GOLDENS])
def test_output_in_float32_and_float64(id: str) -> None:
    """At timesteps far outside of training, which show every digit of the timestep code, and inside."""
    stored = golden(id)
    model = formula_model(id)
    for suffix in ("", "_unit"):
        found = model(stored["x"], stored[f"t{suffix}"], stored["y"])
        assert_close(found, stored[f"out{suffix}"], "fp32")
    model = model.double()
    for suffix in ("", "_unit"):
        found = model(stored["x"].double(), stored[f"t{suffix}"], stored["y"])
        assert found.dtype == torch.float64
        assert_close(found, stored[f"out{suffix}_f64"], "fp64")


# ---- what holds for each of them ----


@pytest.mark.parametrize("family", FAMILIES)
def test_every_input_affects_the_output_with_random_weights(family: str) -> None:
    """The benchmark's proof asks the same of every output that it times."""
    model, (x, t, y) = tiny(family), inputs(family)
    out = model(x, t, y)
    assert 0.3 < out.std() < 3
    for other in ((noise(9, *x.shape), t, y), (x, t.flip(0), y), (x, t, y.flip(0))):
        change = (model(*other) - out).flatten(1).norm(dim=1) / out.flatten(1).norm(dim=1)
        assert (change > 10 * LEAST_CHANGE).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_of_a_batch_are_independent(family: str) -> None:
    model, (x, t, y) = tiny(family).double(), inputs(family)
    alone = torch.cat([model(x[i : i + 1].double(), t[i : i + 1], y[i : i + 1]) for i in range(2)])
    assert_close(alone, model(x.double(), t, y), "fp64")


@pytest.mark.slow
@pytest.mark.parametrize("id", SMALLEST)
@pytest.mark.parametrize(("kind", "row"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")], ids=["bf16", "fp16"])
def test_half_precision_is_close_to_float32(id: str, kind: torch.dtype, row: str) -> None:
    """Of the smallest one with the weights that are timed: errors grow with the depth."""
    takes = find(id).signature
    model, x = models.create(id), noise(0, 2, takes.channels, 256 // takes.factor, 256 // takes.factor)
    t, y = T * takes.t_end, Y
    expected = model(x, t, y)
    out = model.to(kind)(x.to(kind), t, y)
    assert out.dtype == kind
    assert torch.linalg.vector_norm(out.float() - expected) < RELATIVE_L2[row] * torch.linalg.vector_norm(expected)
