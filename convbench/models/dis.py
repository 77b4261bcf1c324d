"""DiS: a diffusion backbone of Mamba layers that scan in both directions, with long skips between its two halves.

Paper: arXiv:2402.05608. Variants, sources and printed numbers: ``dis.toml``.
Shape letters: B batch, L tokens, C width, S latent height and width.
"""

import torch
from torch import Tensor, nn

from .layers import LabelEmbedder, PatchEmbed, RMSNorm, TokenHead, require_side
from .mamba import NORM_EPS, Mamba, add_residual, unpatchify
from .timestep import SinusoidalCode

KERNEL = 4  # of the convolution over the tokens
EXTRA_TOKENS = 2  # the class, then the time, in front of the patches


class DiSBlock(nn.Module):
    """A Mamba layer after a norm, on two streams: the output of the previous layer, and the sum of all earlier ones.

    x, residual, skip: (B, L, C) -> the output of this layer and the sum of all earlier ones, (B, L, C) each. ``skip``
    is merged into x first.
    """

    def __init__(self, width: int, skip: bool = False) -> None:
        super().__init__()
        self.mixer = Mamba(width, KERNEL, both_ways=True)
        self.norm = RMSNorm(width, NORM_EPS)
        if skip:
            self.skip_linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, residual: Tensor | None, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        residual = add_residual(x, residual)
        return self.mixer(self.norm(residual)), residual


class DiS(nn.Module):
    """Class, time and patches to tokens, ``depth + 1`` blocks of which the last half takes skips, tokens to pixels.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8 that the positions were learned for;
    t: (B,) timesteps; y: (B,) class indices, ``num_classes`` for none. Returns (B, 2 * in_channels, S, S): the
    noise and the raw variance, or (B, in_channels, S, S) without ``learn_sigma``. Raises ValueError on another side.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        patch: int,
        res: int = 256,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.side, self.patch = res // 8, patch
        self.grid = self.side // patch
        self.timestep_code = SinusoidalCode(width)
        self.pos_embed = nn.Parameter(torch.empty(1, EXTRA_TOKENS + self.grid**2, width))
        self.patch_embed = PatchEmbed(patch, in_channels, width)
        self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.label_emb = LabelEmbedder(num_classes, width)
        self.in_blocks = nn.ModuleList(DiSBlock(width) for _ in range(depth // 2))
        self.mid_block = DiSBlock(width)
        self.out_blocks = nn.ModuleList(DiSBlock(width, skip=True) for _ in range(depth // 2))
        self.norm_f = RMSNorm(width, NORM_EPS)
        self.final_layer = TokenHead(width, patch, in_channels * (2 if learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "DiS")
        time = self.time_embed(self.timestep_code(t).to(x.dtype))  # (B, C)
        label = self.label_emb(y)  # (B, C)
        x = torch.cat([label[:, None], time[:, None], self.patch_embed(x)], dim=1) + self.pos_embed  # (B, L, C)
        residual: Tensor | None = None
        skips: list[Tensor] = []
        for block in self.in_blocks:
            x, residual = block(x, residual)
            skips.append(x)
        x, residual = self.mid_block(x, residual)
        for block in self.out_blocks:
            x, residual = block(x, residual, skips.pop())
        x = self.norm_f(add_residual(x, residual))
        x = self.final_layer(x, time + label)[:, EXTRA_TOKENS:]  # (B, L, patch * patch * out_channels)
        return unpatchify(x, self.grid, self.patch)
