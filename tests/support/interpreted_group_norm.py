"""The kernels of a DiC block in Triton's interpreter against float64, and mutations of them that must be seen.

Not collected by itself: ``test_group_norm.py`` runs it in a process with TRITON_INTERPRET=1. Inputs lie between
NaN and new tensors are full of NaN, so that a wrong mask or an element that is never written is seen.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from mutated_kernels import mutated
from torch import Tensor

from convbench.kernels.language import INTERPRETED, gelu, jit, tl
from convbench.kernels.ops import gate_residual, group_norm, group_norm_apply, group_norm_merge, group_norm_moments
from convbench.kernels.ops.gate_residual import gate_residual_kernel
from convbench.kernels.ops.group_norm_apply import apply_kernel
from convbench.kernels.ops.group_norm_merge import merge_kernel
from convbench.kernels.ops.group_norm_moments import moments_kernel

assert INTERPRETED, "run through test_group_norm.py: the kernels were not made for the interpreter"
torch.use_deterministic_algorithms(True)  # fills new tensors with NaN

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Relative L2. fp16 rounds as a GPU does, to 2.1e-4 of a normal number; the interpreter cuts float32 to bf16 instead of
# rounding it, which comes to 3.4e-3.
LIMIT = {"fp32": 2.5e-7, "fp16": 2.5e-4, "bf16": 4.5e-3}


def between_nan(x: Tensor) -> Tensor:
    """The same values and strides inside a larger piece of memory full of NaN."""
    room = max(256, x.numel())
    memory = torch.full((x.untyped_storage().nbytes() // x.element_size() + 2 * room,), float("nan"), dtype=x.dtype)
    return memory.as_strided(x.shape, x.stride(), room).copy_(x)


def drawn(seed: int, dtype: torch.dtype) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def next_of(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return between_nan((scale * torch.randn(shape, generator=generator) + shift).to(dtype))

    return next_of


def norm(n: int, c: int, groups: int, h: int, w: int, bias: bool, modulated: bool, size: float = 1.0) -> Any:
    """A mean as large as the deviation, so that a wrong mean shows; vectors are slices of a wider matrix."""

    def arguments(dtype: torch.dtype) -> tuple[Any, ...]:
        new = drawn(c, dtype)
        x = new(n, h, w, c, scale=size, shift=size).permute(0, 3, 1, 2)
        weight, beta = new(c, scale=0.2, shift=1.0), new(c)
        wider = new(n, 2 * c + 3)
        vectors = (wider[:, 3 : c + 3], wider[:, c + 3 :]) if modulated else (None, None)
        return x, weight, beta, groups, 1e-5, new(c, scale=size) if bias else None, *vectors

    return group_norm, arguments


def gated(n: int, c: int, h: int, w: int, residual_bias: bool) -> Any:
    def arguments(dtype: torch.dtype) -> tuple[Any, ...]:
        new = drawn(c, dtype)
        x, residual = (new(n, h, w, c).permute(0, 3, 1, 2) for _ in range(2))
        return x, new(c), new(n, 3 * c)[:, c : 2 * c], residual, new(c) if residual_bias else None

    return gate_residual, arguments


CASES = {
    "two blocks of pixels, the last ragged": norm(1, 72, 6, 11, 13, bias=True, modulated=True),
    "one block, ragged channels": norm(2, 40, 10, 9, 13, bias=True, modulated=True),
    "fewer pixels than a tile": norm(2, 24, 2, 3, 5, bias=False, modulated=False),
    "without a bias": norm(1, 24, 6, 5, 7, bias=False, modulated=True),
    "small values, where eps counts": norm(1, 24, 2, 5, 7, bias=True, modulated=True, size=3e-3),
    "blocks that are full": norm(1, 24, 2, 16, 16, bias=True, modulated=True),
    "one pixel": norm(1, 48, 4, 1, 1, bias=True, modulated=False),
    "gate, ragged": gated(2, 40, 9, 13, residual_bias=True),
    "gate, two blocks of channels": gated(1, 144, 3, 5, residual_bias=False),
}


def error(case: str, dtype: torch.dtype) -> float:
    """Relative L2 error of a launch against the reference in float64; infinite where anything is NaN."""
    module, arguments = CASES[case]
    values = arguments(dtype)
    found = module.launch(*values)
    exact = module.reference(*(a.double() if isinstance(a, Tensor) else a for a in values))
    assert found.shape == exact.shape
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    return float((found.double() - exact).norm() / exact.norm()) if found.isfinite().all() else float("inf")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", DTYPES)
def test_a_kernel_gives_what_its_reference_gives(case: str, precision: str) -> None:
    assert error(case, DTYPES[precision]) <= LIMIT[precision]


def test_a_sample_does_not_depend_on_its_batch() -> None:
    """Bit for bit: how sums are split depends on the size of the map alone."""
    _, arguments = CASES["one block, ragged channels"]
    x, weight, beta, groups, eps, bias, scale, shift = arguments(torch.float32)
    both = group_norm.launch(x, weight, beta, groups, eps, bias, scale, shift)
    alone = group_norm.launch(x[1:], weight, beta, groups, eps, bias, scale[1:], shift[1:])
    assert torch.equal(both[1:], alone)


@jit
def gelu_of(x, y, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y + at, gelu(tl.load(x + at)))


def test_gelu_is_exact_to_float32() -> None:
    """No worse than the formula with the error function in float32, and as good far out, where nothing is left."""
    x = torch.linspace(-12, 12, 2**15)
    y = torch.empty_like(x)
    gelu_of[(1,)](x, y, N=2**15)
    exact = torch.nn.functional.gelu(x.double())
    usual = 0.5 * x * (1 + torch.erf(x * 2**-0.5))
    assert (y - exact).abs().max() <= (usual - exact).abs().max() <= 6e-7
    assert (y - exact).square().mean() <= (usual - exact).square().mean()
    assert (y[x < -6] - exact[x < -6]).abs().max() <= 1e-9
    far = torch.tensor([-1e4, -200.0, -50.0, 0.0, 50.0, 200.0, 1e4, float("nan")])
    out = torch.empty_like(far)
    gelu_of[(1,)](far, out, N=8)
    torch.testing.assert_close(out, far.clamp_min(0), rtol=0, atol=0, equal_nan=True)


BLOCKS, FEW, SMALL, PLAIN, GATE = (
    "two blocks of pixels, the last ragged",
    "fewer pixels than a tile",
    "small values, where eps counts",
    "one block, ragged channels",
    "gate, ragged",
)
LEFT = "pixels - block * ROWS"
Z = "x * factor[None, :] + offset[None, :]"
TANH = f"z = {Z}\n    y = z * tl.sigmoid(1.5957691216 * (z + 0.044715 * z * z * z))"
# Mistake -> kernel, text, its replacement, the case that must see it. None of them writes outside its tensors: that
# would end the process.
MUTATIONS = {
    "eps left out": (merge_kernel, "variance + eps", "variance", SMALL),
    "eps of the layer norms": (merge_kernel, "variance + eps", "variance + 1e-6", SMALL),
    "bias left out of the mean": (merge_kernel, "other=0.0) + bias[None, :]", "other=0.0)", PLAIN),
    "last block's rows miscounted": (moments_kernel, f"tl.minimum({LEFT}, ROWS)", "(ROWS + 0 * c)", BLOCKS),
    "rows beyond the map deviate": (moments_kernel, "tl.where(inside, away, 0.0)", "away", FEW),
    "deviation between blocks left out": (merge_kernel, "squares + count * away * away", "squares", BLOCKS),
    "blocks weighed alike": (merge_kernel, "count * means", "ROWS * means", BLOCKS),
    "a channel less in a group": (merge_kernel, "known = member < members", "known = member < members - 1", FEW),
    "tanh for erf": (apply_kernel, f"y = gelu({Z})", TANH, PLAIN),
    "scale without its one": (merge_kernel, "scale = 1.0 + tl.load", "scale = tl.load", PLAIN),
    "stride of another matrix": (merge_kernel, "n * scale_stride", "n * channels", PLAIN),
    "pixels and channels swapped": (moments_kernel, "row[:, None] * channels + c", "row[:, None] + pixels * c", PLAIN),
    "every sample the first": (moments_kernel, "at = n * pixels", "at = 0 * n * pixels", PLAIN),
    "bias of the convolution left out": (gate_residual_kernel, "(x + bias[None, :])", "x", GATE),
    "gate of another sample": (gate_residual_kernel, "n * gate_stride", "0 * gate_stride", GATE),
    "residual's bias left out": (gate_residual_kernel, "if HAS_RESIDUAL_BIAS:", "if False:", GATE),
    "a column left out": (gate_residual_kernel, "known = c < channels", "known = c < channels - 1", GATE),
}  # fmt: skip


MODULES = (gate_residual, group_norm_apply, group_norm_merge, group_norm_moments)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # of the sigmoid in the tanh form
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_is_seen(mutation: str, tmp_path: Path) -> None:
    kernel, old, new, case = MUTATIONS[mutation]
    with mutated(kernel, old, new, tmp_path / "mutated.py", MODULES):
        assert not error(case, torch.float32) <= 100 * LIMIT["fp32"]
