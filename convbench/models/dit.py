"""DiT: a diffusion transformer over patches of the latent.

Paper: arXiv:2212.09748. Variants, sources and printed numbers: ``dit.toml``.
Shape letters: B batch, N tokens, C width, H W latent height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import (
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    TokenHead,
    modulate,
    modulation,
    pixels_from_tokens,
    position_table,
    require_side,
    token_norm,
)


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q k / sqrt(head width)) v. BNC -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, C/heads) each
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class Mlp(nn.Module):
    """Two linear layers around the tanh form of GELU. BNC -> BNC."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class DiTBlock(nn.Module):
    """Attention, then perceptron; both modulated and gated by the condition (adaLN-Zero). BNC, BC -> BNC."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, int(mlp_ratio * width))
        self.adaLN_modulation = modulation(width, chunks=6)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(token_norm(x), shift1, scale1))
        return x + gate2 * self.mlp(modulate(token_norm(x), shift2, scale2))


class DiT(nn.Module):
    """Patches to tokens, ``depth`` blocks, tokens to pixels.

    x: (B, in_channels, S, S) noisy latents of the side S = res / factor that the position table was made for;
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
        factor: int = 8,
    ) -> None:
        super().__init__()
        self.side, self.patch, self.factor = res // factor, patch, factor
        self.grid = self.side // patch
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid**2, width), requires_grad=False)
        self.fill_tables()
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.final_layer = TokenHead(width, patch, in_channels * (2 if learn_sigma else 1))

    def fill_tables(self) -> None:
        self.pos_embed.data.copy_(position_table(self.pos_embed.shape[2], self.grid))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, type(self).__name__, self.factor)
        c = self.t_embedder(t) + self.y_embedder(y)  # (B, C)
        x = self.x_embedder(x) + self.pos_embed  # (B, N, C)
        for block in self.blocks:
            x = block(x, c)  # (B, N, C)
        x = self.final_layer(x, c)  # (B, N, patch * patch * out_channels)
        return pixels_from_tokens(x, self.grid, self.patch)
