"""SANA: a text-to-image transformer with linear attention over the pixels of a small latent, without position codes.

Paper: arXiv:2410.10629. Variants, sources and printed numbers: ``sana.toml``.
Shape letters: B batch, N tokens of the image, M tokens of the caption, C width, D channels of a head, H W latent height
and width. Keys are those of the diffusers package; ``RENAMED`` maps those of the authors' own files.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import ROUNDED_UP_2026, PatchEmbed, RMSNorm, modulate, token_norm
from .timestep import SinusoidalCode

HEAD_WIDTH = 32  # of self-attention
CAPTION_EPS = 1e-5
DENOMINATOR_EPS = 1e-15

# Parts of the authors' keys to parts of ours; several parts divide the rows of the tensor.
RENAMED = {
    "x_embedder.": ("patch_embed.",),
    "t_embedder.mlp.0.": ("time_embed.emb.timestep_embedder.linear_1.",),
    "t_embedder.mlp.2.": ("time_embed.emb.timestep_embedder.linear_2.",),
    "t_block.1.": ("time_embed.linear.",),
    "y_embedder.y_proj.fc1.": ("caption_projection.linear_1.",),
    "y_embedder.y_proj.fc2.": ("caption_projection.linear_2.",),
    "attention_y_norm.": ("caption_norm.",),
    "final_layer.linear.": ("proj_out.",),
    "final_layer.scale_shift_table": ("scale_shift_table",),
    ".cross_attn.q_linear.": (".attn2.to_q.",),
    ".cross_attn.kv_linear.": (".attn2.to_k.", ".attn2.to_v."),
    ".cross_attn.proj.": (".attn2.to_out.0.",),
    ".attn.qkv.": (".attn1.to_q.", ".attn1.to_k.", ".attn1.to_v."),
    ".attn.proj.": (".attn1.to_out.0.",),
    ".mlp.inverted_conv.conv.": (".ff.conv_inverted.",),
    ".mlp.depth_conv.conv.": (".ff.conv_depth.",),
    ".mlp.point_conv.conv.": (".ff.conv_point.",),
    "blocks.": ("transformer_blocks.",),
}
# Keys of the authors' files that a forward pass does not use: empty caption, positions, head of a training loss.
UNREAD = ("y_embedder.y_embedding", "pos_embed", "logvar_linear.weight", "logvar_linear.bias")


class TwoLayers(nn.Module):
    """Two linear layers around an activation. (..., width_in) -> (..., width)."""

    def __init__(self, width_in: int, width: int, gelu: bool) -> None:
        super().__init__()
        self.gelu = gelu
        self.linear_1 = nn.Linear(width_in, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear_1(x)
        return self.linear_2(F.gelu(x, approximate="tanh") if self.gelu else F.silu(x))


class TimeEmbedding(nn.Module):
    """Embedding of the time, and six modulation vectors for every block. (B,) -> (B, C), (B, 6, C)."""

    # The released code computes the frequencies in every forward pass and multiplies the angles by 1.
    extra_products = 128

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_code = SinusoidalCode(256, ROUNDED_UP_2026)
        self.emb = nn.ModuleDict({"timestep_embedder": TwoLayers(256, width, gelu=False)})
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        embedded = self.emb["timestep_embedder"](self.timestep_code(t).to(self.linear.weight.dtype))
        return embedded, self.linear(F.silu(embedded)).unflatten(1, (6, -1))


class Attention(nn.Module):
    """Projections of an attention layer; ``bias`` applies to q, k and v."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(width, width, bias=bias)
        self.to_v = nn.Linear(width, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])


