"""ADM: a convolutional U-Net with attention at low resolutions, in pixel space, and cascades of two such networks.

Paper: arXiv:2105.05233. Variants, sources and printed numbers: ``adm.toml``.
Shape letters: B batch, C channels, E width of the condition, H W height and width, N = H * W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import modulate, require_multiple
from .timestep import SinusoidalCode

GROUPS = 32  # of every group norm


class ResBlock(nn.Module):
    """Norm, convolution, norm modulated by the condition, convolution, plus the input. BCHW, BE -> BCHW.

    ``resample`` 0.5 or 2 halves or doubles height and width between the first norm and its convolution, and on the
    shortcut, by the mean of four pixels or by repetition.
    """

    def __init__(self, width_in: int, width: int, condition: int, dropout: float, resample: float = 1) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width_in), nn.SiLU(), nn.Conv2d(width_in, width, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(condition, 2 * width))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(width, width, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        y = conv(resized(act(norm(x)), self.resample))
        scale, shift = self.emb_layers(c)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        y = modulate(norm(y), shift, scale)
        for layer in rest:
            y = layer(y)
        return self.skip_connection(resized(x, self.resample)) + y


class AttentionBlock(nn.Module):
    """Norm, self-attention of all pixels, plus the input. BCHW -> BCHW.

    ``qkv_first``: split the channels of the projection into q, k, v and then into heads, instead of the reverse.
    """

    def __init__(self, width: int, heads: int, qkv_first: bool) -> None:
        super().__init__()
        self.split = (3, heads, -1) if qkv_first else (heads, 3, -1)
        self.axis = 1 if qkv_first else 2
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)  # (B, C, N)
        qkv = self.qkv(self.norm(tokens)).mT.unflatten(2, self.split)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(self.axis + 1))  # (B, heads, N, C/heads) each
        scale = q.shape[-1] ** -0.25  # applied to q and k, so that their product stays in range in half precision
        y = F.scaled_dot_product_attention(
            (q * scale).contiguous(), (k * scale).contiguous(), v.contiguous(), scale=1.0
        )
        return x + self.proj_out(y.mT.flatten(1, 2)).unflatten(2, x.shape[2:])


class Stage(nn.Module):
    """A sequence of layers, of which residual blocks take the condition. BCHW, BE -> BCHW."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x, c) if isinstance(layer, ResBlock) else layer(x)
        return x


class ADM(nn.Module):
    """A U-Net of ``len(multipliers)`` levels of ``depth`` residual blocks, one more in the decoder.

    x: (B, 3, H, W) noisy pixels, H and W divisible by 2 to the number of levels minus one. With ``low_res`` n, the
    network is an upsampler: (B, 6, H, W), where the last three channels are the image of H/n x W/n to enlarge, each
    pixel repeated n x n times. The network takes one pixel of each n x n and resizes bilinearly, as the official code
    does with the small image that it takes beside x.
    t: (B,) timesteps; y: (B,) class indices without a null class. Returns (B, 6, H, W): the noise and the raw variance.
    """

    def __init__(
        self,
        width: int,
        multipliers: Sequence[float],
        depth: int,
        attention_at: Sequence[int],  # downsampling factors
        heads: int | None = None,
        head_width: int | None = None,  # in place of heads
        qkv_first: bool = False,
        low_res: int | None = None,
        dropout: float = 0,
        in_channels: int = 3,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.multiple, self.low_res = 2 ** (len(multipliers) - 1), low_res
        condition = 4 * width
        self.timestep_code = SinusoidalCode(width)
        self.time_embed = nn.Sequential(nn.Linear(width, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.label_emb = nn.Embedding(num_classes, condition)

        def stage(width_in: int, width: int, factor: int) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(width_in, width, condition, dropout)]
            if factor in attention_at:
                layers.append(AttentionBlock(width, heads or width // (head_width or width), qkv_first))
            return layers

        widths = [int(multiplier * width) for multiplier in multipliers]
        now, factor = widths[0], 1
        stages = [Stage(nn.Conv2d(in_channels * (2 if low_res else 1), now, 3, padding=1))]
        skips = [now]
        for level, wide in enumerate(widths):
            for _ in range(depth):
                stages.append(Stage(*stage(now, wide, factor)))
                now = wide
                skips.append(now)
            if level < len(widths) - 1:
                stages.append(Stage(ResBlock(now, now, condition, dropout, resample=0.5)))
                skips.append(now)
                factor *= 2
        self.input_blocks = nn.ModuleList(stages)
        self.middle_block = Stage(
            ResBlock(now, now, condition, dropout),
            AttentionBlock(now, heads or now // (head_width or now), qkv_first),
            ResBlock(now, now, condition, dropout),
        )
        stages = []
        for level, wide in reversed(list(enumerate(widths))):
            for index in range(depth + 1):
                layers = stage(now + skips.pop(), wide, factor)
                now = wide
                if level and index == depth:
                    layers.append(ResBlock(now, now, condition, dropout, resample=2))
                    factor //= 2
                stages.append(Stage(*layers))
        self.output_blocks = nn.ModuleList(stages)
        channels = in_channels * (2 if learn_sigma else 1)
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, now), nn.SiLU(), nn.Conv2d(now, channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if self.low_res:
            x, repeated = x.chunk(2, dim=1)
            x = torch.cat([x, enlarged(repeated[:, :, :: self.low_res, :: self.low_res], x)], dim=1)
        return self.network(x, t, y)

    def network(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Run the U-Net: x (B, 3 or 6, H, W) with the small image already enlarged, t (B,), y (B,) -> (B, 6, H, W)."""
        require_multiple(x, self.multiple, "ADM")
        c = self.time_embed(self.timestep_code(t).to(x.dtype)) + self.label_emb(y)  # (B, E)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, c)
            skips.append(x)
        x = self.middle_block(x, c)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), c)
        return self.out(x)


class ADMU(nn.Module):
    """A cascade of a network for a small image and an upsampler, with one evaluation of each.

    x: (B, 3, H, W) noisy pixels of the large image; t: (B,) timesteps; y: (B,) class indices. Returns (B, 6, H, W):
    noise and raw variance of the upsampler.

    Sampling runs all steps of the first network and then those of the second, each on a noisy image of its own size.
    In a single forward pass the first network takes one of each n x n pixels of x, noise as white as x itself, and the
    first three channels of its output replace the small image that its last step would give.
    """

    def __init__(self, stages: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        base, upsampler = stages
        self.base = ADM(**base)
        self.upsampler = ADM(**upsampler)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        step = self.upsampler.low_res or 1
        small = self.base(x[:, :, ::step, ::step], t, y)[:, : x.shape[1]]
        return self.upsampler.network(torch.cat([x, enlarged(small, x)], dim=1), t, y)


def resized(x: Tensor, factor: float) -> Tensor:
    """Halve height and width by the mean of four pixels, or double them by repetition; factor 1 returns x unchanged.

    (B, C, H, W) -> (B, C, factor * H, factor * W)
    """
    if factor < 1:
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=factor, mode="nearest") if factor > 1 else x


def enlarged(small: Tensor, large: Tensor) -> Tensor:
    """Resize a small image bilinearly to the size of a large one. (B, C, h, w), (B, C, H, W) -> (B, C, H, W)"""
    return F.interpolate(small, large.shape[2:], mode="bilinear")
