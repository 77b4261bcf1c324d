"""U-ViT: a transformer whose later blocks take long skips from earlier ones; time and class are tokens.

Paper: arXiv:2209.12152. Variants, sources and printed numbers: ``uvit.toml``.
Shape letters: B batch, N tokens, C width, S latent height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import PatchEmbed, require_side
from .timestep import SinusoidalCode

EXTRA_TOKENS = 2  # the class, then the time, in front of the patches
NORM_EPS = 1e-5


class Attention(nn.Module):
    """Multi-head self-attention; no bias on q, k, v. BNC -> BNC."""

    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        # The printed counts are of unfused attention, which scales each score by a product.
        self.extra_products = heads * tokens**2

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, C/heads) each
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class Mlp(nn.Module):
    """Two linear layers around GELU. BNC -> BNC."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class UViTBlock(nn.Module):
    """Merge of the skip, if any, then attention and perceptron. BNC, BNC -> BNC."""

    def __init__(self, width: int, heads: int, tokens: int, mlp_ratio: float, skip: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads, tokens)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, int(mlp_ratio * width))
        if skip:
            self.skip_linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViT(nn.Module):
    """Patches, class and time to tokens, ``depth + 1`` blocks of which the last half takes skips, tokens to pixels.

    x: (B, in_channels, S, S) noisy latents of the side S = res / 8 that the position table was made for;
    t: (B,) timesteps; y: (B,) class indices, ``num_classes`` for none. Returns (B, in_channels, S, S): the noise.
    Raises ValueError on another side.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        res: int = 256,
        mlp_ratio: float = 4,
        in_channels: int = 4,
        num_classes: int = 1000,
        extra_products: int = 0,
    ) -> None:
        super().__init__()
        self.extra_products = extra_products  # only for counting: see uvit.toml
        self.side, self.patch = res // 8, patch
        self.grid = self.side // patch
        tokens = self.grid**2 + EXTRA_TOKENS
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))  # learned
        self.patch_embed = PatchEmbed(patch, in_channels, width)
        self.time_code = SinusoidalCode(width)
        self.label_emb = nn.Embedding(num_classes + 1, width)
        size = (width, heads, tokens, mlp_ratio)
        self.in_blocks = nn.ModuleList(UViTBlock(*size) for _ in range(depth // 2))
        self.mid_block = UViTBlock(*size)
        self.out_blocks = nn.ModuleList(UViTBlock(*size, skip=True) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(width, patch**2 * in_channels)
        self.final_layer = nn.Conv2d(in_channels, in_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_side(x, self.side, "U-ViT")
        patches = self.patch_embed(x)  # (B, grid * grid, C)
        time = self.time_code(t).to(patches.dtype)[:, None]
        x = torch.cat([self.label_emb(y)[:, None], time, patches], dim=1) + self.pos_embed  # (B, N, C)
        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())
        x = self.decoder_pred(self.norm(x))[:, EXTRA_TOKENS:]  # (B, grid * grid, patch * patch * in_channels)
        x = x.unflatten(2, (self.patch, self.patch, -1)).unflatten(1, (self.grid, self.grid))
        x = x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # row and column in the patch, then the channel
        return self.final_layer(x)
