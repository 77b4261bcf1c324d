"""Pixel shuffles that stay in channels_last. PyTorch's own return NCHW on a GPU, a hidden copy for the next layer.

Channels are ordered as in nn.PixelUnshuffle and nn.PixelShuffle.
"""

import torch
from torch import Tensor


def unshuffle(x: Tensor) -> Tensor:
    """Move each 2x2 pixels into four times the channels, in one copy. (B, C, H, W) -> (B, 4C, H/2, W/2)"""
    h, w = x.shape[2] // 2, x.shape[3] // 2
    pixels = x.permute(0, 2, 3, 1).unflatten(2, (w, 2)).unflatten(1, (h, 2))  # (B, H/2, 2, W/2, 2, C)
    return pixels.permute(0, 1, 3, 5, 2, 4).flatten(3).permute(0, 3, 1, 2)


def shuffle_and_concatenate(x: Tensor, skip: Tensor) -> Tensor:
    """Undo ``unshuffle`` and append a skip, in one copy. (B, 4C, H, W), (B, S, 2H, 2W) -> (B, C+S, 2H, 2W)"""
    h, w = x.shape[2:]
    up = x.permute(0, 2, 3, 1).unflatten(3, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)  # (B, H, 2, W, 2, C)
    beside = skip.permute(0, 2, 3, 1).unflatten(2, (w, 2)).unflatten(1, (h, 2))  # (B, H, 2, W, 2, S)
    return torch.cat([up, beside], dim=5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
