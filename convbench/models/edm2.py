"""EDM2: a magnitude-preserving U-Net within the preconditioning of a denoiser.

Paper: arXiv:2312.02696, whose equations are cited below. Variants, sources and printed numbers: ``edm2.toml``.
Shape letters: B batch, C channels, E width of the condition, K classes, H W latent height and width, N = H * W.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adm import resized
from .layers import require_side

NORM_EPS = 1e-4  # added to the root mean square, not under the root
SILU_MAGNITUDE = 0.596  # root mean square of silu of a normal variable
CLIP = 256  # of activations


class MPLayer(nn.Module):
    """Linear layer or convolution without bias, whose weight is normalised in every forward pass (eq. 47, 66).

    y = W' x, where the part of W' for each output is w / (rms(w) + eps) gain / sqrt(n) with its n weights w, so only
    the direction of a weight matters. ``kernel`` 0: BC -> BC; 1 or 3: BCHW -> BCHW.
    """

    def __init__(self, width_in: int, width: int, kernel: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width_in, *([kernel] * 2 if kernel else [])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return linear_or_conv(x, magnitude_preserving(self.weight, gain).to(x.dtype))


class Fourier(nn.Module):
    """Fourier features sqrt(2) cos(x f + p) with frequencies and phases that are drawn once (eq. 75). B -> BC.

    Both are buffers of the official checkpoints and stay in float32 or wider when the network is cast.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        exact = self.freqs, self.phases
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.freqs.dtype.itemsize < 4:
            self.freqs, self.phases = (table.to(self.freqs.device) for table in exact)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (x.outer(self.freqs) + self.phases).cos() * math.sqrt(2)


class Resample(nn.Module):
    """Halve the side by the mean of four pixels, or double it by repetition; factor 1 returns x. BCHW -> BCHW."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return resized(x, self.factor)

    def count_macs(self, x: Tensor) -> dict[str, int]:
        """Count the depthwise 2x2 convolutions of the released code, four products per output of x (B, C, H, W).

        Upsampling also scales the kernel itself by four, which takes a product for each of its weights.
        """
        products = int(4 * x.numel() * self.factor**2)
        if self.factor == 1:
            return {}
        return {"dwconv2x2": products} if self.factor < 1 else {"conv_transpose": products, "mul": 4}


class EDM2Block(nn.Module):
    """Two convolutions with the condition in between, then attention; sums are weighted. BCHW, BE -> BCHW.

    Encoder blocks normalise each pixel after their 1x1 convolution; decoder blocks do not normalise, and project the
    shortcut after the two convolutions.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        condition: int,
        decoder: bool,
        factor: float = 1,
        heads: int = 0,  # 0 for no attention
        residual_share: float = 0.3,
        attention_share: float = 0.3,
    ) -> None:
        super().__init__()
        self.decoder, self.heads = decoder, heads
        self.residual_share, self.attention_share = residual_share, attention_share
        self.resample = Resample(factor)
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPLayer(width_in if decoder else width, width, 3)
        self.emb_linear = MPLayer(condition, width)
        self.conv_res1 = MPLayer(width, width, 3)
        self.conv_skip = MPLayer(width_in, width, 1) if width_in != width else None
        self.attn_qkv = MPLayer(width, 3 * width, 1) if heads else None
        self.attn_proj = MPLayer(width, width, 1) if heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = self.resample(x)
        skip = self.conv_skip or nn.Identity()
        if not self.decoder:
            x = normalized(skip(x), dims=[1])

        y = self.conv_res0(mp_silu(x))
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        y = self.conv_res1(mp_silu(y * scale[:, :, None, None].to(y.dtype)))
        x = mp_sum(skip(x) if self.decoder else x, y, self.residual_share)

        if self.attn_qkv and self.attn_proj:
            x = mp_sum(x, self.attn_proj(self.attention(self.attn_qkv(x))), self.attention_share)
        return x.clamp(-CLIP, CLIP)

    def attention(self, qkv: Tensor) -> Tensor:
        """Attention of all pixels with normalised q, k, v. (B, 3C, H, W) by head, channel, qkv -> (B, C, H, W)"""
        parts = qkv.flatten(2).unflatten(1, (self.heads, -1, 3))  # (B, heads, C/heads, 3, N)
        q, k, v = (part.mT for part in normalized(parts, dims=[2]).unbind(3))
        y = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, C/heads)
        return y.mT.flatten(1, 2).unflatten(2, qkv.shape[2:])