class LinearAttention(Attention):
    """Linear attention, relu(q) (relu(k)^T v) / relu(q) sum(relu(k)), with cost O(N). BNC -> BNC.

    Computed in float32 or wider, as sums over all tokens exceed the range of half precision.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (
            project(x).mT.unflatten(1, (-1, HEAD_WIDTH)).to(wide)  # (B, heads, D, N)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        v = F.pad(v, (0, 0, 0, 1), value=1.0)  # a row of ones, whose result is the denominator
        y = (v @ F.relu(k).mT) @ F.relu(q)  # (B, heads, D + 1, N)
        y = y[:, :, :-1] / (y[:, :, -1:] + DENOMINATOR_EPS)
        return self.to_out[0](y.flatten(1, 2).mT.to(x.dtype))


class CrossAttention(Attention):
    """Attention of image tokens to the caption, without norm or gate. BNC, BMC, mask (B, 1, 1, M) -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, bias=True)
        self.heads = heads

    def forward(self, x: Tensor, caption: Tensor, keep: Tensor | None) -> Tensor:
        q, k, v = (
            project(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N or M, C/heads)
            for project, tokens in ((self.to_q, x), (self.to_k, caption), (self.to_v, caption))
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        return self.to_out[0](y.transpose(1, 2).flatten(2))


class MixFeedForward(nn.Module):
    """1x1, depthwise 3x3, the first half of the channels times swish of the second, 1x1. BCHW -> BCHW."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv_inverted = nn.Conv2d(width, 2 * hidden, 1)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv_depth(F.silu(self.conv_inverted(x))).chunk(2, dim=1)
        return self.conv_point(value * F.silu(gate))


class SANABlock(nn.Module):
    """Linear attention, cross attention, feed-forward; the first and last are modulated and gated.

    (B, N, C), (B, 6, C), caption (B, M, C), mask (B, 1, 1, M) -> (B, N, C)
    """

    def __init__(self, width: int, cross_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, width))
        self.attn1 = LinearAttention(width)
        self.attn2 = CrossAttention(width, cross_heads)
        self.ff = MixFeedForward(width, int(mlp_ratio * width))

    def forward(self, x: Tensor, t: Tensor, caption: Tensor, keep: Tensor | None, sides: tuple[int, int]) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + t).chunk(6, dim=1)  # (B, 1, C) each
        x = x + gate1 * self.attn1(modulate(token_norm(x), shift1, scale1))
        x = x + self.attn2(x, caption, keep)
        y = modulate(token_norm(x), shift2, scale2)
        return x + gate2 * self.ff(y.mT.unflatten(2, sides)).flatten(2).mT


class SANA(nn.Module):
    """Pixels of the latent to tokens, ``depth`` blocks, tokens to pixels.

    x: (B, in_channels, H, W) latents between noise and data, of any size; t: (B,) times from 1000 (noise) to 0
    (data); y: (B, M, caption_width) text embeddings; mask: (B, M), nonzero for caption tokens to attend to, None for
    all. Returns (B, in_channels, H, W): noise minus data.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        cross_heads: int,
        mlp_ratio: float = 2.5,
        in_channels: int = 32,
        caption_width: int = 2304,
    ) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))
        self.patch_embed = PatchEmbed(1, in_channels, width)
        self.time_embed = TimeEmbedding(width)
        self.caption_projection = TwoLayers(caption_width, width, gelu=True)
        self.caption_norm = RMSNorm(width, CAPTION_EPS)
        self.transformer_blocks = nn.ModuleList(SANABlock(width, cross_heads, mlp_ratio) for _ in range(depth))
        self.proj_out = nn.Linear(width, in_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        sides = (x.shape[2], x.shape[3])
        time, modulation = self.time_embed(t)  # (B, C), (B, 6, C)
        caption = self.caption_norm(self.caption_projection(y.to(x.dtype)))  # (B, M, C)
        keep = None if mask is None else mask.bool()[:, None, None]

        x = self.patch_embed(x)  # (B, N, C)
        for block in self.transformer_blocks:
            x = block(x, modulation, caption, keep, sides)
        shift, scale = (self.scale_shift_table + time[:, None]).chunk(2, dim=1)
        x = self.proj_out(modulate(token_norm(x), shift, scale))
        return x.mT.unflatten(2, sides)

    @staticmethod
    def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' keys to ours; the keys of diffusers are already the same."""
        return rename_keys(state) if any(key.startswith("blocks.") for key in state) else dict(state)


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys of a state dict to ours. Keys that are not in ``RENAMED`` are kept."""
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in UNREAD:
            continue
        names, parts = [key], [value]
        for old, new in RENAMED.items():
            if old in key:
                names = [name.replace(old, each, 1) for name in names for each in new]
                parts = list(value.chunk(len(new))) if value.dim() and len(new) > 1 else parts
        result |= dict(
            zip(names, parts, strict=False)
        )  # with fewer parts than names, the loader reports what is missing
    return result
