"""DiC with fused blocks: 13 passes over memory a block instead of 35 (docs/kernels.md counts them).

cuDNN, or ``winograd_conv``, computes the 3x3 convolutions without their biases; the operation that reads a
convolution's output adds its bias.
Shape letters: B batch, C width of the stage, H W latent height and width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.dic import SKIP_STRIDE, DiC
from ...models.layers import NORM_EPS, require_multiple
from ..ops.gate_residual import gate_residual
from ..ops.group_norm import group_norm_gelu
from ..ops.layer_norm import layer_norm_modulate
from ..ops.winograd_conv import winograd_conv, winograd_weight
from .forward_steps import embed_times, run_blocks, stem
from .modules import FusedBlock, FusedNetwork, Vectors
from .pixel_shuffle import shuffle_and_concatenate, unshuffle
from .pointwise_products import library_convolution
from .requirements import mismatch


class FusedModulatedConvs(FusedBlock):
    """Replaces ``ModulatedConvs``, the inside of a ``DiCBlock``. (B, in_width, H, W) -> (B, C, H, W)"""

    norm0: nn.GroupNorm
    conv0: nn.Conv2d
    affine: nn.Sequential
    norm1: nn.GroupNorm
    conv1: nn.Conv2d
    skip: nn.Conv2d | nn.Identity

    @staticmethod
    def refuses(block: Any) -> str | None:
        if block.residual_scale != 1:
            return f"residual_scale is {block.residual_scale}; the kernel supports 1 only, as in every published model"
        for name in ("norm0", "norm1"):
            norm = getattr(block, name)
            if not isinstance(norm, nn.GroupNorm):
                return f"{name} is a {type(norm).__name__}; only GroupNorm has a kernel"
            if not norm.affine:
                return f"{name} has no weight and bias"
        for name, sides in (("conv0", (3,)), ("conv1", (3,)), ("skip", (1,))):
            conv = getattr(block, name)
            if not isinstance(conv, nn.Identity) and (reason := mismatch(conv, *sides)):
                return f"{name} {reason}"
        return None

    def derive(self) -> dict[str, Tensor]:
        if self.convolutions == "library" or self.conv0.weight.dtype not in (torch.float32, torch.float64):
            return {}
        return {f"{name}_points": winograd_weight(getattr(self, name).weight) for name in ("conv0", "conv1")}

    def rebuild(self) -> None:
        for name in ("conv0_points", "conv1_points"):  # a model cast to half precision has none
            self._buffers.pop(name, None)
        super().rebuild()

    def convolve(self, name: str, x: Tensor) -> Tensor:
        """Apply conv0 or conv1 without its bias. (B, K, H, W) -> (B, C, H, W)"""
        weight, points = getattr(self, name).weight, self._buffers.get(f"{name}_points")
        if points is None:
            return F.conv2d(x, weight, padding=1)
        return winograd_conv(x, weight, points, self.products == "ours")

    def forward(self, x: Tensor, vectors: Vectors) -> Tensor:
        gate, scale, shift = vectors
        norm0, norm1 = self.norm0, self.norm1
        y = group_norm_gelu(x, norm0.weight, norm0.bias, norm0.num_groups, norm0.eps)
        y = self.convolve("conv0", y)
        y = group_norm_gelu(y, norm1.weight, norm1.bias, norm1.num_groups, norm1.eps, self.conv0.bias, scale, shift)
        y = self.convolve("conv1", y)
        residual = library_convolution(self.skip, x) if isinstance(self.skip, nn.Conv2d) else x
        return gate_residual(y, self.conv1.bias, gate, residual)


def run_decoder(blocks: Any, x: Tensor, modulations: Iterator[Vectors], skips: list[Tensor]) -> Tensor:
    """Run a decoder whose first skip is already in x, the result of ``shuffle_and_concatenate``.

    x: (B, C + S, H, W) -> (B, C, H, W). Takes the other skips from the end of ``skips``.
    """
    for index, block in enumerate(blocks):
        if index and index % SKIP_STRIDE == 0:
            x = torch.cat([x, skips.pop()], dim=1)
        x = block(x, next(modulations))
    return x


def run_encoder(blocks: Any, x: Tensor, modulations: Iterator[Vectors], skips: list[Tensor]) -> Tensor:
    """Run an encoder, and append every third block's output, counted from the last, to ``skips``. (B, C, H, W)"""
    for left, block in zip(reversed(range(len(blocks))), blocks, strict=True):
        x = block(x, next(modulations))
        if left % SKIP_STRIDE == 0:
            skips.append(x)
    return x


class FusedDiC(FusedNetwork, DiC):
    """``DiC`` with fused blocks and the same inputs x (B, C, H, W), t (B,), y (B,), results and errors."""

    def sharing(self) -> Sequence[Sequence[nn.Module]]:
        encoders, decoders = self.enc_blocks, self.dec_blocks
        insides = [[block.conv for block in stage] for stage in (*encoders, *self.lat_blocks, *decoders)]
        encoder1, encoder2, latent, decoder2, decoder1 = insides
        return [*encoder1, *decoder1, self.final_layer], encoder2 + decoder2, latent

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, 4, "DiC")
        times = embed_times(self.t_embedder_ls, t)
        conditions = (time + label(y) for time, label in zip(times, self.y_embedder_ls, strict=True))
        first, second, third = self.modulations(*conditions)
        skips: list[Tensor] = []

        (encoder1, encoder2), (latent,), (decoder2, decoder1) = self.enc_blocks, self.lat_blocks, self.dec_blocks
        down1, down2, up3, up2 = (resample.get_submodule("body.0") for resample in (*self.downs, *self.ups))
        x = run_encoder(encoder1, stem(self.x_embedder, x), first, skips)  # (B, C, H, W)
        x = run_encoder(encoder2, unshuffle(down1(x)), second, skips)  # (B, 2C, H/2, W/2)
        x = run_blocks(latent, unshuffle(down2(x)), third)  # (B, 4C, H/4, W/4)
        x = run_decoder(decoder2, shuffle_and_concatenate(up3(x), skips.pop()), second, skips)  # (B, 2C, H/2, W/2)
        x = run_decoder(decoder1, shuffle_and_concatenate(up2(x), skips.pop()), first, skips)  # (B, C, H, W)
        shift, scale = next(first)
        return self.final_layer.out_proj(layer_norm_modulate(self.output(x), shift, scale, NORM_EPS))
