"""PixArt: a text-to-image transformer with one modulation for all blocks and cross attention to the caption.

Paper: arXiv:2310.00426. Variants, sources and printed numbers: ``pixart.toml``.
Shape letters: B batch, N tokens of the image, M tokens of the caption, C width, S latent height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dit import Attention, Mlp
from .layers import (
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    modulate,
    pixels_from_tokens,
    position_table,
    require_side,
    token_norm,
)

CAPTION_TOKENS = 120


class CaptionMlp(nn.Module):
    """Two linear layers around the tanh form of GELU. (B, M, caption_width) -> BMC."""

    def __init__(self, caption_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(caption_width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(y), approximate="tanh"))


class CaptionEmbedder(nn.Module):
    """Projection of text embeddings to the model's width. (B, M, caption_width) -> BMC.

    ``y_embedding`` is the null caption, a buffer of the official checkpoints, which guidance uses in place of a text.
    """

    def __init__(self, caption_width: int, width: int) -> None:
        super().__init__()
        self.register_buffer("y_embedding", torch.randn(CAPTION_TOKENS, caption_width) / caption_width**0.5)
        self.y_proj = CaptionMlp(caption_width, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.y_proj(y)


class SelfAttention(Attention):
    """Self-attention of DiT. BNC -> BNC."""

    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__(width, heads)
        # The reference count is of unfused attention, which scales each score by a product; here it is fused.
        self.extra_products = heads * tokens**2


class CrossAttention(nn.Module):
    """Attention of image tokens to the caption, without norm or gate. BNC, BMC, mask (B, 1, 1, M) -> BNC."""

    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.extra_products = heads * tokens * CAPTION_TOKENS  # as in SelfAttention
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, caption: Tensor, keep: Tensor | None) -> Tensor:
        q = self.q_linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, C/heads)
        kv = self.kv_linear(caption).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, kv[0], kv[1], attn_mask=keep)
        return self.proj(y.transpose(1, 2).flatten(2))


class PixArtBlock(nn.Module):
    """Attention, cross attention if there are captions, perceptron. (B, N, C), (B, 6, C), captions -> (B, N, C)."""

    def __init__(self, width: int, heads: int, tokens: int, mlp_ratio: float, text: bool) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, width))
        self.attn = SelfAttention(width, heads, tokens)
        if text:
            self.cross_attn = CrossAttention(width, heads, tokens)
        self.mlp = Mlp(width, int(mlp_ratio * width))

    def forward(self, x: Tensor, t: Tensor, caption: Tensor | None, keep: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + t).chunk(6, dim=1)  # (B, 1, C) each
        x = x + gate1 * self.attn(modulate(token_norm(x), shift1, scale1))
        if caption is not None:
            x = x + self.cross_attn(x, caption, keep)
        return x + gate2 * self.mlp(modulate(token_norm(x), shift2, scale2))


class Head(nn.Module):
    """Norm, modulation and projection of each token to its pixels. (B, N, C), (B, C) -> (B, N, p*p*out)."""

    def __init__(self, width: int, patch: int, out_channels: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))
        self.linear = nn.Linear(width, patch * patch * out_channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + t[:, None]).chunk(2, dim=1)
        return self.linear(modulate(token_norm(x), shift, scale))


class PixArt(nn.Module):
    """Patches to tokens, ``depth`` blocks, tokens to pixels.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8 that the position table was made for;
    t: (B,) timesteps; y: (B, M, caption_width) text embeddings, or (B, 1, M, caption_width) as in the released
    code; mask: (B, M), nonzero for caption tokens to attend to, None for all.
    With ``num_classes`` there are no captions: y is (B,) class indices, ``num_classes`` for none, added to the time.
    Returns (B, 2 * in_channels, S, S): the noise and the raw variance, or (B, in_channels, S, S) without
    ``learn_sigma``. Raises ValueError on another side.
    """

    pos_embed: Tensor

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        res: int = 256,
        mlp_ratio: float = 4,
        in_channels: int = 4,
        caption_width: int = 4096,
        num_classes: int | None = None,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.side, self.patch, self.text = res // 8, patch, num_classes is None
        self.grid = self.side // patch
        self.register_buffer("pos_embed", torch.empty(1, self.grid**2, width))
        self.fill_tables()
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = (
            CaptionEmbedder(caption_width, width) if num_classes is None else LabelEmbedder(num_classes, width)
        )
        self.blocks = nn.ModuleList(PixArtBlock(width, heads, self.grid**2, mlp_ratio, self.text) for _ in range(depth))
        self.final_layer = Head(width, patch, in_channels * (2 if learn_sigma else 1))

    def fill_tables(self) -> None:
        self.pos_embed.copy_(position_table(self.pos_embed.shape[2], self.grid))

    def forward(self, x: Tensor, t: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        require_side(x, self.side, "PixArt")
        time, caption = self.t_embedder(t), None  # (B, C)
        if self.text:
            text = y.squeeze(1) if y.dim() == 4 else y
            caption = self.y_embedder(text.to(x.dtype))  # (B, M, C); text encoders have their own precision
        else:
            time = time + self.y_embedder(y)
        keep = None if mask is None else mask.bool()[:, None, None]
        modulation = self.t_block(time).unflatten(1, (6, -1))  # (B, 6, C)
        x = self.x_embedder(x) + self.pos_embed  # (B, N, C)
        for block in self.blocks:
            x = block(x, modulation, caption, keep)  # (B, N, C)
        x = self.final_layer(x, time)  # (B, N, patch * patch * out_channels)
        return pixels_from_tokens(x, self.grid, self.patch)
