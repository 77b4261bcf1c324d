"""Rotary position codes of a square token grid, for DiT-LLaMA and U-DiT."""

import torch
from torch import Tensor, nn

THETA = 10_000


class Rotary(nn.Module):
    """Rotate each pair of adjacent channels by an angle proportional to column or row. (..., N, D) -> (..., N, D).

    Pairs alternate between column and row. Pairs 2i and 2i + 1 rotate by THETA^(-4i / D) per step. As complex numbers:
    pair times exp(i angle) (Su et al. 2021, in two dimensions).
    """

    table: Tensor

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("table", torch.empty(2, grid**2, width), persistent=False)
        self.fill_tables()

    def fill_tables(self) -> None:
        width = self.table.shape[-1]
        frequencies = THETA ** (-torch.arange(0, width, 4, dtype=torch.float64, device="cpu") / width)
        token = torch.arange(self.grid**2, device="cpu")
        place = torch.stack([token % self.grid, token // self.grid], dim=1).double()  # (N, 2): column, row
        angles = (frequencies[:, None] * place[:, None, :]).flatten(1)  # (N, D/2)
        cos, sin = angles.cos(), angles.sin()
        self.table.copy_(torch.stack([torch.stack([cos, cos], -1), torch.stack([-sin, sin], -1)]).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        cos, sin = self.table
        return x * cos + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * sin

    def count_macs(self, x: Tensor) -> dict[str, int]:
        """Count one product per pair: the released code multiplies complex numbers, which a profiler counts as one."""
        return {"mul": x.numel() // 2}
