"""The precision of kernels by their names, from real profiles on an NVIDIA GPU."""

import pytest
import torch
from torch.nn import functional as F

from convbench import precision
from convbench.checks.kernels import EXPECTED, check_precision, dominant_precisions, profile_kernels


@pytest.mark.parametrize("label", sorted(EXPECTED))
def test_kernels_on_a_gpu_match_the_label(label: str) -> None:
    if reason := precision.unsupported(label, "cuda"):
        pytest.skip(reason)
    kind = precision.dtype_of(label)
    x = torch.randn(32, 256, 32, 32, device="cuda").to(kind)
    w3, w1 = torch.randn(256, 256, 3, 3, device="cuda").to(kind), torch.randn(256, 256, 1, 1, device="cuda").to(kind)
    m = torch.randn(2048, 2048, device="cuda").to(kind)

    def step(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        F.conv2d(F.conv2d(x, w3, padding=1), w1)
        return m @ m

    with precision.applied(label), torch.inference_mode():
        kernels = profile_kernels(step, (x, x, x))
    for kernel in kernels:
        print(kernel)
    conv, matmul = EXPECTED[label]
    assert {kernel.operator for kernel in kernels} >= {"aten::cudnn_convolution", "aten::mm"}
    assert dominant_precisions(kernels) == {"conv": conv, "matmul": matmul}, [kernel.name for kernel in kernels]
    assert check_precision(label, kernels) is None


def test_kernels_on_a_gpu_that_do_not_match_the_label_are_found() -> None:
    if reason := precision.unsupported("tf32", "cuda"):
        pytest.skip(reason)
    x, w = torch.randn(32, 256, 32, 32, device="cuda"), torch.randn(256, 256, 3, 3, device="cuda")
    with precision.applied("tf32"), torch.inference_mode():
        kernels = profile_kernels(lambda x, t, y: F.conv2d(x, w, padding=1), (x, x, x))
    found = check_precision("fp32", kernels)
    assert found and found.code == "PREC", [kernel.name for kernel in kernels]
