"""DiMSUM: a diffusion backbone of Mamba layers on both pixels and wavelets, with attention in between.

Paper: arXiv:2411.04168. Variants, sources and printed numbers: ``dimsum.toml``.
Shape letters: B batch, N tokens, C width, S latent height and width, G = S / patch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dit import Attention
from .layers import (
    LabelEmbedder,
    PatchEmbed,
    RMSNorm,
    TimestepEmbedder,
    TokenHead,
    modulate,
    modulation,
    require_side,
    token_norm,
)
from .mamba import NORM_EPS, Mamba, add_residual, unpatchify

KERNEL = 4  # of the convolution over the tokens
LEVELS = 2  # of the wavelet transform
WINDOW = 2**LEVELS  # side of the square of tokens that one coefficient of the last level covers
FUSION_HEADS = 8


class GatedMlp(nn.Module):
    """gelu(a) b, with a and b the halves of one projection, then a projection back. BNC -> BNC."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.gelu(a, approximate="tanh") * b)


class Wavelets(nn.Module):
    """One level of the Haar transform: four bands per map. (B, C, H, W) -> (B, 4C, H/2, W/2), bands first."""

    def __init__(self) -> None:
        super().__init__()
        for band in ("ll", "lh", "hl", "hh"):
            self.register_buffer(f"w_{band}", torch.empty(1, 1, 2, 2))
        self.fill_tables()

    def fill_tables(self) -> None:
        for own, band in zip(self.buffers(), haar(), strict=True):
            own.copy_(band)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return torch.cat(
            [F.conv2d(x, band.expand(channels, -1, -1, -1), stride=2, groups=channels) for band in self.buffers()],
            dim=1,
        )


class InverseWavelets(nn.Module):
    """Inverse of ``Wavelets``. (B, 4C, H/2, W/2), bands first -> (B, C, H, W)."""

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.empty(4, 1, 2, 2))
        self.fill_tables()

    def fill_tables(self) -> None:
        self.filters.copy_(haar())

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1] // 4
        grouped = x.unflatten(1, (4, channels)).transpose(1, 2).flatten(1, 2)  # the four bands of each map together
        return F.conv_transpose2d(grouped, self.filters.repeat(channels, 1, 1, 1), stride=2, groups=channels)


class ScanBlock(nn.Module):
    """A conditional Mamba layer over the tokens in one direction, modulated and gated. BNC, BD -> BNC."""

    def __init__(self, width: int, condition: int, grid: int, columns: bool, backwards: bool) -> None:
        super().__init__()
        self.grid, self.columns, self.backwards = grid, columns, backwards
        self.mixer = Mamba(width, KERNEL, condition=condition)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(condition, 3 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = self.ordered(x)
        shift, scale, gate = self.adaLN_modulation(c)[:, None].chunk(3, dim=-1)
        return self.restored(x + gate * self.mixer(modulate(x, shift, scale), c))

    def ordered(self, x: Tensor) -> Tensor:
        """Order tokens by rows (B, N, C) as the scan needs them. -> (B, N, C)"""
        x = self._transposed(x) if self.columns else x
        return x.flip(1) if self.backwards else x

    def restored(self, x: Tensor) -> Tensor:
        """Restore the order of tokens by rows. (B, N, C) -> (B, N, C)"""
        x = x.flip(1) if self.backwards else x
        return self._transposed(x) if self.columns else x

    def _transposed(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.grid, self.grid)).transpose(1, 2).flatten(1, 2)


