"""The error of products and convolutions on an NVIDIA GPU, which is that of their switch or type."""

import pytest
import torch

from convbench.precision import TF32_FLAGS, applied, dtype_of, unsupported


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("precision", ["fp32", "tf32", "torch-default"])
def test_a_product_and_a_convolution_have_the_error_of_their_switch(precision: str) -> None:
    """TF32 keeps 10 bits of a factor: relative errors near 3e-4; FP32 stays below 1e-5. Needs Ampere or newer."""
    if reason := unsupported(precision, "cuda"):
        pytest.skip(reason)
    generator = torch.Generator("cuda").manual_seed(0)
    a, b = (torch.randn(1024, 1024, device="cuda", generator=generator) for _ in range(2))
    x = torch.randn(8, 128, 32, 32, device="cuda", generator=generator)
    w = torch.randn(128, 128, 3, 3, device="cuda", generator=generator)
    exact_product = a.double() @ b.double()
    exact_convolution = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)
    with applied(precision):
        product = relative_error(a @ b, exact_product)
        convolution = relative_error(torch.nn.functional.conv2d(x, w, padding=1), exact_convolution)
    conv, matmul = TF32_FLAGS[precision]
    assert (convolution > 1e-5, product > 1e-5) == (conv, matmul), (convolution, product)


def test_bf16_and_fp16_have_different_errors() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    a, b = (torch.randn(1024, 1024, device="cuda", generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    errors = {name: relative_error(a.to(dtype_of(name)) @ b.to(dtype_of(name)), exact) for name in ("bf16", "fp16")}
    assert 1e-3 < errors["bf16"] < 1e-2
    assert 1e-4 < errors["fp16"] < 1e-3
