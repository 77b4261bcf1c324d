"""The references of the fused ops against the models' own modules in float64, and the promises of an op to PyTorch."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convbench.errors import UsageError
from convbench.kernels import all_kernels
from convbench.kernels.layout import require_type
from convbench.kernels.ops.channel_attention import channel_gates
from convbench.kernels.ops.depthwise import depthwise, window_rows
from convbench.kernels.ops.depthwise_gelu import depthwise_gelu
from convbench.kernels.ops.layer_norm import layer_norm_modulate
from convbench.kernels.ops.pointwise import pointwise
from convbench.kernels.ops.pointwise_residual import pointwise_residual
from convbench.kernels.ops.pointwise_squares import pointwise_squares, segment_pixels
from convbench.kernels.ops.response_norm import fold_beta, response_factors
from convbench.kernels.ops.winograd_conv import winograd_weight
from convbench.kernels.schema import DTYPES, Kernel
from convbench.models.dico import DiCoBlock
from convbench.models.dig import DiGBlock
from convbench.models.fcdm import FCDMBlock

NAMES = {
    "depthwise_gelu", "channel_gates", "depthwise_7x7", "depthwise_3x3", "layer_norm_modulate", "pointwise",
    "pointwise_gelu", "pointwise_squares", "response_factors", "pointwise_scaled_residual", "pointwise_residual",
    "deformable_sampling", "winograd_conv",
}  # fmt: skip
KERNELS = [kernel for kernel in all_kernels() if kernel.name in NAMES]
by_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


def small(kernel: Kernel, dtype: torch.dtype = torch.float32, batch: int = 2) -> tuple[Any, ...]:
    """Inputs at 9 x 13 pixels with ragged channels."""
    shape = kernel.shapes[0]
    shape = replace(shape, channels=24, out_channels=shape.out_channels and 40, height=9, width=13)
    return kernel.inputs(shape, batch, dtype, "cpu", 0)


def double(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.double() if isinstance(x, Tensor) else x for x in inputs)


def all_of(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def randomised(block: torch.nn.Module) -> torch.nn.Module:
    """In float64, no parameter at a value that hides a mistake."""
    torch.manual_seed(1)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block.double().eval().requires_grad_(False)


def nhwc(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)


def test_the_ops_of_a_dico_block() -> None:
    """Each against the modules that it replaces, then all of them against the block."""
    block, x, c = randomised(DiCoBlock(24, 2)), nhwc(2, 24, 9, 13), torch.randn(2, 24, dtype=torch.float64)
    shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(c).chunk(6, dim=1)  # slices of one product

    y = layer_norm_modulate(x, shift1, scale1)
    wide = (2, 24, 1, 1)
    torch.testing.assert_close(y, block.norm(x) * (1 + scale1.reshape(wide)) + shift1.reshape(wide), **TIGHT)
    z = pointwise(y, block.conv1.weight.flatten(1), block.conv1.bias)
    torch.testing.assert_close(z, block.conv1(y), **TIGHT)
    y, sums = depthwise_gelu(z, window_rows(block.conv2.weight), block.conv2.bias)
    torch.testing.assert_close(y, F.gelu(block.conv2(z)), **TIGHT)
    torch.testing.assert_close(sums.sum(dim=1), y.sum(dim=(2, 3)), **TIGHT)
    torch.testing.assert_close(sums[:, 5], y[:, :, 8:9, 4:8].sum(dim=(2, 3)), **TIGHT)  # tiles of 8 x 4, row by row
    gates = channel_gates(sums, block.ca[1].weight.flatten(1), block.ca[1].bias, 9 * 13)
    torch.testing.assert_close(gates, block.ca(y).flatten(1), **TIGHT)
    out = pointwise_residual(y, gates, block.conv3.weight.flatten(1), block.conv3.bias, gate1, x)

    y = pointwise(layer_norm_modulate(out, shift2, scale2), block.conv4.weight.flatten(1), block.conv4.bias, True)
    out = pointwise_residual(y, None, block.conv5.weight.flatten(1), block.conv5.bias, gate2, out)
    torch.testing.assert_close(out, block(x, c), **TIGHT)


def test_the_ops_of_an_fcdm_block() -> None:
    block, x, c = randomised(FCDMBlock(24, 3, 7)), nhwc(2, 24, 9, 13), torch.randn(2, 24, dtype=torch.float64)
    shift, scale, gate = block.adaLN_modulation(c).chunk(3, dim=1)

    y = depthwise(x, window_rows(block.dwconv.weight), block.dwconv.bias)
    torch.testing.assert_close(y, block.dwconv(x), **TIGHT)
    y, squares = pointwise_squares(
        layer_norm_modulate(y, shift, scale), block.pwconv1.weight.flatten(1), block.pwconv1.bias
    )
    torch.testing.assert_close(squares.sum(dim=1), y.square().sum(dim=(2, 3)), **TIGHT)
    factors = response_factors(squares, block.grn.gamma.flatten())
    torch.testing.assert_close(factors[:, :, None, None] * y + block.grn.beta, block.grn(y), **TIGHT)
    weight, bias = block.pwconv2.weight.flatten(1), block.pwconv2.bias
    out = pointwise_residual(y, factors, weight, fold_beta(weight, block.grn.beta, bias), gate, x)
    torch.testing.assert_close(out, block(x, c), **TIGHT)


def test_the_depthwise_convolution_of_dig_takes_its_tokens_as_they_lie() -> None:
    block, tokens = randomised(DiGBlock(128, 2, 5)), torch.randn(2, 25, 128, dtype=torch.float64)
    pixels = tokens.transpose(1, 2).unflatten(2, (5, 5))
    y = depthwise(pixels, window_rows(block.dw_conv.weight), block.dw_conv.bias)
    torch.testing.assert_close(y, block.dw_conv(pixels), **TIGHT)
    assert y.flatten(2).transpose(1, 2).is_contiguous()


def winograd(x: Tensor, transformed: Tensor) -> Tensor:
    """F(2x2, 3x3) as Lavin and Gray write it, tile by tile. (N, K, H, W), (16, C, K) -> (N, C, H, W), H and W even"""
    to_points = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], dtype=x.dtype)
    to_pixels = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]], dtype=x.dtype)
    tiles = F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)  # (N, K, H/2, W/2, 4, 4)
    points = torch.einsum("ia,nkhwab,jb->nkhwij", to_points, tiles, to_points)
    products = torch.einsum("nkhwij,ijck->nchwij", points, transformed.unflatten(0, (4, 4)))
    return torch.einsum("pi,nchwij,qj->nchpwq", to_pixels, products, to_pixels).flatten(4).flatten(2, 3)


def test_transformed_weights_give_the_convolution() -> None:
    torch.manual_seed(0)
    x, weight = nhwc(2, 5, 6, 10), nhwc(7, 5, 3, 3)
    torch.testing.assert_close(winograd(x, winograd_weight(weight)), F.conv2d(x, weight, padding=1), **TIGHT)
    assert winograd_weight(weight.bfloat16()).dtype == torch.float32


def test_winograd_executes_four_ninths_of_the_products() -> None:
    """On even maps; an odd side counts as the next even one."""
    kernel = next(kernel for kernel in KERNELS if kernel.name == "winograd_conv")
    for shape in kernel.shapes:
        direct = 2 * 9 * 64 * shape.pixels * shape.channels * shape.out_channels
        assert 9 * kernel.flops(shape, 64) == 4 * direct
    odd = replace(kernel.shapes[0], height=3, width=5)
    assert kernel.flops(odd, 1) == 2 * 16 * 6 * odd.channels * odd.out_channels


TIGHT = {"rtol": 1e-12, "atol": 1e-12}


@by_kernel
@pytest.mark.parametrize("precision", DTYPES)
def test_rounding_once(kernel: Kernel, precision: str) -> None:
    """In each type, the op is its own float64 value of the same inputs, rounded: half an ulp, and float32's noise."""
    inputs = small(kernel, DTYPES[precision])
    found = all_of(kernel.op(*inputs))
    exact = all_of(kernel.reference(*double(inputs)))
    half_ulp = {"fp32": 2**-24, "fp16": 2**-11, "bf16": 2**-8}[precision]
    # The operand of a product with a rounded input (scaled map, mean) was rounded before; sums are of rounded values.
    inner = kernel.name in ("pointwise_scaled_residual", "channel_gates") or len(found) > 1
    for y, expected in zip(found, exact, strict=True):
        rms = expected.square().mean().sqrt()
        limit = half_ulp * expected.abs() * 1.01 + (2e-6 + (4 * half_ulp if inner else 0)) * rms
        assert ((y.double() - expected).abs() <= limit).all()