class WaveletScanBlock(ScanBlock):
    """ScanBlock over the coefficients of a two-level Haar transform, by window. (B, N, C), (B, D) -> (B, N, C)."""

    def __init__(self, width: int, condition: int, grid: int, columns: bool) -> None:
        super().__init__(width, condition, grid, columns, backwards=False)
        modulation = self.adaLN_modulation
        del self.adaLN_modulation
        self.dwt = Wavelets()
        self.idwt = InverseWavelets()
        self.adaLN_modulation = modulation  # after the others, as in the official keys

    def ordered(self, x: Tensor) -> Tensor:
        b, _, c = x.shape
        maps = x.mT.unflatten(2, (self.grid, self.grid)).contiguous()
        bands = self.dwt(self.dwt(maps)) / WINDOW  # (B, 4 * 4 * C, G/4, G/4), the bands of the second level first
        bands = bands.unflatten(1, (4, 4, c)).transpose(1, 2).flatten(1, 3)
        # Reads the channels as if those of one coefficient were adjacent, as the released code does.
        windows = bands.unflatten(1, (c, WINDOW, WINDOW))  # (B, C, 4, 4, G/4, G/4)
        x = windows.permute(0, 4, 2, 5, 3, 1).reshape(b, self.grid, self.grid, c)
        side = self.grid // WINDOW
        x = x.unflatten(1, (-1, side)).unflatten(3, (-1, side))  # (B, G/side, side, G/side, side, C)
        return x.permute(*((0, 3, 1, 4, 2, 5) if self.columns else (0, 1, 3, 2, 4, 5))).reshape(b, -1, c)

    def restored(self, x: Tensor) -> Tensor:
        b, _, c = x.shape
        side = self.grid // WINDOW
        x = x.reshape(b, self.grid // side, self.grid // side, side, side, c)
        x = x.permute(*((0, 2, 4, 1, 3, 5) if self.columns else (0, 1, 3, 2, 4, 5)))
        windows = (x.reshape(b, self.grid // WINDOW, WINDOW, self.grid // WINDOW, WINDOW, c)) * WINDOW
        bands = windows.permute(0, 5, 2, 4, 1, 3).flatten(1, 3)  # (B, C * 4 * 4, G/4, G/4)
        bands = bands.unflatten(1, (4, 4, c)).transpose(1, 2).flatten(1, 3)
        return self.idwt(self.idwt(bands)).flatten(2).mT


class CrossFusion(nn.Module):
    """Two branches that attend to each other, concatenated and projected. (B, N, C/2), (B, N, C/2) -> (B, N, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv1 = nn.Linear(width // 2, 3 * width // 2)
        self.qkv2 = nn.Linear(width // 2, 3 * width // 2)
        self.proj = nn.Linear(width, width)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        q1, k1, v1 = self._heads(self.qkv1(x1))
        q2, k2, v2 = self._heads(self.qkv2(x2))
        y1, y2 = F.scaled_dot_product_attention(q1, k2, v2), F.scaled_dot_product_attention(q2, k1, v1)
        return self.proj(torch.cat([y.transpose(1, 2).flatten(2) for y in (y1, y2)], dim=-1))

    def extra_products(self, x1: Tensor, x2: Tensor) -> int:
        """Count the products of unfused attention as the reference does: q and k are scaled."""
        return 2 * x1.numel() + 2 * x2.numel()

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return qkv.unflatten(2, (3, FUSION_HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class DiMSUMBlock(nn.Module):
    """Half of the channels scanned as they are, half as wavelets, joined by attention; then a perceptron.

    x, residual: (B, N, C); c: (B, C). Returns the output of this block and the sum of all earlier ones, (B, N, C) each.
    """

    def __init__(self, width: int, grid: int, index: int) -> None:
        super().__init__()
        backwards, columns = index % 2 > 0, index % 4 >= 2
        self.norm = RMSNorm(width, NORM_EPS)
        self.spatial_mamba = ScanBlock(width // 2, width, grid, columns, backwards)
        self.freq_mamba = WaveletScanBlock(width // 2, width, grid, columns=backwards)
        self.proj = CrossFusion(width)
        self.norm_2 = RMSNorm(width, NORM_EPS)
        self.adaLN_modulation = modulation(width, chunks=3)
        self.mlp = GatedMlp(width, 4 * width)

    def forward(self, x: Tensor, residual: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
        residual = add_residual(x, residual)
        x = self.norm(residual)
        x1, x2 = x.chunk(2, dim=-1)
        x = x + self.proj(self.spatial_mamba(x1, c), self.freq_mamba(x2, c))
        shift, scale, gate = self.adaLN_modulation(c)[:, None].chunk(3, dim=-1)
        return x + gate * self.mlp(modulate(self.norm_2(x), shift, scale)), residual


class AttentionBlock(nn.Module):
    """A DiT block with a gated perceptron, shared by all its positions. BNC, BC -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = GatedMlp(width, 4 * width)
        self.adaLN_modulation = modulation(width, chunks=6)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(token_norm(x), shift1, scale1))
        return x + gate2 * self.mlp(modulate(token_norm(x), shift2, scale2))

    def extra_products(self, x: Tensor, c: Tensor) -> int:
        """Count the products of unfused attention, as in CrossFusion."""
        return 2 * x.numel()


class DiMSUM(nn.Module):
    """Patches to tokens, ``depth`` blocks with shared attention after every ``attention_every``, tokens to pixels.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8 that the positions were learned for;
    t: (B,) times in [0, 1); y: (B,) class indices, ``num_classes`` for none. Returns (B, in_channels, S, S): the
    velocity; with ``learn_sigma`` twice the channels, which no released model has. Raises ValueError on another
    side.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        attention_every: int = 4,
        res: int = 256,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = False,
    ) -> None:
        super().__init__()
        self.side, self.patch, self.attention_every = res // 8, patch, attention_every
        self.grid = self.side // patch
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid**2, width))
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.blocks = nn.ModuleList(DiMSUMBlock(width, self.grid, index) for index in range(depth))
        self.attn_block = AttentionBlock(width, heads)
        self.final_layer = TokenHead(width, patch, in_channels * (2 if learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "DiMSUM")
        c = self.t_embedder(t) + self.y_embedder(y)  # (B, C)
        x = self.x_embedder(x) + self.pos_embed  # (B, N, C)
        residual = None
        for index, block in enumerate(self.blocks, start=1):
            x, residual = block(x, residual, c)
            if index % self.attention_every == 0:
                x = self.attn_block(x, c)
        x = self.final_layer(x, c)  # (B, N, patch * patch * out_channels)
        return unpatchify(x, self.grid, self.patch)


def haar() -> Tensor:
    """Filters of the four bands: low-low, low-high (across rows), high-low, high-high. -> (4, 1, 2, 2)"""
    half = torch.tensor(0.5, device="cpu").sqrt()
    low, high = torch.stack([half, half]), torch.stack([half, -half])
    return torch.stack([torch.outer(rows, columns) for rows in (low, high) for columns in (low, high)])[
        [0, 2, 1, 3], None
    ]
