"""DiC: a U-shaped diffusion backbone made of 3x3 convolutions.

Paper: arXiv:2501.00603. Variants, sources and printed numbers: ``dic.toml``.
Shape letters: B batch, C width of the stage, H W latent height and width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import (
    Downsample,
    LabelEmbedder,
    LayerNorm2d,
    TimestepEmbedder,
    Upsample,
    modulate,
    modulation,
    require_multiple,
)

SKIP_STRIDE = 3  # every third block passes a skip to the decoder


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with at most 32 groups of at least 4 channels: 24 groups at width 96, 32 at all other widths."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-5)


class ModulatedConvs(nn.Module):
    """Two 3x3 convolutions, each after a group norm; the second norm is modulated and the branch gated.

    (B, in_width, H, W), (B, width) -> (B, width, H, W)
    """

    # The released code multiplies the sum by a constant 1. It is kept, so that its MACs and its time count.
    residual_scale = 1.0

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.norm0 = group_norm(in_width)
        self.conv0 = nn.Conv2d(in_width, width, 3, padding=1)
        self.affine = modulation(width, chunks=3)
        self.norm1 = group_norm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(in_width, width, 1) if in_width != width else nn.Identity()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        gate, scale, shift = self.affine(c)[:, :, None, None].chunk(3, dim=1)
        y = self.conv0(F.gelu(self.norm0(x)))
        y = torch.addcmul(shift, self.norm1(y), 1 + scale)
        y = self.conv1(F.gelu(y))
        return (self.skip(x) + gate * y) * self.residual_scale


class DiCBlock(nn.Module):
    """A block under the keys of the checkpoints, which have one more level. BCHW, BC -> BCHW."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.conv = ModulatedConvs(in_width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.conv(x, c)


class Stage(nn.ModuleList):
    """``depth`` blocks of one width and resolution. BCHW, BC -> BCHW."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(DiCBlock(width, width) for _ in range(depth))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for block in self:
            x = block(x, c)
        return x


class Encoder(Stage):
    """A stage that appends sparse skips to a list: the output of every third block, counted from the last.

    (B, C, H, W), (B, C), list of skips -> (B, C, H, W)
    """

    def forward(self, x: Tensor, c: Tensor, skips: list[Tensor]) -> Tensor:  # type: ignore[override]
        for left, block in zip(reversed(range(len(self))), self, strict=True):
            x = block(x, c)
            if left % SKIP_STRIDE == 0:
                skips.append(x)
        return x


class Decoder(nn.ModuleList):
    """A stage whose first, fourth, ... block pops a skip from the list, the latest first.

    (B, C, H, W), (B, C), list of skips -> (B, C, H, W)
    """

    def __init__(self, width: int, depth: int) -> None:
        takes = (width if index % SKIP_STRIDE == 0 else 0 for index in range(depth))
        super().__init__(DiCBlock(width + skip, width) for skip in takes)

    def forward(self, x: Tensor, c: Tensor, skips: list[Tensor]) -> Tensor:
        for index, block in enumerate(self):
            if index % SKIP_STRIDE == 0:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, c)
        return x


class Stem(nn.Module):
    """Latent channels to the first width. (B, in_channels, H, W) -> (B, C, H, W)."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Head(nn.Module):
    """Norm, modulation and a 3x3 convolution to the output channels. BCHW, BC -> (B, out_channels, H, W)."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = LayerNorm2d()
        self.out_proj = nn.Conv2d(width, out_channels, 3, padding=1)
        self.adaLN_modulation = modulation(width, chunks=2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, :, None, None].chunk(2, dim=1)
        return self.out_proj(modulate(self.norm_final(x), shift, scale))


class DiC(nn.Module):
    """Two encoder stages, a middle and two decoder stages of widths C, 2C, 4C, 2C, C, with sparse skips.

    x: (B, in_channels, H, W) noisy latents, H and W divisible by 4; t: (B,) timesteps; y: (B,) class indices,
    ``num_classes`` for none. Returns (B, 2 * in_channels, H, W): the noise and the raw variance, or
    (B, in_channels, H, W) without ``learn_sigma``. Raises ValueError on another height or width.
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 4 * width
        d1, d2, d3, d4, d5 = depths

        self.x_embedder = Stem(in_channels, w1)
        self.t_embedder_ls = nn.ModuleList(TimestepEmbedder(w) for w in (w1, w2, w3))
        self.y_embedder_ls = nn.ModuleList(LabelEmbedder(num_classes, w) for w in (w1, w2, w3))
        self.enc_blocks = nn.ModuleList([Encoder(w1, d1), Encoder(w2, d2)])
        self.lat_blocks = nn.ModuleList([Stage(w3, d3)])
        self.dec_blocks = nn.ModuleList([Decoder(w2, d4), Decoder(w1, d5)])
        self.downs = nn.ModuleList([Downsample(w1), Downsample(w2)])
        self.ups = nn.ModuleList([Upsample(w3), Upsample(w2)])
        self.output = nn.Conv2d(w1, w1, 3, padding=1)
        self.final_layer = Head(w1, in_channels * (2 if learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, 4, "DiC")
        c1, c2, c3 = (time(t) + label(y) for time, label in zip(self.t_embedder_ls, self.y_embedder_ls, strict=True))
        skips: list[Tensor] = []

        x = self.enc_blocks[0](self.x_embedder(x), c1, skips)  # (B, C, H, W)
        x = self.enc_blocks[1](self.downs[0](x), c2, skips)  # (B, 2C, H/2, W/2)
        x = self.lat_blocks[0](self.downs[1](x), c3)  # (B, 4C, H/4, W/4)
        x = self.dec_blocks[0](self.ups[0](x), c2, skips)  # (B, 2C, H/2, W/2)
        x = self.dec_blocks[1](self.ups[1](x), c1, skips)  # (B, C, H, W)
        return self.final_layer(self.output(x), c1)
