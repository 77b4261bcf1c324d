"""FlowDCN with its fused sampling on a CPU, where the op runs its reference: golden, weights, and back again."""

import copy

import pytest
import torch
from formula import formula_model, golden
from tolerances import assert_close
from torch import Tensor, nn
from watched import Watched

from convbench.kernels import fuse, unfuse
from convbench.kernels.fused.flowdcn import FusedDeformableSampling
from convbench.kernels.fused.fuse import fused_copy
from convbench.models.deformable import DeformableSampling
from convbench.models.flowdcn import FlowDCN
from convbench.models.random_weights import fill


def small() -> nn.Module:
    model = FlowDCN(32, 3, 2, 2, num_classes=10).eval().requires_grad_(False)
    fill(model)
    return model


def inputs(height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0.25, 0.75]), torch.tensor([3, 10])


def test_fused_outputs_are_those_of_the_official_code() -> None:
    stored, fused = golden("flowdcn_s_2"), fused_copy(formula_model("flowdcn_s_2"))
    x, t, y = stored["x"], stored["t_unit"], stored["y"]
    assert_close(fused(x, t, y), stored["out_unit"], "fp32")
    assert_close(copy.deepcopy(fused).double()(x.double(), t, y), stored["out_unit_f64"], "fp64")


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 12), (2, 2)])
def test_any_shape_and_one_call_a_block(height: int, width: int) -> None:
    model, (x, t, y) = small().double(), inputs(height, width)
    expected = model(x.double(), t, y)
    with torch.no_grad(), Watched() as seen:
        found = fuse(model)(x.double(), t, y)
    assert_close(found, expected, "fp64")
    assert seen.calls["deformable_sampling"] == 3


def test_the_weights_stay_and_the_layers_come_back() -> None:
    model, given = small(), inputs()
    keys, expected = list(model.state_dict()), model(*given)
    fuse(model)
    assert list(model.state_dict()) == keys
    assert {type(block.attn.sampling) for block in model.blocks} == {FusedDeformableSampling}
    other = small()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*given), expected)
    assert type(unfuse(model)) is FlowDCN
    assert {type(block.attn.sampling) for block in model.blocks} == {DeformableSampling}
    assert torch.equal(model(*given), expected)
