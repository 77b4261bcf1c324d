"""DiT-LLaMA: DiT with the block of a language model, rotary positions and a gated perceptron.

Paper: arXiv:2403.00522. Variants, sources and printed numbers: ``dit_llama.toml``.
Shape letters: B batch, N tokens, C width, S latent height and width.
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
from .rotary import Rotary


class Attention(nn.Module):
    """Multi-head self-attention with rotated q and k. BNC -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, C/heads) each
        y = F.scaled_dot_product_attention(rotary(q), rotary(k), v)
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class SwiGLU(nn.Module):
    """swish(a) b, with a and b projections, then a projection back; no biases. BNC -> BNC."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc1 = nn.Linear(width, hidden, bias=False)
        self.c_fc2 = nn.Linear(width, hidden, bias=False)
        self.c_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.silu(self.c_fc1(x)) * self.c_fc2(x))


class DiTLLaMABlock(nn.Module):
    """Attention, then gated perceptron; both modulated and gated by the condition. BNC, BC -> BNC."""

    # torchprofile reads a trace of the released block, which holds 18 products of sizes, one element each.
    extra_products = 18

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.adaLN_modulation = modulation(width, chunks=6)
        self.attn = Attention(width, heads)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x: Tensor, c: Tensor, rotary: Rotary) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(token_norm(x), shift1, scale1), rotary)
        return x + gate2 * self.mlp(modulate(token_norm(x), shift2, scale2))


class DiTLLaMA(nn.Module):
    """Patches to tokens, ``depth`` blocks, tokens to pixels.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8 that the rotary table was made for;
    t: (B,) timesteps; y: (B,) class indices, ``num_classes`` for none. Returns (B, 2 * in_channels, S, S): the
    noise and the raw variance, or (B, in_channels, S, S) without ``learn_sigma``. Raises ValueError on another side.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        patch: int,
        res: int = 256,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.side, self.patch = res // 8, patch
        self.grid = self.side // patch
        # A key of the official checkpoints, which the official forward pass does not use either.
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid**2, width), requires_grad=False)
        self.fill_tables()
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.final_layer = TokenHead(width, patch, in_channels * (2 if learn_sigma else 1))
        self.blocks = nn.ModuleList(DiTLLaMABlock(width, heads, hidden) for _ in range(depth))
        self.rotary = Rotary(width // heads, self.grid)

    def fill_tables(self) -> None:
        self.pos_embed.data.copy_(position_table(self.pos_embed.shape[2], self.grid))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "DiT-LLaMA")
        c = self.t_embedder(t) + self.y_embedder(y)  # (B, C)
        x = self.x_embedder(x)  # (B, N, C)
        for block in self.blocks:
            x = block(x, c, self.rotary)  # (B, N, C)
        x = self.final_layer(x, c)  # (B, N, patch * patch * out_channels)
        return pixels_from_tokens(x, self.grid, self.patch)
