"""U-DiT: a U-shaped diffusion transformer whose attention runs on quarters of the tokens.

Paper: arXiv:2405.02730. Variants, sources and printed numbers: ``udit.toml``.
Shape letters: B batch, N tokens of a quarter, C width of the stage, S latent height and width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dic import Head, Stem
from .layers import (
    Downsample,
    LabelEmbedder,
    LayerNorm2d,
    TimestepEmbedder,
    Upsample,
    modulate,
    modulation,
    require_side,
)
from .rotary import Rotary

LARGEST_SCALE = 4.6052  # logarithm ln 100, as in the released code


class CosineAttention(nn.Module):
    """Cosine attention softmax(scale cos(q, k)) v with rotated q and k. q, k, v and result: (B, heads, N, D)."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.rotary = Rotary(width, grid)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> Tensor:
        q = F.normalize(self.rotary(q), dim=-1) * scale
        return F.scaled_dot_product_attention(q, F.normalize(self.rotary(k), dim=-1), v, scale=1.0)

    def count_macs(self, q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> dict[str, int]:
        """Count as a profiler does in the released code, which scales the scores, not q. Rotations count themselves."""
        scores = q.numel() // q.shape[-1] * k.shape[-2]
        return {"attention_matmul": 2 * scores * q.shape[-1], "mul": scores}


class Shortcut(nn.Module):
    """A depthwise 5x5 convolution with a residual. BCHW -> BCHW."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(width, width, 5, padding=2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


class Attention(nn.Module):
    """Attention within four groups of tokens: every second pixel of every second row. BCHW -> BCHW."""

    # torchprofile reads a trace of the released module, which holds 21 products of sizes, one element each.
    extra_products = 21

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), 10.0).log())
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Conv2d(width, width, 1)
        self.downsampler = Shortcut(width)
        self.core = CosineAttention(width // heads, side // 2)

    def forward(self, x: Tensor) -> Tensor:
        b, width, h, w = x.shape
        x = self.downsampler(x).reshape(b, width, h // 2, 2, w // 2, 2)
        x = x.permute(0, 3, 5, 2, 4, 1).reshape(4 * b, h * w // 4, width)  # (4B, N, C)
        q, k, v = self.to_qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (4B, heads, N, C/heads)
        y = self.core(q, k, v, self.logit_scale.clamp(max=LARGEST_SCALE).exp())
        y = y.transpose(1, 2).reshape(b, 2, 2, h // 2, w // 2, width)
        return self.to_out(y.permute(0, 5, 3, 1, 4, 2).reshape(b, width, h, w))


class FeedForward(nn.Module):
    """Pointwise, GELU, depthwise, pointwise, in the form for training. BCHW -> BCHW.

    Each pointwise step has two layers, and the depthwise one is the sum of 5x5, 3x3, 1x1 and identity.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Sequential(nn.Conv2d(width, hidden // 2, 1), nn.Conv2d(hidden // 2, hidden, 1))
        self.dwconv = nn.ModuleList(nn.Conv2d(hidden, hidden, k, padding=k // 2, groups=hidden) for k in (5, 3, 1))
        self.project_out = nn.Sequential(nn.Conv2d(hidden, hidden // 2, 1), nn.Conv2d(hidden // 2, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.project_in(x))
        five, three, one = self.dwconv
        return self.project_out(x + five(x) + three(x) + one(x))


class MergedFeedForward(nn.Module):
    """``FeedForward`` with one layer per linear step; ``merge_layers`` computes its weights. BCHW -> BCHW."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(width, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden)
        self.project_out = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project_out(self.dwconv(F.gelu(self.project_in(x))))


def merge_layers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the state dict of a merged network from that of a trained one, with sums in float64."""
    result = {}
    for key, value in state.items():
        name, _, kind = key.rpartition(".")
        if name.endswith((".project_in.1", ".project_out.1")):  # second after first
            first = state[f"{name[:-1]}0.{kind}"].double()
            second = state[f"{name[:-1]}1.weight"].double()[:, :, 0, 0]
            both = second @ first.flatten(1) if kind == "weight" else second @ first + value.double()
            result[f"{name[:-2]}.{kind}"] = (both[:, :, None, None] if kind == "weight" else both).to(value.dtype)
        elif name.endswith(".dwconv.2"):
            parts = [state[f"{name[:-1]}{i}.{kind}"].double() for i in range(3)]
            if kind == "weight":  # all as 5x5 kernels; identity is a 1x1 kernel of 1
                parts = [F.pad(part, [(5 - part.shape[-1]) // 2] * 4) for part in [*parts, torch.ones_like(parts[2])]]
            result[f"{name[:-2]}.{kind}"] = torch.stack(parts).sum(dim=0).to(value.dtype)
        elif not name.endswith((".project_in.0", ".project_out.0", ".dwconv.0", ".dwconv.1")):
            result[key] = value
    return result


class UDiTBlock(nn.Module):
    """Two pairs of attention and perceptron, each modulated and gated by the condition. BCHW, BC -> BCHW."""

    def __init__(self, width: int, heads: int, side: int, mlp_ratio: float, merged: bool) -> None:
        super().__init__()
        feed_forward, hidden = MergedFeedForward if merged else FeedForward, int(mlp_ratio * width)
        self.norm = LayerNorm2d()
        self.attn1 = Attention(width, heads, side)
        self.mlp1 = feed_forward(width, hidden)
        self.adaLN_modulation1 = modulation(width, chunks=6)
        self.attn2 = Attention(width, heads, side)
        self.mlp2 = feed_forward(width, hidden)
        self.adaLN_modulation2 = modulation(width, chunks=6)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for attn, mlp, adaptive in (
            (self.attn1, self.mlp1, self.adaLN_modulation1),
            (self.attn2, self.mlp2, self.adaLN_modulation2),
        ):
            shift1, scale1, gate1, shift2, scale2, gate2 = adaptive(c)[:, :, None, None].chunk(6, dim=1)
            x = x + gate1 * attn(modulate(self.norm(x), shift1, scale1))
            x = x + gate2 * mlp(modulate(self.norm(x), shift2, scale2))
        return x


class Stage(nn.ModuleList):
    """``depth`` blocks of one width and resolution. BCHW, BC -> BCHW."""

    def __init__(self, width: int, depth: int, heads: int, side: int, mlp_ratio: float, merged: bool) -> None:
        super().__init__(UDiTBlock(width, heads, side, mlp_ratio, merged) for _ in range(depth))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for block in self:
            x = block(x, c)
        return x


class UDiT(nn.Module):
    """Two encoder stages, a middle and two decoder stages, with skips by concatenation.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8, divisible by 8, that the rotary tables were made
    for; t: (B,) timesteps; y: (B,) class indices, ``num_classes`` for none. Returns (B, 2 * in_channels, S, S): the
    noise and the raw variance, or (B, in_channels, S, S) without ``learn_sigma``. Raises ValueError on another side.
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        heads: int,
        res: int = 256,
        mlp_ratio: float = 2,
        merged: bool = False,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 4 * width
        d1, d2, d3, d4, d5 = depths
        s1 = self.side = res // 8
        s2, s3 = s1 // 2, s1 // 4
        self.merged = merged

        self.x_embedder = Stem(in_channels, w1)
        self.t_embedder_1, self.y_embedder_1 = TimestepEmbedder(w1), LabelEmbedder(num_classes, w1)
        self.t_embedder_2, self.y_embedder_2 = TimestepEmbedder(w2), LabelEmbedder(num_classes, w2)
        self.t_embedder_3, self.y_embedder_3 = TimestepEmbedder(w3), LabelEmbedder(num_classes, w3)
        self.encoder_level_1 = Stage(w1, d1, heads, s1, mlp_ratio, merged)
        self.down1_2 = Downsample(w1)
        self.encoder_level_2 = Stage(w2, d2, heads, s2, mlp_ratio, merged)
        self.down2_3 = Downsample(w2)
        self.latent = Stage(w3, d3, heads, s3, mlp_ratio, merged)
        self.up3_2 = Upsample(w3)
        self.reduce_chan_level2 = nn.Conv2d(w3, w2, 1)
        self.decoder_level_2 = Stage(w2, d4, heads, s2, mlp_ratio, merged)
        self.up2_1 = Upsample(w2)
        # At full resolution the decoder keeps the width of the concatenation, 2C, and so the 2C condition.
        self.reduce_chan_level1 = nn.Conv2d(w2, w2, 1)
        self.decoder_level_1 = Stage(w2, d5, heads, s1, mlp_ratio, merged)
        self.output = nn.Conv2d(w2, w2, 3, padding=1)
        self.final_layer = Head(w2, in_channels * (2 if learn_sigma else 1))

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert an official state dict, which is that of a network in training, to this form."""
        if not self.merged or not any(".dwconv.2." in key for key in state):
            return state
        try:
            return merge_layers(state)
        except (KeyError, IndexError, RuntimeError):
            return state  # unknown keys or shapes: the loader reports them

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "U-DiT")
        c1 = self.t_embedder_1(t) + self.y_embedder_1(y)  # (B, C)
        c2 = self.t_embedder_2(t) + self.y_embedder_2(y)  # (B, 2C)
        c3 = self.t_embedder_3(t) + self.y_embedder_3(y)  # (B, 4C)

        skip1 = self.encoder_level_1(self.x_embedder(x), c1)  # (B, C, S, S)
        skip2 = self.encoder_level_2(self.down1_2(skip1), c2)  # (B, 2C, S/2, S/2)
        x = self.latent(self.down2_3(skip2), c3)  # (B, 4C, S/4, S/4)
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), skip2], dim=1))
        x = self.decoder_level_2(x, c2)  # (B, 2C, S/2, S/2)
        x = self.reduce_chan_level1(torch.cat([self.up2_1(x), skip1], dim=1))
        x = self.decoder_level_1(x, c2)  # (B, 2C, S, S)
        return self.final_layer(self.output(x), c2)