class UNet(nn.Module):
    """U-Net with ``depth`` blocks per level in the encoder, one more in the decoder; each level halves the side.

    x: (B, in_channels, S, S); noise: (B,) code of the noise level; rows: (B, K) one-hot classes, zeros for none.
    Returns (B, in_channels, S, S). As in the official keys, names of blocks contain the side of their level.
    """

    def __init__(
        self,
        side: int,
        width: int,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        depth: int = 3,
        attention_at: Sequence[int] = (16, 8),  # sides
        head_width: int = 64,
        in_channels: int = 4,
        num_classes: int = 1000,
        label_share: float = 0.5,
        skip_share: float = 0.5,
    ) -> None:
        super().__init__()
        self.label_share, self.skip_share = label_share, skip_share
        widths = [width * multiplier for multiplier in multipliers]
        condition = max(widths)
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = Fourier(width)
        self.emb_noise = MPLayer(width, condition)
        self.emb_label = MPLayer(num_classes, condition)

        sides = [side >> level for level in range(len(widths))]
        heads = {at: wide // head_width if at in attention_at else 0 for at, wide in zip(sides, widths, strict=True)}
        now = widths[0]
        self.enc = nn.ModuleDict({f"{side}x{side}_conv": MPLayer(in_channels + 1, now, 3)})
        skips = [now]
        for at, wide in zip(sides, widths, strict=True):
            if at != side:
                self.enc[f"{at}x{at}_down"] = EDM2Block(now, now, condition, decoder=False, factor=0.5)
                skips.append(now)
            for index in range(depth):
                self.enc[f"{at}x{at}_block{index}"] = EDM2Block(now, wide, condition, decoder=False, heads=heads[at])
                now = wide
                skips.append(now)
        self.dec = nn.ModuleDict()
        for at, wide in reversed(list(zip(sides, widths, strict=True))):
            if at == sides[-1]:  # always with attention
                self.dec[f"{at}x{at}_in0"] = EDM2Block(now, now, condition, decoder=True, heads=now // head_width)
                self.dec[f"{at}x{at}_in1"] = EDM2Block(now, now, condition, decoder=True)
            else:
                self.dec[f"{at}x{at}_up"] = EDM2Block(now, now, condition, decoder=True, factor=2)
            for index in range(depth + 1):
                block = EDM2Block(now + skips.pop(), wide, condition, decoder=True, heads=heads[at])
                self.dec[f"{at}x{at}_block{index}"] = block
                now = wide
        self.out_conv = MPLayer(now, in_channels, 3)

    def forward(self, x: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(noise).to(x.dtype))
        label = self.emb_label(rows.to(x.dtype) * math.sqrt(rows.shape[1]))
        emb = mp_silu(mp_sum(emb, label, self.label_share))  # (B, E)

        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # in place of biases
        skips = []
        for block in self.enc.values():
            x = block(x) if isinstance(block, MPLayer) else block(x, emb)
            skips.append(x)
        for name, block in self.dec.items():
            if "block" in name:
                x = mp_cat(x, skips.pop(), self.skip_share)
            x = block(x, emb)
        return self.out_conv(x, gain=self.out_gain)


class EDM2(nn.Module):
    """The U-Net as a denoiser, D(x; s) = c_skip x + c_out U(c_in x; ln(s) / 4).

    With d the standard deviation of the data, c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), and
    c_in = 1 / sqrt(s^2 + d^2) (EDM, arXiv:2206.00364).

    x: (B, in_channels, S, S) latents with noise of standard deviation t, of the side S = res / 8 in the keys;
    t: (B,) noise levels; y: (B,) class indices, ``num_classes`` for none, or (B, num_classes) one-hot rows. Returns
    (B, in_channels, S, S): the data. Computes in the type of x, but the sum around the network in float32 or wider.
    Raises ValueError on another side.
    """

    def __init__(
        self, width: int, res: int = 512, sigma_data: float = 0.5, num_classes: int = 1000, **options: Any
    ) -> None:
        super().__init__()
        self.side, self.sigma_data, self.num_classes = res // 8, sigma_data, num_classes
        self.unet = UNet(self.side, width, num_classes=num_classes, **options)
        self.logvar_fourier = Fourier(128)
        self.logvar_linear = MPLayer(128, 1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "EDM2")
        wide = torch.promote_types(x.dtype, torch.float32)
        data, sigma = x.to(wide), t.to(wide)[:, None, None, None]
        total = sigma.square() + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = sigma * self.sigma_data / total.sqrt()
        c_in = 1 / total.sqrt()
        predicted = self.unet((c_in * data).to(x.dtype), self.noise_code(t.to(wide)), self.one_hot(y))
        return (c_skip * data + c_out * predicted.to(wide)).to(x.dtype)

    def noise_code(self, sigma: Tensor) -> Tensor:
        """Code of a noise level for the U-Net: a quarter of its natural logarithm. (B,) -> (B,)"""
        return sigma.log() / 4

    def one_hot(self, y: Tensor) -> Tensor:
        """Convert class indices (B,) to one-hot rows (B, K), no class to zeros; rows are returned unchanged."""
        if y.dim() == 2:
            return y
        return (y[:, None] == torch.arange(self.num_classes, device=y.device)).float()

    def log_variance(self, t: Tensor) -> Tensor:
        """Log variance of the denoiser, which weights its training loss; unused in inference. (B,) -> (B, 1, 1, 1)"""
        code = self.logvar_fourier(self.noise_code(t)).to(self.logvar_linear.weight.dtype)
        return self.logvar_linear(code)[:, :, None, None]


def magnitude_preserving(weight: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """Compute w / (rms(w) + eps) gain / sqrt(n) for the n weights (out, in, ...) per output, at least in float32."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return normalized(wide, dims=list(range(1, weight.dim()))) * (gain / math.sqrt(weight[0].numel()))


def linear_or_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Apply a linear layer (weight (out, in)) or convolution (weight (out, in, k, k)) to x."""
    return F.linear(x, weight) if weight.dim() == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def normalized(x: Tensor, dims: list[int]) -> Tensor:
    """Compute x / (rms(x) + eps) along ``dims`` of x (B, C, ...), with the root mean square in float32 or wider."""
    wide = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=wide)
    return x / (NORM_EPS + length / math.sqrt(math.prod(x.shape[dim] for dim in dims))).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Magnitude-preserving silu of x (B, C, ...) for normal variables (eq. 81)."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Compute ((1 - s) a + s b) / sqrt((1 - s)^2 + s^2) of a, b (B, C, ...), with s the share of b (eq. 88)."""
    return a.lerp(b, share) / math.hypot(1 - share, share)


def mp_cat(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Concatenate channels of a and b (B, C, H, W), scaled by share / sqrt(channels), at unit magnitude (eq. 103)."""
    together = math.sqrt(a.shape[1] + b.shape[1]) / math.hypot(1 - share, share)
    return torch.cat([a * (together * (1 - share) / a.shape[1] ** 0.5), b * (together * share / b.shape[1] ** 0.5)], 1)
