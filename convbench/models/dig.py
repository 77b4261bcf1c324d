"""DiG: a diffusion backbone that mixes tokens by gated linear attention, cycling through four scan directions.

Paper: arXiv:2405.18428. Variants, sources and printed numbers: ``dig.toml``.
Shape letters: B batch, N tokens, C width, H W latent height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gla import GLA
from .layers import (
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    TokenHead,
    modulate,
    modulation,
    pixels_from_tokens,
    position_table,
    require_side,
    token_norm,
)

GATE_RANK = 16
GATE_TEMPERATURE = 16  # the log decay is divided by it


class GatedHeadNorm(nn.Module):
    """RMS norm of each head with one learned scale, times swish of the output gate. x, gate: (B, N, heads, V)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        y = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return y.to(x.dtype) * self.weight * F.silu(gate)

    def count_macs(self, x: Tensor, gate: Tensor) -> dict[str, int]:
        """Count nothing for x and gate (B, N, heads, V): the released operator is fused and opaque to profilers."""
        return {}


class GatedLinearAttention(nn.Module):
    """Data-dependent decay, linear in the number of tokens. BNC -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        key_width, self.heads = width // 2, heads
        self.q_proj = nn.Linear(width, key_width, bias=False)
        self.k_proj = nn.Linear(width, key_width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.g_proj = nn.Linear(width, width, bias=False)
        self.gk_proj = nn.Sequential(nn.Linear(width, GATE_RANK, bias=False), nn.Linear(GATE_RANK, key_width))
        self.o_proj = nn.Linear(width, width, bias=False)
        self.g_norm_swish_gate = GatedHeadNorm(width // heads)
        self.core = GLA()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, decay = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, K or V)
            for project in (self.q_proj, self.k_proj, self.v_proj, self.gk_proj)
        )
        log_decay = F.logsigmoid(decay) / GATE_TEMPERATURE
        y = self.core(q / q.shape[-1] ** 0.5, k, v, log_decay).transpose(1, 2)  # (B, N, heads, V)
        gate = self.g_proj(x).unflatten(-1, (self.heads, -1))
        return self.o_proj(self.g_norm_swish_gate(y, gate).flatten(-2))


class SwiGLU(nn.Module):
    """swish(a) b, with a and b the halves of one projection, then a projection back. BNC -> BNC."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-(8 * width // 3) // 256) * 256  # two thirds of 4C, rounded up to a multiple of 256
        self.gate_proj = nn.Linear(width, 2 * hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.gate_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(a) * b)


class DiGBlock(nn.Module):
    """Linear attention, perceptron, then a depthwise 3x3 convolution of the token grid. BNC, BC -> BNC."""

    # torchprofile reads a trace of the released block, which holds four products of sizes, one element each.
    extra_products = 4

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.attn = GatedLinearAttention(width, heads)
        self.mlp = SwiGLU(width)
        self.adaLN_modulation = modulation(width, chunks=6)
        self.dw_conv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(token_norm(x), shift1, scale1))
        x = x + gate2 * self.mlp(modulate(token_norm(x), shift2, scale2))
        pixels = x.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # (B, C, grid, grid)
        return self.dw_conv(pixels).flatten(2).transpose(1, 2)  # replaces x, without a residual


class DiG(nn.Module):
    """Patches to tokens, ``depth`` blocks that scan the grid in rotating directions, tokens to pixels.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8 that the position table was made for;
    t: (B,) timesteps; y: (B,) class indices, ``num_classes`` for none. Returns (B, 2 * in_channels, S, S): the
    noise and the raw variance, or (B, in_channels, S, S) without ``learn_sigma``. Raises ValueError on another side.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        res: int = 256,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.side, self.patch = res // 8, patch
        self.grid = self.side // patch
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid**2, width), requires_grad=False)
        self.fill_tables()
        self.x_embedder = PatchEmbed(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.blocks = nn.ModuleList(DiGBlock(width, heads, self.grid) for _ in range(depth))
        self.final_layer = TokenHead(width, patch, in_channels * (2 if learn_sigma else 1))

    def fill_tables(self) -> None:
        self.pos_embed.data.copy_(position_table(self.pos_embed.shape[2], self.grid))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "DiG")
        c = self.t_embedder(t) + self.y_embedder(y)  # (B, C)
        x = self.x_embedder(x) + self.pos_embed  # (B, N, C)
        for index, block in enumerate(self.blocks):
            # Four directions in four blocks: reverse the order after each, transpose the grid after every second.
            x = block(x, c).flip(1)  # (B, N, C)
            if index % 2:
                x = x.unflatten(1, (self.grid, self.grid)).transpose(1, 2).flatten(1, 2)
        x = self.final_layer(x, c)  # (B, N, patch * patch * out_channels)
        return pixels_from_tokens(x, self.grid, self.patch)
