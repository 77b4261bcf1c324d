"""JiT: a plain transformer over large patches of pixels, which predicts the clean image.

Paper: arXiv:2511.13720. Variants, sources and printed numbers: ``jit.toml``.
Shape letters: B batch, N tokens, C width, D channels of a head, S height and width in pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gated_mlp import PackedGatedMlp
from .layers import (
    ROUNDED_UP_2026,
    LabelEmbedder,
    RMSNorm,
    TimestepEmbedder,
    modulate,
    modulation,
    pixels_from_tokens,
    position_table,
    require_side,
)

CONTEXT_TOKENS = 32
THETA = 10_000


class Rotary(nn.Module):
    """Rotate each pair of adjacent channels by an angle proportional to the row or column. (..., N, D) -> (..., N, D).

    The first half of the channels uses the row, the second the column; pair i of a half rotates by THETA^(-4i / D) per
    step (Su et al. 2021, in two dimensions). The first ``CONTEXT_TOKENS`` rows of the table rotate nothing; a sequence
    without context tokens uses the rows after them.
    """

    table: Tensor

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("table", torch.empty(2, CONTEXT_TOKENS + grid**2, width), persistent=False)
        self.fill_tables()

    def fill_tables(self) -> None:
        width, half = self.table.shape[-1], self.table.shape[-1] // 2
        # In float32, as in the released code: a table rounded once from float64 changes an output by 2e-8.
        frequencies = 1 / THETA ** (torch.arange(0, half, 2, device="cpu").float() / half)
        angles = torch.arange(self.grid, device="cpu").float()[:, None] * frequencies  # (grid, D/4)
        angles = angles.repeat_interleave(2, dim=1)  # (grid, D/2)
        row = angles[:, None].expand(self.grid, self.grid, half)
        column = angles[None].expand(self.grid, self.grid, half)
        angles = torch.cat([row, column], dim=2).reshape(self.grid**2, width)
        sign = torch.tensor([-1.0, 1.0], device="cpu").repeat(half)
        still = torch.tensor([1.0, 0.0], device="cpu")[:, None, None].expand(2, CONTEXT_TOKENS, width)
        self.table.copy_(torch.cat([still, torch.stack([angles.cos(), angles.sin() * sign])], dim=1))

    def forward(self, x: Tensor) -> Tensor:
        cos, sin = self.table[:, -x.shape[-2] :]
        return x * cos + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * sin


class Attention(nn.Module):
    """Multi-head self-attention with normalised and rotated q and k. BNC -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_norm = RMSNorm(width // heads)
        self.k_norm = RMSNorm(width // heads)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def extra_products(self, x: Tensor, rotary: Rotary) -> int:
        """Count the products that scale the scores of x (B, N, C) in the released, unfused attention."""
        return self.heads * x.shape[1] ** 2

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, D) each
        y = F.scaled_dot_product_attention(rotary(self.q_norm(q)), rotary(self.k_norm(k)), v)
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class JiTBlock(nn.Module):
    """Attention, then gated perceptron; both modulated and gated by the condition. BNC, BC -> BNC."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = RMSNorm(width)
        self.mlp = PackedGatedMlp(width, hidden)
        self.adaLN_modulation = modulation(width, chunks=6)

    def forward(self, x: Tensor, c: Tensor, rotary: Rotary) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), rotary)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class BottleneckPatchEmbed(nn.Module):
    """Projection of each patch to a few channels, then to a token. (B, C, S, S) -> (B, N, width)."""

    def __init__(self, patch: int, in_channels: int, bottleneck: int, width: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(in_channels, bottleneck, patch, stride=patch, bias=False)
        self.proj2 = nn.Conv2d(bottleneck, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj2(self.proj1(x)).flatten(2).transpose(1, 2)


class Head(nn.Module):
    """Norm, modulation and projection of each token to its pixels. (B, N, C), (B, C) -> (B, N, p*p*out)."""

    def __init__(self, width: int, patch: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(width)
        self.linear = nn.Linear(width, patch * patch * out_channels)
        self.adaLN_modulation = modulation(width, chunks=2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class JiT(nn.Module):
    """Patches to tokens, ``depth`` blocks, tokens to pixels; with context tokens from block ``context_from`` on.

    x: (B, in_channels, S, S) pixels between noise and image, of the side S = res that the tables were made for;
    t: (B,) times from 0 (noise) to 1 (image); y: (B,) class indices, ``num_classes`` for none. Returns
    (B, in_channels, S, S): the predicted image. Raises ValueError on another side.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        bottleneck: int,
        context_from: int,
        res: int = 256,
        in_channels: int = 3,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.side, self.patch, self.context_from = res, patch, context_from
        self.grid = res // patch
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid**2, width), requires_grad=False)
        self.in_context_posemb = nn.Parameter(torch.zeros(1, CONTEXT_TOKENS, width))
        self.fill_tables()
        self.t_embedder = TimestepEmbedder(width, ROUNDED_UP_2026)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.x_embedder = BottleneckPatchEmbed(patch, in_channels, bottleneck, width)
        self.rotary = Rotary(width // heads, self.grid)
        self.blocks = nn.ModuleList(JiTBlock(width, heads, int(8 * width / 3)) for _ in range(depth))
        self.final_layer = Head(width, patch, in_channels)

    def fill_tables(self) -> None:
        self.pos_embed.data.copy_(position_table(self.pos_embed.shape[2], self.grid))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "JiT", factor=1)
        label = self.y_embedder(y)  # (B, C)
        c = self.t_embedder(t) + label
        x = self.x_embedder(x) + self.pos_embed  # (B, N, C)
        for index, block in enumerate(self.blocks):
            if index == self.context_from:
                x = torch.cat([label[:, None] + self.in_context_posemb, x], dim=1)  # (B, 32 + N, C)
            x = block(x, c, self.rotary)
        x = self.final_layer(x[:, CONTEXT_TOKENS:], c)  # (B, N, patch * patch * in_channels)
        return pixels_from_tokens(x, self.grid, self.patch)
