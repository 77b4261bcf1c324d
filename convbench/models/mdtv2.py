"""MDTv2: a diffusion transformer trained on masked latents; long skips in the encoder, the input in each decoder block.

Paper: arXiv:2303.14389. Variants, sources and printed numbers: ``mdtv2.toml``.
Shape letters: B batch, N tokens, C width, S latent height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dit import Mlp
from .layers import (
    ROUNDED_UP_2026,
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    TokenHead,
    modulate,
    modulation,
    pixels_from_tokens,
    require_side,
    token_norm,
)

UNUSED_ROWS = 3  # of the bias table: for a class token, which does not exist here


class RelativePositionBias(nn.Module):
    """A learned bias for each head and each offset of two tokens. -> (heads, N, N)"""

    relative_position_index: Tensor

    def __init__(self, heads: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + UNUSED_ROWS, heads))
        self.register_buffer("relative_position_index", torch.empty(grid**2, grid**2, dtype=torch.int64))
        self.fill_tables()

    def fill_tables(self) -> None:
        """Fill in the bias table's row for each pair of tokens: their offset, row first (Swin, Liu et al. 2021)."""
        token = torch.arange(self.grid**2, device="cpu")
        row, column = token // self.grid, token % self.grid
        down, right = (place[:, None] - place + self.grid - 1 for place in (row, column))
        self.relative_position_index.copy_(down * (2 * self.grid - 1) + right)

    def forward(self) -> Tensor:
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]  # (N * N, heads)
        return bias.mT.unflatten(1, (self.grid**2, self.grid**2))


class Attention(nn.Module):
    """Multi-head self-attention with a bias for each offset. BNC -> BNC."""

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_bias = RelativePositionBias(heads, grid)
        # The released attention is unfused and scales each score by a product; here it is fused.
        self.extra_products = heads * grid**4

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, C/heads) each
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.rel_pos_bias()[None])
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class MDTv2Block(nn.Module):
    """Merge of the skip, if any, then attention and perceptron, modulated by the condition. BNC, BC -> BNC."""

    def __init__(self, width: int, heads: int, grid: int, mlp_ratio: float, skip: bool = False) -> None:
        super().__init__()
        self.attn = Attention(width, heads, grid)
        self.mlp = Mlp(width, int(mlp_ratio * width))
        self.adaLN_modulation = modulation(width, chunks=6)
        if skip:
            self.skip_linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, c: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(token_norm(x), shift1, scale1))
        return x + gate2 * self.mlp(modulate(token_norm(x), shift2, scale2))


class MDTv2(nn.Module):
    """Patches to tokens, encoder, decoder, tokens to pixels, as in inference, without a mask.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8 that the tables were made for; t: (B,) timesteps;
    y: (B,) class indices, ``num_classes`` for none. Returns (B, 2 * in_channels, S, S): the noise and the raw variance.
    Raises ValueError on another side.

    The last ``decoder`` of the ``depth`` blocks decode. ``mask_token`` and ``sideblocks``, which fill in masked tokens
    in training, are keys of the official checkpoints and are not used here.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        decoder: int,
        heads: int,
        patch: int,
        res: int = 256,
        mlp_ratio: float = 4,
        in_channels: int = 4,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.side, self.patch = res // 8, patch
        self.grid = self.side // patch
        half = (depth - decoder) // 2
        size = (width, heads, self.grid, mlp_ratio)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, width))  # both tables are learned
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width, ROUNDED_UP_2026)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.en_inblocks = nn.ModuleList(MDTv2Block(*size) for _ in range(half))
        self.en_outblocks = nn.ModuleList(MDTv2Block(*size, skip=True) for _ in range(half))
        self.de_blocks = nn.ModuleList(MDTv2Block(*size, skip=True) for _ in range(decoder))
        self.sideblocks = nn.ModuleList([MDTv2Block(*size)])
        self.final_layer = TokenHead(width, patch, 2 * in_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "MDTv2")
        c = self.t_embedder(t) + self.y_embedder(y)  # (B, C)
        embedded = self.x_embedder(x) + self.pos_embed  # (B, N, C)
        x, skips = embedded, []
        for block in self.en_inblocks:
            x = block(x, c)
            skips.append(x)
        for block in self.en_outblocks:
            x = block(x, c, skips.pop())
        x = x + self.decoder_pos_embed
        for block in self.de_blocks:
            x = block(x, c, embedded)
        x = self.final_layer(x, c)  # (B, N, patch * patch * 2 * in_channels)
        return pixels_from_tokens(x, self.grid, self.patch)
