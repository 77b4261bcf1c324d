"""JiT, EDM2 and SANA: keys, counts and outputs of the official code, and what holds for a small network of each.

Goldens and counts: data/README.md. What is special about one family stands in a file of its own.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from formula import formula_model, golden
from tolerances import RELATIVE_L2, assert_close
from torch import Tensor, nn

from convbench import models
from convbench.catalogue import Signature, find, variants
from convbench.checks.output import LEAST_CHANGE
from convbench.models.counts import count_variant, meta_inputs
from convbench.models.edm2 import EDM2
from convbench.models.jit import JiT
from convbench.models.random_weights import fill
from convbench.models.sana import SANA

DATA = Path(__file__).parents[1] / "data"
REFERENCE: dict[str, dict[str, Any]] = json.loads(gzip.decompress((DATA / "jit_edm2_sana.json.gz").read_bytes()))
FAMILIES = ("edm2", "jit", "sana")
OURS = [id for id, variant in variants().items() if variant.family.module in FAMILIES]
COUNTS = [(id, int(side)) for id in OURS for side in REFERENCE[id]["macs_torchprofile"]]


def test_every_variant_has_a_reference() -> None:
    wanted = {id for id in REFERENCE if id.split("_")[0] in FAMILIES and not id.endswith("_tiny")}
    assert set(OURS) == wanted


# ---- names and counts, without storage ----


@pytest.mark.parametrize("id", OURS)
def test_state_dict_and_parameters_equal_the_official_ones(id: str) -> None:
    model, official = models.on_meta(find(id), find(id).res), REFERENCE[id]
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == official["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == official["parameters"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == official["parameters_trainable"]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == official["non_trainable_parameters"]
    assert [name for name, _ in model.named_buffers() if name in model.state_dict()] == official["buffers"]


@pytest.mark.parametrize(("id", "side"), COUNTS)
def test_macs_equal_the_reference_exactly(id: str, side: int) -> None:
    """``side``: of x, in the reference."""
    found = count_variant(find(id), side * find(id).signature.factor)
    assert found.macs == REFERENCE[id]["macs_torchprofile"][str(side)]
    assert found.macs_full == REFERENCE[id]["macs_full"][str(side)]


@pytest.mark.long_grid
@pytest.mark.parametrize("id", OURS)
def test_every_variant_is_called_by_its_signature(id: str) -> None:
    variant = find(id)
    inputs = meta_inputs(variant.res, 3, variant.signature)
    assert models.create(id, device="meta", res=variant.res)(*inputs).shape == inputs[0].shape


# ---- outputs of the official implementations ----


def test_jit_in_float32_and_float64() -> None:
    """Of 64 pixels, 16 tokens. t of 17 and 903 is far beyond what it is trained for; t_unit lies within."""
    stored, model = golden("jit_b_16"), formula_model("jit_b_16", 64)
    for t, out in (("t", "out"), ("t_unit", "out_unit")):
        assert_close(model(stored["x"], stored[t], stored["y"]), stored[out], "fp32")
    model.double()
    for t, out in (("t", "out_f64"), ("t_unit", "out_unit_f64")):
        assert_close(model(stored["x"].double(), stored[t], stored["y"]), stored[out], "fp64")


# ---- what holds for a small network of each ----

TINY: dict[str, tuple[Any, Signature, int]] = {  # what makes it, what it takes, the side of x
    "jit": (
        lambda: JiT(32, 2, 2, 4, bottleneck=8, context_from=1, res=16, num_classes=10),
        Signature(channels=3, factor=1, t_end=1),
        16,
    ),
    "edm2": (
        lambda: EDM2(16, res=128, multipliers=[1, 2], depth=1, attention_at=[8], head_width=16, num_classes=10),
        Signature(t_start=0.002, t_end=80),
        16,
    ),
    "sana": (lambda: SANA(64, 2, 4, caption_width=24), Signature(channels=32, factor=32, caption=(7, 24)), 4),
}


class Tiny:
    """A small network with convbench's random weights, and what it takes."""

    def __init__(self, name: str) -> None:
        make, self.takes, self.side = TINY[name]
        self.model: nn.Module = make()
        self.model.eval().requires_grad_(False)
        fill(self.model)

    def inputs(self, batch: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        random = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, self.takes.channels, self.side, self.side, generator=random)
        t = self.takes.time(torch.rand(batch, generator=random) * 999)
        if self.takes.caption:
            return x, t, torch.randn(batch, *self.takes.caption, generator=random)
        return x, t, torch.randint(10, (batch,), generator=random)


@pytest.fixture(params=list(TINY))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return Tiny(request.param)


def test_every_input_affects_the_output_with_random_weights(tiny: Tiny) -> None:
    """The benchmark's proof asks the same of every output that it times."""
    x, t, y = tiny.inputs()
    out = tiny.model(x, t, y)
    assert out.isfinite().all() and 0.3 < out.std() < 3
    for other in ((x.roll(1, 0), t, y), (x, t.roll(1, 0), y), (x, t, y.roll(1, 0))):
        change = (tiny.model(*other) - out).flatten(1).norm(dim=1) / out.flatten(1).norm(dim=1)
        assert (change > 10 * LEAST_CHANGE).all()


def test_samples_of_a_batch_are_independent(tiny: Tiny) -> None:
    x, t, y = tiny.inputs(seed=1)
    out, order = tiny.model(x, t, y), torch.tensor([2, 0, 1])
    assert_close(tiny.model(x[order], t[order], y[order]), out[order], "fp32")
    assert_close(tiny.model(x[1:2], t[1:2], y[1:2]), out[1:2], "fp32")


@pytest.mark.parametrize(("kind", "row"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")], ids=["bf16", "fp16"])
def test_half_precision_is_close_to_float32(tiny: Tiny, kind: torch.dtype, row: str) -> None:
    x, t, y = tiny.inputs(seed=2)
    expected = tiny.model(x, t, y)
    out = tiny.model.to(kind)(x.to(kind), t, y)  # captions as the benchmark gives them, in float32
    assert out.dtype == kind
    assert torch.linalg.vector_norm(out.float() - expected) < RELATIVE_L2[row] * torch.linalg.vector_norm(expected)


def test_float64_is_close_to_float32(tiny: Tiny) -> None:
    x, t, y = tiny.inputs(seed=3)
    expected = tiny.model(x, t, y)
    assert_close(expected, tiny.model.double()(x.double(), t, y), "fp32")


@pytest.mark.parametrize("id", ["jit_b_16", "edm2_xxs"])
def test_created_models_are_fully_initialised(id: str) -> None:
    """Storage is taken unset; filled with NaN and huge integers by torch here, it would show."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        model = models.create(id, res=4 * find(id).res_multiple)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.isfinite(tensor).all() for tensor in (*model.parameters(), *model.buffers()))
    assert not any(p.requires_grad for p in model.parameters())
