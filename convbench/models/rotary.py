"""Rotary position codes of a square token grid, and the attention that uses them in DiT-LLaMA and U-DiT."""

import torch
from torch import Tensor, nn

THETA = 10_000


class Rotary(nn.Module):
    """Turn each pair of adjacent channels by an angle that grows with the token's column or row. (..., N, D) alike.

    Pairs take turns: the first by the column, the second by the row, and so on. Pairs 2i and 2i + 1 turn by
    THETA^(-4i / D) a step. As complex numbers: pair times exp(i angle) (Su et al. 2021, in two dimensions).
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
        """One a pair: the released code multiplies complex numbers, and a profiler counts each product as one."""
        return {"mul": x.numel() // 2}
