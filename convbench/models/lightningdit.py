"""LightningDiT: DiT with the parts of a language model, for latents of 32 channels at a sixteenth of the image.

Paper: arXiv:2501.01423. Variants, sources and printed numbers: ``lightningdit.toml``.
Shape letters: B batch, N tokens, C width, D channels of a head, S latent height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gated_mlp import PackedGatedMlp
from .layers import (
    ROUNDED_UP_2026,
    LabelEmbedder,
    PatchEmbed,
    RMSNorm,
    TimestepEmbedder,
    modulate,
    modulation,
    pixels_from_tokens,
    position_table,
    require_side,
)

THETA = 10_000


class AxialRotary(nn.Module):
    """Rotate each pair of adjacent channels by an angle proportional to the row or column. (..., N, D) -> (..., N, D).

    The first half of the channels uses the row, the second the column; pair i of a half rotates by THETA^(-4i / D) per
    step (Su et al. 2021, in two dimensions). The tables are keys of the official checkpoints.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("freqs_cos", torch.empty(grid**2, width))
        self.register_buffer("freqs_sin", torch.empty(grid**2, width))
        self.fill_tables()

    def fill_tables(self) -> None:
        half = self.freqs_cos.shape[1] // 2
        # In float32, as in the released code: tables rounded once from float64 change an output by 2e-8.
        frequencies = 1 / THETA ** (torch.arange(0, half, 2, device="cpu").float() / half)
        token = torch.arange(self.grid**2, device="cpu")
        place = torch.stack([token // self.grid, token % self.grid], dim=1).float()  # (N, 2): row, column
        angles = (place[:, :, None] * frequencies).repeat_interleave(2, dim=2).flatten(1)  # (N, D)
        self.freqs_cos.copy_(angles.cos())
        self.freqs_sin.copy_(angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * self.freqs_cos + torch.stack([-odd, even], dim=-1).flatten(-2) * self.freqs_sin


class Attention(nn.Module):
    """Multi-head self-attention with rotated q and k. BNC -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: AxialRotary) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, D) each
        y = F.scaled_dot_product_attention(rotary(q), rotary(k), v)
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class LightningDiTBlock(nn.Module):
    """Attention, then gated perceptron; both modulated and gated by the condition. BNC, BC -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.norm2 = RMSNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = PackedGatedMlp(width, 8 * width // 3)
        self.adaLN_modulation = modulation(width, chunks=6)

    def forward(self, x: Tensor, c: Tensor, rotary: AxialRotary) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), rotary)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class RMSHead(nn.Module):
    """Norm, modulation and projection of each token to its pixels. (B, N, C), (B, C) -> (B, N, p*p*out)."""

    def __init__(self, width: int, patch: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(width)
        self.linear = nn.Linear(width, patch * patch * out_channels)
        self.adaLN_modulation = modulation(width, chunks=2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class LightningDiT(nn.Module):
    """Patches to tokens, ``depth`` blocks, tokens to pixels; positions by a fixed table and by rotary codes.

    x: (B, in_channels, S, S) latents between noise and data, of the side S = res / factor that the tables were made
    for; t: (B,) times from 0 (noise) to 1 (data), not multiplied by 1000; y: (B,) class indices, ``num_classes`` for
    none. Returns (B, in_channels, S, S): the velocity. Raises ValueError on another side.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        res: int = 256,
        factor: int = 16,
        in_channels: int = 32,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.side, self.patch, self.factor = res // factor, patch, factor
        self.grid = self.side // patch
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid**2, width), requires_grad=False)
        self.fill_tables()
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width, ROUNDED_UP_2026)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.feat_rope = AxialRotary(width // heads, self.grid)
        self.blocks = nn.ModuleList(LightningDiTBlock(width, heads) for _ in range(depth))
        self.final_layer = RMSHead(width, patch, in_channels)

    def fill_tables(self) -> None:
        self.pos_embed.data.copy_(position_table(self.pos_embed.shape[2], self.grid))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "LightningDiT", self.factor)
        c = self.t_embedder(t) + self.y_embedder(y)  # (B, C)
        x = self.x_embedder(x) + self.pos_embed  # (B, N, C)
        for block in self.blocks:
            x = block(x, c, self.feat_rope)  # (B, N, C)
        x = self.final_layer(x, c)  # (B, N, patch * patch * in_channels)
        return pixels_from_tokens(x, self.grid, self.patch)
