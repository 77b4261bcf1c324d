"""Mamba layer of DiS, DiM and DiMSUM. Attribute names are those of the official checkpoints.

Shape letters: B batch, L tokens, C width, E = 2 C inner width, N state values per channel.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .selective_scan import SelectiveScan

EXPAND = 2
STATE = 16  # N
NORM_EPS = 1e-5


class Mamba(nn.Module):
    """Projection, causal depthwise convolution, selective scan gated by the other half, projection. BLC -> BLC.

    ``both_ways``: a second convolution and scan with separate weights runs over the reversed tokens; both results are
    added before the last projection and share it and the first.
    ``condition``: width of a vector (B, condition) beside the tokens, which is projected to E and placed before the
    first token, where the convolution otherwise sees zeros. The published code does not show how the authors' CUDA
    extension uses it: this is our interpretation.
    """

    def __init__(self, width: int, kernel: int, both_ways: bool = False, condition: int | None = None) -> None:
        super().__init__()
        inside, rank = EXPAND * width, -(-width // 16)
        self.rank, self.kernel, self.both_ways = rank, kernel, both_ways

        def convolution() -> nn.Conv1d:
            # Padded on both sides, as in the released code; the outputs after the last token are removed.
            return nn.Conv1d(inside, inside, kernel, groups=inside, padding=0 if condition else kernel - 1)

        self.A_log = nn.Parameter(torch.empty(inside, STATE))
        self.D = nn.Parameter(torch.ones(inside))
        if both_ways:
            self.A_b_log = nn.Parameter(torch.empty(inside, STATE))
            self.D_b = nn.Parameter(torch.ones(inside))
        self.in_proj = nn.Linear(width, 2 * inside, bias=False)
        self.conv1d = convolution()
        self.x_proj = nn.Linear(inside, rank + 2 * STATE, bias=False)
        self.dt_proj = nn.Linear(rank, inside)
        if condition:
            self.cond_proj = nn.Linear(condition, inside)
        if both_ways:
            self.conv1d_b = convolution()
            self.x_proj_b = nn.Linear(inside, rank + 2 * STATE, bias=False)
            self.dt_proj_b = nn.Linear(rank, inside)
        self.out_proj = nn.Linear(inside, width, bias=False)
        self.core = SelectiveScan()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x, z = self.in_proj(x).mT.chunk(2, dim=1)  # (B, E, L) each
        start = None
        if condition is not None:
            start = self.cond_proj(condition)[:, :, None].expand(-1, -1, self.kernel - 1)
        y = self._scan(x, z, start, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        if self.both_ways:
            y = y + self._scan(
                x.flip(2), z.flip(2), start, self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b
            ).flip(2)
        return self.out_proj(y.mT)

    def _scan(
        self,
        x: Tensor,
        z: Tensor,
        start: Tensor | None,
        conv: nn.Conv1d,
        x_proj: nn.Linear,
        dt_proj: nn.Linear,
        a_log: Tensor,
        skip: Tensor,
    ) -> Tensor:
        tokens = x.shape[2]
        if start is not None:
            x = torch.cat([start, x, torch.zeros_like(start)], dim=2)
        x = F.silu(conv(x)[:, :, :tokens])
        step, b, c = x_proj(x.mT).split([self.rank, STATE, STATE], dim=2)  # (B, L, rank or N)
        d = F.softplus(dt_proj(step)).mT  # (B, E, L)
        return self.core(x, d, -a_log.exp(), b.mT, c.mT, skip, z)


def add_residual(x: Tensor, residual: Tensor | None) -> Tensor:
    """Add x to the sum of all layers so far, in float32 or wider, as it grows with the depth. (B, L, C) each"""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x if residual is None else x + residual


def unpatchify(tokens: Tensor, grid: int, patch: int) -> Tensor:
    """Assemble an image from square patches: (B, grid*grid, patch*patch*C) -> (B, C, grid*patch, grid*patch)."""
    b, _, width = tokens.shape
    parts = tokens.reshape(b, grid, grid, patch, patch, width // patch**2)
    return parts.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, grid * patch, grid * patch)
