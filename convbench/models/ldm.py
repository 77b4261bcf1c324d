"""LDM: a convolutional U-Net over latents, with transformer blocks that take the class by cross-attention.

Paper: arXiv:2112.10752. Variants, sources and printed numbers: ``ldm.toml``.
Shape letters: B batch, C channels, E width of the timestep's condition, H W latent height and width, N = H * W.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import require_multiple
from .timestep import SinusoidalCode

GROUPS = 32  # of every group norm
CLASS_WIDTH = 512
SCHEDULE = {
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
    *("logvar", "lvlb_weights"),
}
"""Keys of the released checkpoints beside the networks."""


class ResBlock(nn.Module):
    """Norm and convolution, the condition added, norm and convolution, plus the input. BCHW, BE -> BCHW."""

    def __init__(self, width_in: int, width: int, condition: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width_in), nn.SiLU(), nn.Conv2d(width_in, width, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(condition, width))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Identity(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y = self.in_layers(x) + self.emb_layers(c)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(y)


class Attention(nn.Module):
    """Attention with one head from tokens to a context. BNC, BMD -> BNC."""

    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (part[:, None] for part in (self.to_q(x), self.to_k(context), self.to_v(context)))  # (B, 1, N, C)
        return self.to_out(F.scaled_dot_product_attention(q, k, v)[:, 0])

    def extra_products(self, x: Tensor, context: Tensor) -> int:
        """Count the products that scale the scores of x (B, N, C) in the released, unfused attention."""
        return x.shape[0] * x.shape[1] * context.shape[1]


class GatedGelu(nn.Module):
    """a gelu(b), with a and b the halves of one projection. BNC -> BNF."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.proj(x).chunk(2, dim=-1)
        return a * F.gelu(b)


class FeedForward(nn.Module):
    """A gated perceptron of four times the width. BNC -> BNC."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedGelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the class, perceptron, each after a norm. BNC, B1D -> BNC."""

    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context_width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.norm1(x)
        x = x + self.attn1(tokens, tokens)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a map, between two 1x1 convolutions. BCHW, B1D -> BCHW."""

    def __init__(self, width: int, context_width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context_width)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.proj_in(self.norm(x))
        tokens = y.flatten(2).mT.contiguous()  # (B, N, C)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.mT.reshape(y.shape))


class Downsample(nn.Module):
    """Halve height and width. (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width by repetition, then a convolution. (B, C, H, W) -> (B, C, 2H, 2W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stage(nn.Module):
    """A sequence of layers, each with the further inputs that it takes. BCHW, BE, B1D -> BCHW."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)

    def forward(self, x: Tensor, c: Tensor, context: Tensor) -> Tensor:
        for layer in self.children():
            if isinstance(layer, ResBlock):
                x = layer(x, c)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNet(nn.Module):
    """``len(multipliers)`` levels of ``depth`` residual blocks, one more in the decoder. BCHW, B, B1D -> BCHW."""

    def __init__(
        self, width: int, multipliers: Sequence[int], depth: int, attention_at: Sequence[int], channels: int, out: int
    ) -> None:
        super().__init__()
        condition = 4 * width
        self.timestep_code = SinusoidalCode(width)
        self.time_embed = nn.Sequential(nn.Linear(width, condition), nn.SiLU(), nn.Linear(condition, condition))

        def stage(width_in: int, width: int, factor: int) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(width_in, width, condition)]
            return layers + ([SpatialTransformer(width, CLASS_WIDTH)] if factor in attention_at else [])

        widths = [multiplier * width for multiplier in multipliers]
        now, factor = width, 1
        stages = [Stage(nn.Conv2d(channels, now, 3, padding=1))]
        skips = [now]
        for level, wide in enumerate(widths):
            for _ in range(depth):
                stages.append(Stage(*stage(now, wide, factor)))
                now = wide
                skips.append(now)
            if level < len(widths) - 1:
                stages.append(Stage(Downsample(now)))
                skips.append(now)
                factor *= 2
        self.input_blocks = nn.ModuleList(stages)
        self.middle_block = Stage(
            ResBlock(now, now, condition), SpatialTransformer(now, CLASS_WIDTH), ResBlock(now, now, condition)
        )
        stages = []
        for level, wide in reversed(list(enumerate(widths))):
            for index in range(depth + 1):
                layers = stage(now + skips.pop(), wide, factor)
                now = wide
                if level and index == depth:
                    layers.append(Upsample(now))
                    factor //= 2
                stages.append(Stage(*layers))
        self.output_blocks = nn.ModuleList(stages)
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, now), nn.SiLU(), nn.Conv2d(now, out, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        c = self.time_embed(self.timestep_code(t).to(x.dtype))  # (B, E)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, c, context)
            skips.append(x)
        x = self.middle_block(x, c, context)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), c, context)
        return self.out(x)


class LDM(nn.Module):
    """The U-Net and the class table under the keys of the official checkpoint.

    x: (B, in_channels, H, W) noisy latents of H = height / 4 and W = width / 4 pixels, divisible by 2 to the number of
    levels minus one; t: (B,) timesteps; y: (B,) class indices, ``num_classes`` for none. Returns
    (B, in_channels, H, W): the noise; with ``learn_sigma`` also the raw variance, which no released model has.
    """

    def __init__(
        self,
        width: int,
        multipliers: Sequence[int],
        depth: int,
        attention_at: Sequence[int],  # downsampling factors
        in_channels: int = 3,
        num_classes: int = 1000,
        learn_sigma: bool = False,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (len(multipliers) - 1)
        out = in_channels * (2 if learn_sigma else 1)
        unet = UNet(width, multipliers, depth, attention_at, in_channels, out)
        self.model = nn.ModuleDict({"diffusion_model": unet})
        self.cond_stage_model = nn.ModuleDict({"embedding": nn.Embedding(num_classes + 1, CLASS_WIDTH)})

    def from_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select the network's entries of a checkpoint, without autoencoder, averaged copy and schedule."""
        return {
            key: value
            for key, value in state.items()
            if not key.startswith(("first_stage_model.", "model_ema.")) and key not in SCHEDULE
        }

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, self.multiple, "LDM")
        context = self.cond_stage_model["embedding"](y)[:, None]  # (B, 1, CLASS_WIDTH)
        return self.model["diffusion_model"](x, t, context)
