"""DiM: a diffusion backbone of Mamba layers that scan a padded grid of patches, each in a different direction.

Paper: arXiv:2405.14224. Variants, sources and printed numbers: ``dim.toml``.
Shape letters: B batch, L tokens, C width, S latent height and width, G = S / patch, P = G + PAD.

The tokens are the time, the class, PAD learned tokens, then the P x P grid: the G x G patches with PAD learned columns
to the right and PAD learned rows below, so that a scan meets them at the end of every line.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import LabelEmbedder, PatchEmbed, RMSNorm, modulate, require_side
from .mamba import NORM_EPS, Mamba, unpatchify
from .timestep import SinusoidalCode

KERNEL = 3  # of the convolution over the tokens
PAD = 3
EXTRA_TOKENS = 2  # the time, then the class, in front
FRONT = EXTRA_TOKENS + PAD  # tokens that no scan moves
CODE = 256  # channels of the timestep code of the shared modulation
DIRECTIONS = ((False, False), (False, True), (True, False), (True, True))  # (by columns, backwards)
NARROW = 512  # up to this width one linear layer merges a skip; above it, each input has its own


class Modulation(nn.Module):
    """Shift, scale and gate for all layers from time and class; each layer adds its own table. B, B -> B(3C)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.timestep_code = SinusoidalCode(CODE)
        self.emb = nn.ModuleDict(
            {
                "timestep_embedder": nn.Sequential(
                    OrderedDict(linear_1=nn.Linear(CODE, width), act=nn.SiLU(), linear_2=nn.Linear(width, width))
                ),
                "class_embedder": LabelEmbedder(num_classes, width),
            }
        )
        self.linear = nn.Linear(width, 3 * width)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        code = self.timestep_code(t).to(self.linear.weight.dtype)
        return self.linear(F.silu(self.emb["timestep_embedder"](code) + self.emb["class_embedder"](y)))

    def extra_products(self, t: Tensor, y: Tensor) -> int:
        """Count the products by which the released code multiplies the code of t (B,) by one."""
        return t.shape[0] * CODE // 2


class Norm(nn.Module):
    """RMS norm under the official keys, which have one more level. BLC -> BLC."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class DiMBlock(nn.Module):
    """A Mamba layer over the grid in one direction, modulated and gated.

    x, residual, skip: (B, L, C); c: (B, 3, C). Returns two streams of (B, L, C): the output of the layer and its input,
    in the same token order. Their sum is the input of the next layer.
    """

    def __init__(self, width: int, side: int, turn: tuple[int, int], skip: bool) -> None:
        super().__init__()
        self.side, self.turn = side, turn
        self.scale_shift_table = nn.Parameter(torch.empty(3, width))
        self.norm1 = Norm(width)
        self.attn1 = Mamba(width, KERNEL)
        self.skip_linear: nn.Linear | nn.ModuleList | None = None
        if skip and width <= NARROW:
            self.skip_linear = nn.Linear(2 * width, width)
        elif skip:
            self.skip_linear = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])

    def forward(self, x: Tensor, residual: Tensor, c: Tensor, skip: Tensor | None) -> tuple[Tensor, Tensor]:
        x = x + residual
        if skip is not None:
            x = self._merged(x, skip)
        x = reordered(x, self.side, *self.turn)
        shift, scale, gate = (self.scale_shift_table + c).chunk(3, dim=1)
        return (1 + gate) * self.attn1(modulate(self.norm1(x), shift, scale)), x

    def _merged(self, x: Tensor, skip: Tensor) -> Tensor:
        if isinstance(self.skip_linear, nn.ModuleList):
            first, second = self.skip_linear
            return first(x) + second(skip)
        assert self.skip_linear is not None
        return self.skip_linear(torch.cat([x, skip], dim=-1))


class Padding(nn.Module):
    """Depthwise convolutions of the patches before the first and after the last layer, and the learned tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pad_token_dec_split = nn.Parameter(torch.empty(1, PAD, width))
        self.pad_token = nn.Parameter(torch.empty(1, width, PAD))
        self.first_smoother = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.last_smoother = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def grid(self, x: Tensor) -> Tensor:
        """Add the learned tokens before and around the patches. (B, C, G, G) -> (B, PAD + P * P, C)"""
        b, c, g, _ = x.shape
        x = self.first_smoother(x)
        x = torch.cat([x, self.pad_token[:, :, None].expand(b, c, g, PAD)], dim=3)
        x = torch.cat([x, self.pad_token[:, :, :, None].expand(b, c, PAD, g + PAD)], dim=2)
        return torch.cat([self.pad_token_dec_split.expand(b, PAD, c), x.flatten(2).mT], dim=1)

    def patches(self, x: Tensor, side: int) -> Tensor:
        """Remove the learned tokens. (B, P * P, C) -> (B, G * G, C)"""
        x = x.mT.unflatten(2, (side, side))[:, :, : side - PAD, : side - PAD].contiguous()
        return self.last_smoother(x).flatten(2).mT


