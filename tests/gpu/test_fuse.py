"""Whole fused networks on an NVIDIA GPU, the XL models: as exact as eager, no hidden passes, graphs that repeat.

Run by `make gpu`. No time is judged here.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from tolerances import RELATIVE_L2
from torch import Tensor, nn
from watched import Watched

from convbench import backends, models, precision
from convbench.checks.output import input_sets, relative_error
from convbench.kernels.fused.fuse import fused_copy
from convbench.measure.forward import measure
from convbench.schema import Case, Step
from convbench.timing.clock import Rules

SHORT = Rules(block_s=0.02, warmup_s=0.5, min_s=0.3, cap_s=3, min_blocks=20, half_width=0.005)
Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module", params=["dico_xl", "fcdm_xl", "dic_xl"])
def network(request: pytest.FixtureRequest) -> Iterator[tuple[str, nn.Module]]:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the fused kernels need compute capability 8.0")
    pytest.importorskip("triton")
    yield request.param, models.create(request.param, device="cuda")
    torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def given(id: str, label: str, batch: int = 4) -> Inputs:
    x, t, y = input_sets(Case(id, 256, batch))[0]
    return x.cuda().to(precision.dtype_of(label)), t.cuda(), y.cuda()


def opened(name: str, model: nn.Module, case: Case, inputs: Inputs) -> AbstractContextManager[Step]:
    backend = backends.find(name)
    assert backend.unsupported(case) is None
    return backend.open(model, case, inputs)


@pytest.mark.parametrize("label", ["bf16", "fp16", "tf32", "fp32"])
def test_the_error_against_float64_is_no_larger_than_eagers(network: tuple[str, nn.Module], label: str) -> None:
    """With the same weights, inputs and memory format, whichever computes the 1x1 products. 1.1 allows for chance."""
    id, model = network
    x, t, y = given(id, label)
    rounded = copy.deepcopy(model).to(x.dtype)
    exact = copy.deepcopy(rounded).double()(x.double(), t, y)
    last = copy.deepcopy(rounded).to(memory_format=torch.channels_last)
    with precision.applied(label):
        eager = relative_error(last(x.contiguous(memory_format=torch.channels_last), t, y), exact)
        errors = {
            products: relative_error(fused_copy(rounded, products)(x, t, y), exact)
            for products in ("table", "ours", "library")
        }
    assert max(errors.values()) <= 1.1 * eager, (eager, errors)


@pytest.mark.parametrize("label", ["fp32", "tf32"])
@pytest.mark.parametrize("name", ["triton:winograd", "triton_graphs:winograd"])
def test_winograd_convolutions_give_the_network_and_say_what_they_save(name: str, label: str) -> None:
    """4/9 of the block convolutions' products, as the tables count them; twice the error is Winograd's."""
    case = Case("dic_s", 256, 4, name, label, "cuda")
    eager, fused = measure([replace(case, backend="eager"), case], SHORT)
    assert (eager.status, fused.status) == ("ok", "ok"), fused.reason
    assert fused.error_vs_fp32 is not None and fused.error_vs_fp32 <= RELATIVE_L2[label]
    assert fused.executed_macs is not None and fused.macs_full is not None and fused.winograd_macs is not None
    assert fused.macs is not None
    assert fused.macs_full - fused.executed_macs == pytest.approx(fused.macs - fused.winograd_macs, rel=1e-6)


@pytest.mark.parametrize("products", ["ours", "library"])
def test_no_map_is_copied_but_to_resample_it(network: tuple[str, nn.Module], products: str) -> None:
    """As on a CPU: one copy of the latents and one each way down. The ways up are concatenations."""
    id, model = network
    fused, inputs = fused_copy(copy.deepcopy(model).bfloat16(), products), given(id, "bf16")
    with Watched() as seen:
        out = fused(*inputs)
    assert seen.misplaced == []
    assert [copied.split()[0] for copied in seen.copies] == ["clone"] * 3, seen.copies
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("label", ["bf16", "fp32"])
def test_two_runs_have_the_same_bits_and_a_graph_repeats_them(network: tuple[str, nn.Module], label: str) -> None:
    """Determinism of the sums; a graph follows new inputs and gives what single launches give."""
    id, model = network
    kind, case = precision.dtype_of(label), Case(id, 256, 4, "triton_graphs", label, "cuda")
    model = copy.deepcopy(model).to(kind)
    sets = [(x.cuda().to(kind), t.cuda(), y.cuda()) for x, t, y in input_sets(case)]
    with precision.applied(label):
        with opened("triton", model, case, sets[0]) as step:
            launched = [step(*inputs).clone() for inputs in sets]
            assert torch.equal(step(*sets[0]), launched[0])
        with opened("triton_graphs", model, case, sets[0]) as step:
            replayed = [step(*inputs).clone() for inputs in sets]
            for inputs, earlier, single in zip(sets, replayed, launched, strict=True):
                assert torch.equal(step(*inputs), earlier)
                assert relative_error(earlier, single) <= RELATIVE_L2[label] / 10
    for other in replayed[1:]:
        assert relative_error(other, replayed[0]) > 1e-3


@pytest.mark.parametrize("backend", ["triton", "triton_graphs"])
def test_a_row_of_a_gpu_may_be_ranked(backend: str) -> None:
    """Timed interleaved with eager on the same weights."""
    cases = [Case("dico_s", 256, 8, name, "bf16", "cuda") for name in ("eager", backend)]
    eager, fused = measure(cases, SHORT)
    assert (eager.status, fused.status) == ("ok", "ok"), fused.reason
    assert fused.unranked is None and fused.ratio is not None
    assert fused.error_vs_fp32 is not None
    assert fused.error_vs_fp32 <= RELATIVE_L2["bf16"]
