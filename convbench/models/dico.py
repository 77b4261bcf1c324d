"""DiCo: a U-shaped diffusion backbone of pointwise and depthwise convolutions with compact channel attention.

Paper: arXiv:2505.11196. Variants, sources and printed numbers: ``dico.toml``.
Shape letters: B batch, C width of the stage, H W latent height and width.
"""

from collections.abc import Sequence

from torch import Tensor, cat, nn
from torch.nn import functional as F

from .dic import Head, Stem
from .layers import Downsample, LayerNorm2d, TimestepEmbedder, Upsample, modulate, modulation, require_multiple


class DiCoBlock(nn.Module):
    """Depthwise mixer, then pointwise perceptron; both modulated and gated by the condition. BCHW, BC -> BCHW."""

    def __init__(self, width: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(mlp_ratio * width)
        self.norm = LayerNorm2d()
        self.conv1 = nn.Conv2d(width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.conv3 = nn.Conv2d(width, width, 1)
        self.ca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid())
        self.conv4 = nn.Conv2d(width, hidden, 1)
        self.conv5 = nn.Conv2d(hidden, width, 1)
        self.adaLN_modulation = modulation(width, chunks=6)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, :, None, None].chunk(6, dim=1)

        y = self.conv1(modulate(self.norm(x), shift1, scale1))
        y = F.gelu(self.conv2(y))
        x = x + gate1 * self.conv3(y * self.ca(y))  # compact channel attention

        y = F.gelu(self.conv4(modulate(self.norm(x), shift2, scale2)))
        return x + gate2 * self.conv5(y)


class Stage(nn.ModuleList):
    """``depth`` blocks of one width and resolution. BCHW, BC -> BCHW."""

    def __init__(self, width: int, depth: int, mlp_ratio: float) -> None:
        super().__init__(DiCoBlock(width, mlp_ratio) for _ in range(depth))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for block in self:
            x = block(x, c)
        return x


class LabelEmbedder(nn.Module):
    """One class table for each of the three widths. B -> BC, B(2C), B(4C)."""

    def __init__(self, num_classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        for level, width in enumerate(widths):
            self.register_module(f"embedding_table_{level}", nn.Embedding(num_classes + 1, width))

    def forward(self, y: Tensor) -> tuple[Tensor, ...]:
        return tuple(table(y) for table in self.children())


class DiCo(nn.Module):
    """Two encoder stages, a middle and two decoder stages, with skips by concatenation.

    x: (B, in_channels, H, W) noisy latents, H and W divisible by 4; t: (B,) timesteps; y: (B,) class indices,
    ``num_classes`` for none. Returns (B, 2 * in_channels, H, W): the noise and the raw variance, or
    (B, in_channels, H, W) without ``learn_sigma``. Raises ValueError on another height or width.
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        mlp_ratio: float = 2,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 4 * width
        d1, d2, d3, d4, d5 = depths

        self.x_embedder = Stem(in_channels, w1)
        self.t_embedder_1 = TimestepEmbedder(w1)
        self.y_embedder = LabelEmbedder(num_classes, (w1, w2, w3))
        self.t_embedder_2 = TimestepEmbedder(w2)
        self.t_embedder_3 = TimestepEmbedder(w3)
        self.encoder_level_1 = Stage(w1, d1, mlp_ratio)
        self.down1_2 = Downsample(w1)
        self.encoder_level_2 = Stage(w2, d2, mlp_ratio)
        self.down2_3 = Downsample(w2)
        self.latent = Stage(w3, d3, mlp_ratio)
        self.up3_2 = Upsample(w3)
        self.reduce_chan_level2 = nn.Conv2d(w3, w2, 1)
        self.decoder_level_2 = Stage(w2, d4, mlp_ratio)
        self.up2_1 = Upsample(w2)
        # At full resolution the decoder keeps the width of the concatenation, 2C, and so the 2C condition.
        self.reduce_chan_level1 = nn.Conv2d(w2, w2, 1)
        self.decoder_level_1 = Stage(w2, d5, mlp_ratio)
        self.final_layer = Head(w2, in_channels * (2 if learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, 4, "DiCo")
        y1, y2, y3 = self.y_embedder(y)
        c1, c2, c3 = self.t_embedder_1(t) + y1, self.t_embedder_2(t) + y2, self.t_embedder_3(t) + y3

        skip1 = self.encoder_level_1(self.x_embedder(x), c1)  # (B, C, H, W)
        skip2 = self.encoder_level_2(self.down1_2(skip1), c2)  # (B, 2C, H/2, W/2)
        x = self.latent(self.down2_3(skip2), c3)  # (B, 4C, H/4, W/4)
        x = self.reduce_chan_level2(cat([self.up3_2(x), skip2], dim=1))
        x = self.decoder_level_2(x, c2)  # (B, 2C, H/2, W/2)
        x = self.reduce_chan_level1(cat([self.up2_1(x), skip1], dim=1))
        x = self.decoder_level_1(x, c2)  # (B, 2C, H, W)
        return self.final_layer(x, c2)
