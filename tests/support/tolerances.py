"""How far a result may lie from its oracle: the one table of the tests, a row for each precision.

Outputs have a standard deviation of 1. Other thread counts, memory formats and convolution backends move a float32
output by up to 8e-6 (rms 1e-6), a wrong norm eps moves it by only 2e-5 (rms 5e-6): see data/README.md.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    atol: float  # of the largest difference
    rms: float  # of the root mean square of all differences


TOLERANCES = {
    "fp32": Tolerance(atol=2e-5, rms=3e-6),
    # Float32 lies up to 2.8e-6 (rms; largest 1.7e-5) from float64 with SSE4, AVX2 and AVX-512, the stored output 1.0e-6
    # (6e-6): two results may differ by the sum.
    "fp32 fcdm_xl": Tolerance(atol=2.3e-5, rms=3.9e-6),
    "fp64": Tolerance(atol=1e-9, rms=1e-10),
    "guidance": Tolerance(atol=4e-5, rms=6e-6),  # float32, a difference of two outputs times 1.5
    # Relative to the rms of the oracle; outputs of up to 1024 tokens, about four times as far as any was seen.
    "gla fp32": Tolerance(atol=8e-6, rms=6e-7),
    "gla fp32, strong decay": Tolerance(atol=4e-5, rms=4e-6),  # exponents of up to 75 inside a chunk
    "gla fp64": Tolerance(atol=1e-11, rms=1e-12),
    "scan fp32": Tolerance(atol=8e-6, rms=6e-7),  # relative, as above
    "scan fp64": Tolerance(atol=1e-10, rms=1e-12),
    # Relative, as above; F(4x4,3x3) over 384 channels is 1.3e-6 off (rms), direct convolution half of that.
    "conv3x3 fp32": Tolerance(atol=3e-5, rms=4e-6),
    "gla bf16": Tolerance(atol=4e-2, rms=4e-3),  # one rounding of a result: 2^-9 of its size
}

# The limits of the program, written down again: a test that took them from convbench.tolerances would pass with any.
RELATIVE_L2 = {"fp32": 5e-6, "tf32": 1e-2, "torch-default": 1e-2, "bf16": 5e-2, "fp16": 1e-2, "int8": 1e-1}
TRAJECTORY_L2 = {"fp32": 5e-6, "tf32": 1e-2, "torch-default": 1e-2, "bf16": 5e-2, "fp16": 4e-3, "int8": 2e-1}
FEATURE_SHIFT = {"fp32": 1e-5, "tf32": 4e-3, "torch-default": 4e-3, "bf16": 4e-2, "fp16": 2e-3}


def assert_close(found: Tensor, expected: Tensor, row: str, scale: float = 1.0) -> None:
    """Compare in float64 with a row of the table, times ``scale``. NaN is never close."""
    assert found.shape == expected.shape, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    difference = found.double() - expected.double()
    largest, rms = difference.abs().max().item(), difference.square().mean().sqrt().item()
    limit = TOLERANCES[row]
    assert largest <= limit.atol * scale, f"largest difference {largest:.2e}, {row} allows {limit.atol * scale:.1e}"
    assert rms <= limit.rms * scale, f"rms difference {rms:.2e}, {row} allows {limit.rms * scale:.1e}"


def assert_close_to_scale(found: Tensor, expected: Tensor, row: str) -> None:
    """The same, relative to the root mean square of what is expected."""
    assert_close(
        found, expected, row, scale=torch.linalg.vector_norm(expected.double()).item() / expected.numel() ** 0.5
    )
