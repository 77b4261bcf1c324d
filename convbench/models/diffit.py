"""DiffiT: a transformer whose condition enters the attention as an addition to q, k and v.

Paper: arXiv:2312.02139. Variants, sources and printed numbers: ``diffit.toml``.
Shape letters: B batch, N tokens, C width, S latent height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dit import Mlp
from .layers import (
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    pixels_from_tokens,
    position_table,
    require_side,
    token_norm,
)


class TimeDependentAttention(nn.Module):
    """Self-attention with a learned bias for each offset of two tokens. BNC, BC -> BNC."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads, self.grid = heads, grid
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2, heads))
        self.register_buffer("relative_position_index", torch.empty(grid**2, grid**2, dtype=torch.int64))
        self.fill_tables()
        self.qkv_temb = nn.Linear(width, 3 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def fill_tables(self) -> None:
        """Fill in the bias table's row for each pair of tokens: their offset, row first (Swin, Liu et al. 2021)."""
        token = torch.arange(self.grid**2, device="cpu")
        row, column = token // self.grid, token % self.grid
        down, right = (place[:, None] - place + self.grid - 1 for place in (row, column))
        self.relative_position_index.copy_(down * (2 * self.grid - 1) + right)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        b, n, width = x.shape
        qkv = self.qkv(x) + self.qkv_temb(c)[:, None]
        q, k, v = qkv.reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, C/heads) each
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]  # (N * N, heads)
        bias = bias.reshape(1, n, n, self.heads).permute(0, 3, 1, 2)
        y = F.scaled_dot_product_attention(q * (width // self.heads) ** -0.5, k, v, attn_mask=bias, scale=1.0)
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class DiffiTBlock(nn.Module):
    """Attention under the condition, then perceptron. BNC, BC -> BNC."""

    def __init__(self, width: int, heads: int, grid: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = TimeDependentAttention(width, heads, grid)
        self.mlp = Mlp(width, int(mlp_ratio * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = x + self.attn(token_norm(x), c)
        return x + self.mlp(token_norm(x))


class Head(nn.Module):
    """Norm, SiLU and projection of each token to its pixels. (B, N, C) -> (B, N, p*p*out)."""

    def __init__(self, width: int, patch: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, patch * patch * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.silu(token_norm(x)))


class DiffiT(nn.Module):
    """Patches to tokens, ``depth`` blocks, tokens to pixels.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8 that the tables were made for;
    t: (B,) timesteps; y: (B,) class indices, ``num_classes`` for none. Returns (B, 2 * in_channels, S, S): the
    noise and the raw variance, or (B, in_channels, S, S) without ``learn_sigma``. Raises ValueError on another side.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        res: int = 256,
        mlp_ratio: float = 4,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.side, self.patch = res // 8, patch
        self.grid = self.side // patch
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid**2, width), requires_grad=False)
        self.fill_tables()
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.blocks = nn.ModuleList(DiffiTBlock(width, heads, self.grid, mlp_ratio) for _ in range(depth))
        self.final_layer = Head(width, patch, in_channels * (2 if learn_sigma else 1))

    def fill_tables(self) -> None:
        self.pos_embed.data.copy_(position_table(self.pos_embed.shape[2], self.grid))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "DiffiT")
        c = self.t_embedder(t) + self.y_embedder(y)  # (B, C)
        x = self.x_embedder(x) + self.pos_embed  # (B, N, C)
        for block in self.blocks:
            x = block(x, c)  # (B, N, C)
        x = self.final_layer(x)  # (B, N, patch * patch * out_channels)
        return pixels_from_tokens(x, self.grid, self.patch)
