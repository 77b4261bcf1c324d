"""Deformable sampling of FlowDCN: a weighted sum of values sampled between the tokens around each token.

Sources: Wang et al. 2024, arXiv:2410.22655; Dai et al. 2017, arXiv:1703.06211. The weights are not normalised.
Shape letters: B batch, H W token grid, G groups, K samples per token, D channels per group.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sample_and_sum(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Compute out[b, i, j, g] = sum_k weights[b, i, j, g, k] values[b, :, :, g] at (j, i) + offsets[b, i, j, g, k].

    Values between tokens are bilinear in their four corners. The corners come from truncation, not from floor: a
    coordinate in (-1, 0) has the corners 0 and 1 with shares 1 - x and x, the second of which is negative, so the value
    is extrapolated; a coordinate in (-2, -1] has the corners -1 and 0. A corner outside the grid counts as zero.

    Args:
        values: (B, H, W, G, D).
        offsets: in tokens, x before y, (B, H, W, G, K, 2).
        weights: (B, H, W, G, K).

    Returns (B, H, W, G, D). Positions are float32 or wider: a half-precision coordinate above 256 has no fraction.
    """
    b, height, width, groups, depth = values.shape
    kind, device = torch.promote_types(offsets.dtype, torch.float32), values.device
    column = torch.arange(width, dtype=kind, device=device)[:, None, None]
    row = torch.arange(height, dtype=kind, device=device)[:, None, None, None]
    x, y = offsets[..., 0] + column, offsets[..., 1] + row  # (B, H, W, G, K)
    left, top = x.trunc(), y.trunc()

    table = values.reshape(-1, depth)  # one row per image, token and group
    image = torch.arange(b, device=device)[:, None, None, None, None] * (height * width)
    group = torch.arange(groups, device=device)[:, None]
    out = torch.zeros_like(values)
    for across, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
        for down, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
            inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
            share = torch.where(inside, weights * share_x * share_y, 0).to(values.dtype)
            token = down.long().clamp(0, height - 1) * width + across.long().clamp(0, width - 1)
            corner = F.embedding((image + token) * groups + group, table)  # (B, H, W, G, K, D)
            out = out + (share[..., None, :] @ corner).squeeze(-2)
    return out


class DeformableSampling(nn.Module):
    """``sample_and_sum`` as a layer without weights, which can be replaced and is counted separately.

    (B, H, W, G, D), (B, H, W, G, K, 2), (B, H, W, G, K) -> (B, H, W, G, D)
    """

    def forward(self, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        return sample_and_sum(values, offsets, weights)

    def count_macs(self, values: Tensor, offsets: Tensor, weights: Tensor) -> dict[str, int]:
        """Count the weighted samples, not the products with the shares of the corners."""
        return {"dcn_samples": weights.numel() * values.shape[-1]}
