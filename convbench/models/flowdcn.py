"""FlowDCN: a backbone of deformable convolutions, in which each token places its own 3x3 window.

Paper: arXiv:2410.22655. Variants, sources and printed numbers: ``flowdcn.toml``.
Shape letters: B batch, H W token grid, N = H W tokens, C width, G groups, K = 9 samples per token.
"""

import torch
from torch import Tensor, nn

from .deformable import DeformableSampling
from .gated_mlp import GatedMlp
from .layers import (
    ROUNDED_UP_2026,
    LabelEmbedder,
    PatchEmbed,
    RMSNorm,
    TimestepEmbedder,
    TokenHead,
    modulate,
    modulation,
    pixels_from_tokens,
    require_multiple,
)

SIDE = 3  # of the window that the offsets are relative to
SAMPLES = SIDE**2
REACH = 6  # tokens: maximum distance of a window's samples from its centre


class DeformableAttention(nn.Module):
    """Weighted sum of values at nine positions per token and group. BNC -> BNC.

    A position relative to the token is (offset + window) REACH sigmoid(scale + scale of the group); offset, scale and
    weight are linear functions of the token. The weights do not depend on other tokens and have no softmax.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.deformables_prior = nn.Parameter(torch.empty(1, 1, 1, 1, SAMPLES, 2), requires_grad=False)
        self.deformables_scale = nn.Parameter(torch.zeros(1, 1, 1, groups, 1, 1))
        self.fill_tables()
        self.v = nn.Linear(width, width)
        self.qk_deformables = nn.Linear(width, groups * SAMPLES * 2)
        self.qk_scales = nn.Linear(width, groups * SAMPLES, bias=False)
        self.qk_weights = nn.Linear(width, groups * SAMPLES)
        self.sampling = DeformableSampling()
        self.out = nn.Linear(width, width)

    def fill_tables(self) -> None:
        """Fill in the 3x3 window around a token, row by row, each position as (x, y)."""
        reach = torch.arange(SIDE, dtype=torch.float32, device="cpu") - SIDE // 2
        y, x = torch.meshgrid(reach, reach, indexing="ij")
        self.deformables_prior.data.copy_(torch.stack([x, y], dim=-1).reshape(self.deformables_prior.shape))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        grid = (x.shape[0], height, width, self.groups)
        wide = torch.promote_types(x.dtype, torch.float32)  # at a distance of six tokens, bfloat16 has steps of 1/32
        offsets = self.qk_deformables(x).reshape(*grid, SAMPLES, 2).to(wide)
        scales = self.qk_scales(x).reshape(*grid, SAMPLES, 1).to(wide) + self.deformables_scale
        positions = (offsets + self.deformables_prior) * scales.sigmoid() * REACH
        weights = self.qk_weights(x).reshape(*grid, SAMPLES)
        y = self.sampling(self.v(x).reshape(*grid, -1), positions, weights)  # (B, H, W, G, C/G)
        return self.out(y.flatten(3).flatten(1, 2))


class FlowDCNBlock(nn.Module):
    """Deformable sampling, then gated perceptron; both modulated and gated by the condition. BNC, BC -> BNC."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attn = DeformableAttention(width, groups)
        self.norm2 = RMSNorm(width)
        self.mlp = GatedMlp(width, 8 * width // 3)
        self.adaLN_modulation = modulation(width, chunks=6)

    def forward(self, x: Tensor, c: Tensor, height: int, width: int) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), height, width)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FlowDCN(nn.Module):
    """Patches to tokens, ``depth`` blocks, tokens to pixels; without position code, for any height and width.

    x: (B, in_channels, H, W) latents between noise and data, sides divisible by ``patch``; t: (B,) times from 0 (noise)
    to 1 (data), not multiplied by 1000; y: (B,) class indices, ``num_classes`` for none. Returns the velocity,
    (B, in_channels, H, W): the last layer has twice as many channels, and half of its output is dropped. Raises
    ValueError on other sides.
    """

    def __init__(
        self, width: int, depth: int, groups: int, patch: int, in_channels: int = 4, num_classes: int = 1000
    ) -> None:
        super().__init__()
        self.patch = patch
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width, ROUNDED_UP_2026)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.final_layer = TokenHead(width, patch, 2 * in_channels)
        self.blocks = nn.ModuleList(FlowDCNBlock(width, groups) for _ in range(depth))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, self.patch, "FlowDCN")
        channels, height, width = x.shape[1], x.shape[2] // self.patch, x.shape[3] // self.patch
        c = self.t_embedder(t) + self.y_embedder(y)  # (B, C)
        x = self.x_embedder(x)  # (B, N, C)
        for block in self.blocks:
            x = block(x, c, height, width)  # (B, N, C)
        x = self.final_layer(x, c)  # (B, N, patch * patch * 2 * in_channels)
        return pixels_from_tokens(x, (height, width), self.patch)[:, :channels]
