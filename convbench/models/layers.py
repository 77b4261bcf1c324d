"""Layers that several families share. Attribute names are those of the official checkpoints.

Shape letters: B batch, C channels, H W latent height and width, N tokens.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6
FREQUENCIES = 128  # of the timestep code
# Entries of its table that were not rounded to nearest on the machines of the reference outputs: for the core families
# and the baselines, and for the families added in November 2026.
ROUNDED_UP, ROUNDED_UP_2026 = (13, 44, 119), (12, 106)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each pixel, without affine. BCHW -> BCHW."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=NORM_EPS).permute(0, 3, 1, 2)


class RMSNorm(nn.Module):
    """x / rms(x) times a learned scale, computed in float32. (..., C) -> (..., C) in the type of the weight."""

    def __init__(self, width: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, eps=self.eps).to(self.weight.dtype) * self.weight

    def count_macs(self, x: Tensor) -> dict[str, int]:
        """Count unfused operations: a mean per token, a product with its inverse root and one with the scale."""
        return {"mul": 2 * x.numel(), "pool_mean": x.numel() // x.shape[-1]}


class TimestepEmbedder(nn.Module):
    """Sinusoidal code of the timestep, then a two-layer perceptron. B -> BC.

    The code is cos(t f_i), then sin(t f_i), with f_i = exp(-ln(period) i / 128), float32 in every precision:
    half precision cannot represent timesteps up to 999.
    """

    frequencies: Tensor

    def __init__(self, width: int, rounded_up: Sequence[int] = ROUNDED_UP, period: int = 10_000) -> None:
        super().__init__()
        self.rounded_up, self.period = rounded_up, period
        # Whole multiples of 2^-37, the spacing of the smallest: exact as float32 and, unlike a float buffer,
        # not rounded by .half() or .bfloat16().
        self.register_buffer("frequencies", torch.empty(FREQUENCIES, dtype=torch.int64), persistent=False)
        self.fill_tables()
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def fill_tables(self) -> None:
        self.frequencies.copy_((timestep_frequencies(self.rounded_up, self.period).double() * 2**37).long())

    def code(self, t: Tensor) -> Tensor:
        """Compute the sinusoidal code in float32, the same for every width. (B,) -> (B, 2 * FREQUENCIES)"""
        angles = t.float()[:, None] * (self.frequencies.double() * 2**-37).float()
        return torch.cat([angles.cos(), angles.sin()], dim=1)

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(self.code(t).to(next(self.mlp.parameters()).dtype))


def timestep_frequencies(rounded_up: Sequence[int] = ROUNDED_UP, period: int = 10_000) -> Tensor:
    """Compute exp(-ln(period) i / 128) for i = 0 .. 127 in float32, identical on every machine. -> (128,)

    The last digit of a float32 exp depends on the processor and changes a model's output by 1e-5. So it is computed in
    float64 and rounded, the entries ``rounded_up`` to the number above the nearest.
    """
    exponents = -math.log(period) * torch.arange(FREQUENCIES, dtype=torch.float32, device="cpu") / FREQUENCIES
    table = exponents.double().exp().float()
    up = torch.tensor(rounded_up, device="cpu")
    table[up] = table[up].nextafter(torch.tensor(1.0, device="cpu"))
    return table


class LabelEmbedder(nn.Module):
    """One learned row per class; the last row is the null class of guidance. B -> BC."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class Downsample(nn.Module):
    """Halve height and width, double the channels. (B, C, H, W) -> (B, 2C, H/2, W/2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    """Double height and width, halve the channels. (B, C, H, W) -> (B, C/2, 2H, 2W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class PatchEmbed(nn.Module):
    """Cut the latent into patches and project each to a token. (B, C, H, W) -> (B, N, width)."""

    def __init__(self, patch: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TokenHead(nn.Module):
    """Norm, modulation and projection of each token to its pixels. (B, N, C), (B, C) -> (B, N, p*p*out)."""

    def __init__(self, width: int, patch: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, patch * patch * out_channels)
        self.adaLN_modulation = modulation(width, chunks=2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(token_norm(x), shift, scale))


def modulation(width: int, chunks: int) -> nn.Sequential:
    """Adaptive part of a block: maps the condition to ``chunks`` vectors of the block's width. BC -> B(chunks*C)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, chunks * width))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Compute x (1 + scale) + shift with x (B, C, H, W) or (B, N, C), broadcast over space or tokens."""
    return x * (1 + scale) + shift


def token_norm(x: Tensor) -> Tensor:
    """Layer norm over the channels of each token, without affine. (B, N, C) -> (B, N, C)"""
    return F.layer_norm(x, (x.shape[-1],), eps=NORM_EPS)


def pixels_from_tokens(tokens: Tensor, grid: int | tuple[int, int], patch: int) -> Tensor:
    """Assemble an image from patches: (B, rows*columns, patch*patch*C) -> (B, C, rows*patch, columns*patch).

    Args:
        grid: rows and columns of tokens, or one number for both.
    """
    b, _, width = tokens.shape
    rows, columns = grid if isinstance(grid, tuple) else (grid, grid)
    c = width // patch**2
    pixels = torch.einsum("nhwpqc->nchpwq", tokens.reshape(b, rows, columns, patch, patch, c))
    return pixels.reshape(b, c, rows * patch, columns * patch)


def position_table(width: int, grid: int) -> Tensor:
    """Fixed sine-cosine position table of a square token grid. -> (1, grid*grid, width), float32.

    The first half of the channels encodes the column, the second half the row; each half has sines, then
    cosines, of the coordinate times 10000^(-i / (width/4)). Computed in float64 (Vaswani et al. 2017, in 2-D).
    """
    frequencies = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, width/2)
    column = line[None, :, :].expand(grid, grid, -1)
    row = line[:, None, :].expand(grid, grid, -1)
    return torch.cat([column, row], dim=2).reshape(1, grid * grid, width).float()


def require_multiple(x: Tensor, multiple: int, name: str) -> None:
    """Raise ValueError unless height and width of a latent (B, C, H, W) are multiples of ``multiple``."""
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(f"{name} needs a latent height and width divisible by {multiple}, got {height}x{width}")


def require_side(x: Tensor, side: int, name: str, factor: int = 8) -> None:
    """Raise ValueError unless x (B, C, H, W) has the ``side`` that the position table was made for.

    Args:
        factor: image pixels per pixel of x along a side; 1 in pixel space.
    """
    height, width = x.shape[-2:]
    if (height, width) != (side, side):
        what = f"{side}x{side} " + ("images" if factor == 1 else f"latents ({factor * side} px)")
        square = f"square {'images' if factor == 1 else 'latents'} only"
        raise ValueError(
            f"this {name} is built for {what}, got {height}x{width}: "
            f"create it with res={factor * height}" + ("" if height == width else f" ({square})")
        )
