"""FCDM: a U-shaped diffusion backbone of ConvNeXt-V2 blocks, conditioned by modulation.

Variants, paper, sources and printed numbers: ``fcdm.toml``.
Shape letters: B batch, C width of the stage, H W latent height and width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F

from .layers import LabelEmbedder, LayerNorm2d, TimestepEmbedder, modulate, modulation, require_multiple


class GlobalResponseNorm(nn.Module):
    """Scale each channel by its share of the response, then add the input (ConvNeXt V2, eq. 1-3). BCHW -> BCHW."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # A sum of squares over H x W leaves the range of float16, so the response is float32 at least.
        wide = torch.promote_types(x.dtype, torch.float32)
        response = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True, dtype=wide)  # (B, C, 1, 1)
        share = response / (response.mean(dim=1, keepdim=True) + self.eps)
        return self.gamma * (x * share.to(x.dtype)) + self.beta + x


class FCDMBlock(nn.Module):
    """Depthwise convolution, then a pointwise perceptron with response norm; modulated and gated. BCHW, BC -> BCHW."""

    def __init__(self, width: int, mlp_ratio: float, kernel: int) -> None:
        super().__init__()
        hidden = int(mlp_ratio * width)
        self.dwconv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = LayerNorm2d()
        self.pwconv1 = nn.Conv2d(width, hidden, 1)
        self.grn = GlobalResponseNorm(hidden)
        self.pwconv2 = nn.Conv2d(hidden, width, 1)
        self.adaLN_modulation = modulation(width, chunks=3)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(c)[:, :, None, None].chunk(3, dim=1)
        y = torch.addcmul(shift, self.norm(self.dwconv(x)), 1 + scale)
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(y))))
        return x + gate * y


class Stage(nn.ModuleList):
    """``depth`` blocks of one width and resolution. BCHW, BC -> BCHW."""

    def __init__(self, width: int, depth: int, mlp_ratio: float, kernel: int) -> None:
        super().__init__(FCDMBlock(width, mlp_ratio, kernel) for _ in range(depth))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for block in self:
            x = block(x, c)
        return x


class Downsample(nn.Module):
    """Halve height and width, double the channels. (B, C, H, W) -> (B, 2C, H/2, W/2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Double height and width, halve the channels. (B, C, H, W) -> (B, C/2, 2H, 2W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Head(nn.Module):
    """Norm, modulation and a 3x3 convolution to the output channels. BCHW, BC -> (B, out_channels, H, W)."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = LayerNorm2d()
        self.adaLN_modulation = modulation(width, chunks=2)
        self.conv = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, :, None, None].chunk(2, dim=1)
        return self.conv(modulate(self.norm_final(x), shift, scale))


class FCDM(nn.Module):
    """Two encoder stages, a middle and two decoder stages of widths C, 2C, 4C, 2C, C, with skips by concatenation.

    x: (B, in_channels, H, W) noisy latents, H and W divisible by 4; t: (B,) times; y: (B,) class indices,
    ``num_classes`` for none. Returns (B, 2 * in_channels, H, W): the noise and the raw variance, or
    (B, in_channels, H, W) without ``learn_sigma``. Raises ValueError on another height or width.
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        mlp_ratio: float = 3,
        kernel: int = 7,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 4 * width
        d1, d2, d3, d4, d5 = depths

        self.t_embedder_1, self.y_embedder_1 = TimestepEmbedder(w1), LabelEmbedder(num_classes, w1)
        self.t_embedder_2, self.y_embedder_2 = TimestepEmbedder(w2), LabelEmbedder(num_classes, w2)
        self.t_embedder_3, self.y_embedder_3 = TimestepEmbedder(w3), LabelEmbedder(num_classes, w3)
        self.x_embedder = nn.Conv2d(in_channels, w1, 3, padding=1)
        self.encoder_level_1 = Stage(w1, d1, mlp_ratio, kernel)
        self.down1_2 = Downsample(w1)
        self.encoder_level_2 = Stage(w2, d2, mlp_ratio, kernel)
        self.down2_3 = Downsample(w2)
        self.latent = Stage(w3, d3, mlp_ratio, kernel)
        self.up3_2 = Upsample(w3)
        self.reduce_chans_2 = nn.Conv2d(w3, w2, 1)
        self.decoder_level_2 = Stage(w2, d4, mlp_ratio, kernel)
        self.up2_1 = Upsample(w2)
        self.reduce_chans_1 = nn.Conv2d(w2, w1, 1)
        self.decoder_level_1 = Stage(w1, d5, mlp_ratio, kernel)
        self.output_layer = nn.Conv2d(w1, w1, 3, padding=1)
        self.final_layer = Head(w1, in_channels * (2 if learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, 4, "FCDM")
        c1 = self.t_embedder_1(t) + self.y_embedder_1(y)
        c2 = self.t_embedder_2(t) + self.y_embedder_2(y)
        c3 = self.t_embedder_3(t) + self.y_embedder_3(y)

        skip1 = self.encoder_level_1(self.x_embedder(x), c1)  # (B, C, H, W)
        skip2 = self.encoder_level_2(self.down1_2(skip1), c2)  # (B, 2C, H/2, W/2)
        x = self.latent(self.down2_3(skip2), c3)  # (B, 4C, H/4, W/4)
        x = self.reduce_chans_2(cat([self.up3_2(x), skip2], dim=1))
        x = self.decoder_level_2(x, c2)  # (B, 2C, H/2, W/2)
        x = self.reduce_chans_1(cat([self.up2_1(x), skip1], dim=1))
        x = self.decoder_level_1(x, c1)  # (B, C, H, W)
        return self.final_layer(self.output_layer(x), c1)
