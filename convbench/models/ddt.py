"""DDT: a transformer whose encoder computes a state from the latent, and whose decoder predicts the velocity from it.

Paper: arXiv:2504.05741. Variants, sources and printed numbers: ``ddt.toml``.
Shape letters: B batch, H W token grid, N = H W tokens, C width, D channels of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gated_mlp import GatedMlp
from .layers import LabelEmbedder, RMSNorm, TimestepEmbedder, modulate, token_norm

PERIOD = 10  # of the timestep code, which is made for times of 0 to 1
ROUNDED_UP = (48,)  # entries of its table, as on the machine of the reference outputs
THETA = 10_000
SPAN = 16  # the last row and column of any grid


class SpanRotary(nn.Module):
    """Rotate each pair of adjacent channels by an angle proportional to column or row. (..., N, D) -> (..., N, D).

    Pairs alternate between column and row; pairs 2i and 2i + 1 rotate by THETA^(-4i / D) times the position, which runs
    from 0 to SPAN inclusive over any number of columns or rows (Su et al. 2021, in two dimensions).
    """

    table: Tensor

    def __init__(self, width: int, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.register_buffer("table", torch.empty(2, rows * columns, width), persistent=False)
        self.fill_tables()

    def fill_tables(self) -> None:
        width = self.table.shape[-1]
        # In float32 and with torch.polar, as in the released code: other formulas change an output by 5e-8.
        frequencies = 1 / THETA ** (torch.arange(0, width, 4, device="cpu").float() / width)
        column, row = (torch.linspace(0, SPAN, count, device="cpu") for count in (self.columns, self.rows))
        x, y = (column[None, :, None] * frequencies, row[:, None, None] * frequencies)
        x, y = (v.expand(self.rows, self.columns, -1) for v in (x, y))
        angles = torch.stack([x, y], dim=-1).reshape(len(self.table[0]), -1)  # (N, D/2)
        turns = torch.polar(torch.ones_like(angles), angles)
        cos, sin = turns.real, turns.imag
        self.table.copy_(torch.stack([torch.stack([cos, cos], -1), torch.stack([-sin, sin], -1)]).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        cos, sin = self.table
        return x * cos + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * sin

    def count_macs(self, x: Tensor) -> dict[str, int]:
        """Count one product per pair: the released code multiplies complex numbers, which a profiler counts as one."""
        return {"mul": x.numel() // 2}


class Attention(nn.Module):
    """Multi-head self-attention with normalised and rotated q and k; no bias on q, k, v. BNC -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(width // heads)
        self.k_norm = RMSNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: SpanRotary) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, D) each
        y = F.scaled_dot_product_attention(rotary(self.q_norm(q)), rotary(self.k_norm(k)), v)
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class DDTBlock(nn.Module):
    """Attention, then gated perceptron; both modulated and gated by the condition. BNC, (B, 1 or N, C) -> BNC."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = RMSNorm(width)
        self.mlp = GatedMlp(width, 8 * width // 3)
        self.adaLN_modulation = nn.Sequential(nn.Linear(width, 6 * width))  # the condition includes its SiLU

    def forward(self, x: Tensor, c: Tensor, rotary: SpanRotary) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), rotary)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class PatchLinear(nn.Module):
    """Projection of the pixels of each patch, in the order channel, row, column, to a token. BCHW -> BNC."""

    def __init__(self, patch: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(in_channels * patch**2, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.pixel_unshuffle(x, self.patch).flatten(2).mT)


class StateHead(nn.Module):
    """Norm, modulation by a vector per token, projection to pixels. BNC, BNC -> (B, N, c*p*p)."""

    def __init__(self, width: int, patch: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_channels * patch**2)
        self.adaLN_modulation = nn.Sequential(nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(token_norm(x), shift, scale))


class DDT(nn.Module):
    """Encoder of ``encoder`` blocks and decoder of the remaining ``depth`` blocks, conditioned by its state.

    x: (B, in_channels, H, W) latents between noise and data, of the size res / 8 that the rotary table was made for;
    t: (B,) times from 0 (noise) to 1 (data), not multiplied by 1000; y: (B,) class indices, ``num_classes`` for none.
    Returns (B, in_channels, H, W): the velocity. With a ``state`` from ``encode`` the encoder does not run, and the
    decoder uses the time in that state. Raises ValueError on another size.

    Args:
        res: height and width of the image in pixels, or one number for both. No weight depends on it.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        encoder: int,
        heads: int,
        patch: int,
        res: int | tuple[int, int] = 256,
        in_channels: int = 4,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.patch, self.encoder = patch, encoder
        height, across = res if isinstance(res, tuple) else (res, res)
        self.size = height // 8, across // 8
        self.x_embedder = PatchLinear(patch, in_channels, width)
        self.s_embedder = PatchLinear(patch, in_channels, width)
        self.t_embedder = TimestepEmbedder(width, ROUNDED_UP, PERIOD)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.final_layer = StateHead(width, patch, in_channels)
        self.blocks = nn.ModuleList(DDTBlock(width, heads) for _ in range(depth))
        self.rotary = SpanRotary(width // heads, self.size[0] // patch, self.size[1] // patch)

    def require_size(self, x: Tensor) -> None:
        """Raise ValueError unless x (B, C, H, W) has the size that the rotary table was made for."""
        height, width = x.shape[-2:]
        if (height, width) != self.size:
            res = 8 * height if height == width else (8 * height, 8 * width)
            built = "{}x{}".format(*self.size)
            raise ValueError(f"this DDT is built for {built} latents, got {height}x{width}: create it with res={res}")

    def encode(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Compute the state of a latent (B, C, H, W) at t (B,): a vector per token for the decoder. -> (B, N, C)"""
        self.require_size(x)
        time = self.t_embedder(t)[:, None]  # (B, 1, C)
        c = F.silu(time + self.y_embedder(y)[:, None])
        state = self.s_embedder(x)  # (B, N, C)
        for block in self.blocks[: self.encoder]:
            state = block(state, c, self.rotary)
        return F.silu(time + state)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, state: Tensor | None = None) -> Tensor:
        self.require_size(x)
        if state is None:
            state = self.encode(x, t, y)  # (B, N, C)
        x = self.x_embedder(x)  # (B, N, C)
        for block in self.blocks[self.encoder :]:
            x = block(x, state, self.rotary)
        x = self.final_layer(x, state)  # (B, N, in_channels * patch * patch)
        return F.pixel_shuffle(x.mT.unflatten(2, (self.rotary.rows, self.rotary.columns)), self.patch)