class DiM(nn.Module):
    """Time, class and patches to tokens, ``depth`` layers of which the last half takes skips, tokens to pixels.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8 that the positions were learned for;
    t: (B,) timesteps; y: (B,) class indices, ``num_classes`` for none. Returns (B, in_channels, S, S): the noise; with
    ``learn_sigma`` also the raw variance, which no released model has. Raises ValueError on another side.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        patch: int,
        res: int = 256,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = False,
    ) -> None:
        super().__init__()
        self.side, self.patch = res // 8, patch
        self.grid = self.side // patch
        self.middle = (depth - 1) // 2
        self.timestep_code = SinusoidalCode(width)
        self.additional_embed = nn.Parameter(torch.empty(1, EXTRA_TOKENS + self.grid**2, width))
        self.pos_embed = PatchEmbed(patch, in_channels, width)
        order = scan_order(depth)
        self.transformer_blocks = nn.ModuleList(
            DiMBlock(width, self.grid + PAD, (before, now), skip=index > self.middle)
            for index, (before, now) in enumerate(zip([0, *order], order, strict=False))
        )
        self.norm_out = Norm(width)
        self.adaln_single = Modulation(num_classes, width)
        self.label_emb = nn.Embedding(num_classes + 1, width)
        self.a4m_adapter = Padding(width)
        self.proj_out_2 = nn.Linear(width, patch * patch * in_channels * (2 if learn_sigma else 1))
        self.proj_out_1 = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "DiM")
        time, label = self.timestep_code(t).to(x.dtype), self.label_emb(y)  # (B, C) each
        x = torch.cat([time[:, None], label[:, None], self.pos_embed(x)], dim=1) + self.additional_embed
        extra, x = x[:, :EXTRA_TOKENS], x[:, EXTRA_TOKENS:].mT.unflatten(2, (self.grid, self.grid))
        x = torch.cat([extra, self.a4m_adapter.grid(x)], dim=1)  # (B, L, C)
        c = self.adaln_single(t, y).unflatten(1, (3, -1))  # (B, 3, C)
        residual = torch.zeros_like(x)
        skips: list[Tensor] = []
        for index, block in enumerate(self.transformer_blocks):
            x, residual = block(x, residual, c, skips.pop() if index > self.middle else None)
            if 0 < index <= self.middle:
                skips.append(x + residual)
        x = self.a4m_adapter.patches((x + residual)[:, FRONT:], self.grid + PAD)
        shift, scale = self.proj_out_1(F.silu(time + label))[:, None].chunk(2, dim=-1)
        x = self.proj_out_2(modulate(self.norm_out(x), shift, scale))  # (B, G * G, patch * patch * out_channels)
        return unpatchify(x, self.grid, self.patch)


def scan_order(depth: int) -> list[int]:
    """Choose the scan direction of each layer, an index of DIRECTIONS.

    Layers that store a skip cycle forwards through the four directions and layers that take one cycle backwards, so
    that both have the same token order. The first and last layers scan by rows.
    """
    return [min(index, depth - 1 - index) % len(DIRECTIONS) for index in range(depth)]


def reordered(x: Tensor, side: int, before: int, now: int) -> Tensor:
    """Reorder the grid tokens of x from one scan direction to another. (B, L, C) -> (B, L, C)"""
    (columns, backwards), (to_columns, to_backwards) = DIRECTIONS[before], DIRECTIONS[now]
    front, grid = x[:, :FRONT], x[:, FRONT:]
    if columns != to_columns:
        grid = grid.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)
    if backwards != to_backwards:
        grid = grid.flip(1)
    return torch.cat([front, grid], dim=1)
