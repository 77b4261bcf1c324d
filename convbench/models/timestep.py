"""Sinusoidal code of a timestep for any number of channels; each family has its own perceptron after it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SinusoidalCode(nn.Module):
    """Code cos(t f_i), then sin(t f_i), with f_i = exp(-ln(10000) i / F) for i < F = width / 2. (B,) -> (B, width).

    Computed in float32 in every precision: half precision cannot represent timesteps up to 999. No weights, no keys.
    Do not assign it to an attribute ``code`` of a network: torch.export's graphs have another of that name.
    """

    frequencies: Tensor

    def __init__(self, width: int, rounded_up: Sequence[int] = ()) -> None:
        """Prepare the table; entries ``rounded_up`` are the float32 number above the nearest, see layers.ROUNDED_UP."""
        super().__init__()
        self.rounded_up = list(rounded_up)
        # Whole multiples of 2^-37, the spacing of the smallest: exact as float32 and, unlike a float buffer,
        # not rounded by .half() or .bfloat16().
        self.register_buffer("frequencies", torch.empty(width // 2, dtype=torch.int64), persistent=False)
        self.fill_tables()

    def fill_tables(self) -> None:
        count = self.frequencies.numel()
        exponents = -math.log(10_000) * torch.arange(count, dtype=torch.float32, device="cpu") / count
        # Taken in float64 and rounded: the last digit of a float32 exp depends on the processor.
        table = exponents.double().exp().float()
        table[self.rounded_up] = table[self.rounded_up].nextafter(torch.ones(1, device="cpu"))
        self.frequencies.copy_((table.double() * 2**37).long())

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * (self.frequencies.double() * 2**-37).float()
        return torch.cat([angles.cos(), angles.sin()], dim=1)
