"""FCDM with fused blocks: 13 passes over memory a block instead of 65 (docs/kernels.md counts them).

Shape letters: B batch, C width of the stage, H W latent height and width.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...models.fcdm import FCDM, GlobalResponseNorm
from ...models.layers import NORM_EPS, require_multiple
from ..ops.depthwise import depthwise, window_rows
from ..ops.layer_norm import layer_norm_modulate
from ..ops.response_norm import fold_beta, response_factors
from .forward_steps import embed_times, run_blocks, stem
from .modules import FusedBlock, FusedNetwork, Vectors
from .pixel_shuffle import shuffle_and_concatenate, unshuffle
from .pointwise_products import library_convolution, product_residual, product_squares, weight_and_bias
from .product_dispatch import choose
from .requirements import mismatch


class FusedFCDMBlock(FusedBlock):
    """Replaces ``FCDMBlock``. (B, C, H, W) -> (B, C, H, W)"""

    dwconv: nn.Conv2d
    pwconv1: nn.Conv2d
    pwconv2: nn.Conv2d
    grn: GlobalResponseNorm
    taps: Tensor
    bias2: Tensor

    @staticmethod
    def refuses(block: Any) -> str | None:
        for name, sides in (("dwconv", (3, 5, 7)), ("pwconv1", (1,)), ("pwconv2", (1,))):
            if reason := mismatch(getattr(block, name), *sides, depthwise=name == "dwconv"):
                return f"{name} {reason}"
        return None

    def derive(self) -> dict[str, Tensor]:
        # The norm's beta passes through the second product as W beta: a part of its bias.
        weight, bias = weight_and_bias(self.pwconv2)
        return {"taps": window_rows(self.dwconv.weight), "bias2": fold_beta(weight, self.grn.beta, bias)}

    def rebuild(self) -> None:
        super().rebuild()
        self.ours = {name: choose("fcdm", name, self.pwconv1.weight, self.products) for name in ("pwconv1", "pwconv2")}

    def forward(self, x: Tensor, vectors: Vectors) -> Tensor:
        shift, scale, gate = vectors
        y = layer_norm_modulate(depthwise(x, self.taps, self.dwconv.bias), shift, scale, NORM_EPS)
        y, squares = product_squares(y, *weight_and_bias(self.pwconv1), self.ours["pwconv1"])
        factors = response_factors(squares, self.grn.gamma.flatten(), self.grn.eps)
        return product_residual(y, factors, weight_and_bias(self.pwconv2)[0], self.bias2, gate, x, self.ours["pwconv2"])


class FusedFCDM(FusedNetwork, FCDM):
    """``FCDM`` with fused blocks and the same inputs x (B, C, H, W), t (B,), y (B,), results and errors."""

    def sharing(self) -> Sequence[Sequence[nn.Module]]:
        first = [*self.encoder_level_1, *self.decoder_level_1, self.final_layer]
        return first, [*self.encoder_level_2, *self.decoder_level_2], [*self.latent]

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, 4, "FCDM")
        times = embed_times([self.t_embedder_1, self.t_embedder_2, self.t_embedder_3], t)
        labels = self.y_embedder_1(y), self.y_embedder_2(y), self.y_embedder_3(y)
        first, second, third = self.modulations(*(a + b for a, b in zip(times, labels, strict=True)))

        skip1 = run_blocks(self.encoder_level_1, stem(self.x_embedder, x), first)  # (B, C, H, W)
        skip2 = run_blocks(self.encoder_level_2, unshuffle(self.down1_2.conv[0](skip1)), second)  # (B, 2C, H/2, W/2)
        x = run_blocks(self.latent, unshuffle(self.down2_3.conv[0](skip2)), third)  # (B, 4C, H/4, W/4)
        x = library_convolution(self.reduce_chans_2, shuffle_and_concatenate(self.up3_2.conv[0](x), skip2))
        x = run_blocks(self.decoder_level_2, x, second)  # (B, 2C, H/2, W/2)
        x = library_convolution(self.reduce_chans_1, shuffle_and_concatenate(self.up2_1.conv[0](x), skip1))
        x = self.output_layer(run_blocks(self.decoder_level_1, x, first))  # (B, C, H, W)
        shift, scale = next(first)
        return self.final_layer.conv(layer_norm_modulate(x, shift, scale, NORM_EPS))