@by_kernel
def test_eager_computes_the_same(kernel: Kernel) -> None:
    """What the bench compares with is the same function; the second result is only pooled in another way."""
    inputs = small(kernel)
    torch.testing.assert_close(
        all_of(kernel.eager(*inputs))[0], all_of(kernel.op(*inputs))[0], rtol=1e-5, atol=1e-5, check_stride=False
    )


@by_kernel
def test_what_pytorch_asks_of_an_op(kernel: Kernel) -> None:
    """Schema, fake tensors with the same strides, tracing with any batch."""
    torch.library.opcheck(kernel.op, small(kernel))


@by_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_fakes_have_the_strides_and_types_of_results(kernel: Kernel, dtype: torch.dtype) -> None:
    inputs = small(kernel, dtype, batch=1)
    if dtype == torch.float64:  # the vectors too, which are float32 with every shorter type
        inputs = double(inputs)
    fakes = all_of(kernel.op(*(x.to("meta") if isinstance(x, Tensor) else x for x in inputs)))
    for real, fake in zip(all_of(kernel.op(*inputs)), fakes, strict=True):
        assert (real.shape, real.stride(), real.dtype) == (fake.shape, fake.stride(), fake.dtype)


@by_kernel
def test_another_layout_is_refused(kernel: Kernel) -> None:
    """No argument is copied silently: each map as NCHW, each matrix transposed, each vector with a stride."""
    inputs = small(kernel)
    refused = 0
    for index, x in enumerate(inputs):
        if not isinstance(x, Tensor):
            continue
        strided = x.contiguous() if x.dim() == 4 else torch.stack([x, x], dim=-1)[..., 0]
        with pytest.raises(UsageError, match="strides"):
            kernel.op(*inputs[:index], strided, *inputs[index + 1 :])
        refused += 1
    assert refused >= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w, b: (x[0], w, b), r"x must be \(N, C, H, W\), got 3 dimensions"),
        (lambda x, w, b: (x, w[:7], b), r"weight must be \(K\*K, C\) with K = 3, 5 or 7, got \(7, 24\)"),
        (lambda x, w, b: (x, w.half(), b), "weight must be torch.float32, got torch.float16"),
        (lambda x, w, b: (x, w, b[:5]), r"bias must have shape \(24,\), got \(5,\)"),
    ],
)
def test_a_wrong_argument_is_named(change: Callable[..., tuple[Tensor, ...]], message: str) -> None:
    x, weight, bias = small(KERNELS[[k.name for k in KERNELS].index("depthwise_7x7")])
    with pytest.raises(UsageError, match=message):
        depthwise(*change(x, weight, bias))


