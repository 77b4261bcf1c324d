"""DiG with fused depthwise convolutions, modulated norms and modulations; attention and perceptron are unchanged.

Shape letters: B batch, N tokens, C width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models.dig import DiG, DiGBlock
from ...models.layers import NORM_EPS, pixels_from_tokens, require_side
from ..ops.depthwise import depthwise, window_rows
from ..ops.layer_norm import layer_norm_modulate
from .modules import FusedBlock, FusedNetwork, Vectors
from .requirements import mismatch


class FusedDiGBlock(FusedBlock):
    """Replaces ``DiGBlock``. (B, N, C) -> (B, N, C)"""

    attn: nn.Module
    mlp: nn.Module
    dw_conv: nn.Conv2d
    taps: Tensor

    def __init__(self, block: DiGBlock, products: str, convolutions: str) -> None:
        super().__init__(block, products, convolutions)
        self.grid = block.grid

    @staticmethod
    def refuses(block: Any) -> str | None:
        reason = mismatch(block.dw_conv, 3, 5, 7, depthwise=True)
        return reason and f"dw_conv {reason}"

    def derive(self) -> dict[str, Tensor]:
        return {"taps": window_rows(self.dw_conv.weight)}

    def forward(self, x: Tensor, vectors: Vectors) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = vectors
        x = torch.addcmul(x, gate1[:, None], self.attn(modulated(x, shift1, scale1)))
        x = torch.addcmul(x, gate2[:, None], self.mlp(modulated(x, shift2, scale2)))
        pixels = x.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # (B, C, grid, grid) in channels_last
        return depthwise(pixels, self.taps, self.dw_conv.bias).flatten(2).transpose(1, 2)


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalize and modulate tokens, as the pixels of a map of width 1. (B, N, C), (B, C), (B, C) -> (B, N, C)"""
    return layer_norm_modulate(tokens.transpose(1, 2)[..., None], shift, scale, NORM_EPS)[..., 0].transpose(1, 2)


class FusedDiG(FusedNetwork, DiG):
    """``DiG`` with fused blocks and the same inputs x (B, C, H, W), t (B,), y (B,), results and errors."""

    def sharing(self) -> Sequence[Sequence[nn.Module]]:
        return ([*self.blocks, self.final_layer],)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "DiG")
        (vectors,) = self.modulations(self.t_embedder(t) + self.y_embedder(y))
        x = self.x_embedder(x) + self.pos_embed  # (B, N, C)
        for index, block in enumerate(self.blocks):
            x = block(x, next(vectors)).flip(1)
            if index % 2:
                x = x.unflatten(1, (self.grid, self.grid)).transpose(1, 2).flatten(1, 2)
        x = self.final_layer.linear(modulated(x, *next(vectors)))
        return pixels_from_tokens(x, self.grid, self.patch)
