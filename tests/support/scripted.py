"""A small feature network in TorchScript, and statistics of real images by it: what an FID needs, made on the spot."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convbench.sampling.decoding import bytes_from_pixels

FEATURES = 16


class Scores(nn.Module):
    """Features of bytes (B, 3, H, W) of any size, as they are. -> (B, features)"""

    kernel: Tensor
    matrix: Tensor

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("kernel", torch.randn(8, 3, 3, 3, generator=generator) / 5)
        self.register_buffer("matrix", torch.randn(features, 128, generator=generator) / 11)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError("bytes are expected")
        x = F.conv2d(images.to(torch.float32) / 127.5 - 1, self.kernel, padding=1).relu()
        return F.linear(F.adaptive_avg_pool2d(x, 4).flatten(1), self.matrix)


class Inception(Scores):
    """The same with the arguments of StyleGAN's Inception: scores of classes unless features are asked for."""

    def forward(self, images: Tensor, return_features: bool = False, use_fp16: bool = False) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError("bytes are expected")
        x = F.conv2d(images.to(torch.float32) / 127.5 - 1, self.kernel, padding=1).relu()
        x = F.linear(F.adaptive_avg_pool2d(x, 4).flatten(1), self.matrix)
        if return_features:
            return x
        return x.softmax(1)


def saved(network: nn.Module, path: Path) -> Path:
    """Write a network as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script: Any = torch.jit.script(network.eval())
        script.save(str(path))
    return path


def fid_files(folder: Path, real: Tensor, features: int = FEATURES) -> tuple[Path, Path]:
    """Write statistics of real images (N, 1 or 3, H, W) in [-1, 1], and the network. -> (.npz, .pt)"""
    found = Scores(features)(bytes_from_pixels(real.expand(-1, 3, -1, -1)).permute(0, 3, 1, 2)).double().numpy()
    np.savez(folder / "real.npz", mu=found.mean(0), sigma=np.cov(found, rowvar=False))
    return folder / "real.npz", saved(Inception(features), folder / "features.pt")