def test_float64_on_a_gpu_is_refused() -> None:
    """It would be computed in float32 and look like an oracle. A stand-in: this test needs no GPU."""
    for x in (SimpleNamespace(is_cuda=True, dtype=torch.float32), SimpleNamespace(is_cuda=False, dtype=torch.float64)):
        require_type("x", x)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"x must be float32, float16 or bfloat16 on a GPU, got torch.float64"):
        require_type("x", SimpleNamespace(is_cuda=True, dtype=torch.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixels", "expected"), [(1024, 128), (64, 64), (117, 128), (255, 128), (81, 32), (9, 16), (300, 64)]
)
def test_segments_leave_at_most_an_eighth_empty(pixels: int, expected: int) -> None:
    assert segment_pixels(pixels) == expected


def passes(names: dict[str, float], model: str) -> float:
    """Traffic of a block in passes over its map: each kernel's bytes at a large batch, where weights vanish."""
    batch, total = 1 << 20, 0.0
    for kernel in KERNELS:
        for shape in kernel.shapes:
            width = min(shape.channels, shape.out_channels or shape.channels)
            if (shape.model, shape.res, shape.level, width) == (model, 256, 1, WIDTH[model]):
                one = 2 * batch * shape.pixels * width
                total += names.get(kernel.name, 0) * kernel.min_bytes(shape, batch, 2) / one
    return total


WIDTH = {"dico_xl": 416, "fcdm_xl": 512}


def test_the_traffic_of_a_block_is_that_of_the_design() -> None:
    """18 passes for DiCo and 13 for FCDM, as docs/kernels.md counts them; sums and vectors add about a per cent."""
    dico = {"layer_norm_modulate": 2, "pointwise": 1, "depthwise_gelu": 1, "pointwise_scaled_residual": 1}
    assert 18 <= passes({**dico, "pointwise_gelu": 1, "pointwise_residual": 1}, "dico_xl") < 18.15
    fcdm = {"depthwise_7x7": 1, "layer_norm_modulate": 1, "pointwise_squares": 1, "pointwise_scaled_residual": 1}
    assert 13 <= passes(fcdm, "fcdm_xl") < 13.15


def test_every_module_names_its_kernels_once() -> None:
    names = [kernel.name for kernel in all_kernels()]
    assert len(set(names)) == len(names) >= 14
    assert set(names) >= NAMES


def test_without_triton_all_but_the_launch_works() -> None:
    program = """
import sys
sys.modules["triton"] = None
import torch
from convbench.errors import UsageError
from convbench.kernels import all_kernels
from convbench.kernels.ops import layer_norm
x = torch.ones(1, 4, 2, 2).contiguous(memory_format=torch.channels_last)
assert len(all_kernels()) > 8 and layer_norm.layer_norm_modulate(x, torch.ones(1, 4), torch.ones(1, 4)).shape == x.shape
try:
    layer_norm.launch(x, torch.ones(1, 4), torch.ones(1, 4))
except UsageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert "pip install 'convbench[cuda]'" in done.stdout
