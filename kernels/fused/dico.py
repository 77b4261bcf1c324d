"""DiCo with fused blocks: 18 passes over memory a block instead of 55 (docs/kernels.md counts them).

Shape letters: B batch, C width of the stage, H W latent height and width.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...models.dico import DiCo
from ...models.layers import NORM_EPS, require_multiple
from ..ops.channel_attention import channel_gates
from ..ops.depthwise import window_rows
from ..ops.depthwise_gelu import depthwise_gelu
from ..ops.layer_norm import layer_norm_modulate
from .forward_steps import embed_times, run_blocks, stem
from .modules import FusedBlock, FusedNetwork, Vectors
from .pixel_shuffle import shuffle_and_concatenate, unshuffle
from .pointwise_products import library_convolution, product_gelu, product_residual, weight_and_bias
from .product_dispatch import choose
from .requirements import mismatch


class FusedDiCoBlock(FusedBlock):
    """Replaces ``DiCoBlock``. (B, C, H, W) -> (B, C, H, W)"""

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    conv3: nn.Conv2d
    conv4: nn.Conv2d
    conv5: nn.Conv2d
    ca: nn.Sequential
    taps: Tensor

    @staticmethod
    def refuses(block: Any) -> str | None:
        for name, conv, sides in (
            *((f"conv{number}", getattr(block, f"conv{number}"), (1,)) for number in (1, 3, 4, 5)),
            ("ca.1", block.ca[1], (1,)),
            ("conv2", block.conv2, (3, 5)),
        ):
            if reason := mismatch(conv, *sides, depthwise=name == "conv2"):
                return f"{name} {reason}"
        return None

    def derive(self) -> dict[str, Tensor]:
        return {"taps": window_rows(self.conv2.weight)}

    def rebuild(self) -> None:
        super().rebuild()
        self.ours = {
            name: choose("dico", name, self.conv1.weight, self.products) for name in ("conv3", "conv4", "conv5")
        }

    def forward(self, x: Tensor, vectors: Vectors) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = vectors
        # Only the bias could be fused into this product, and the library adds that as well.
        y = library_convolution(self.conv1, layer_norm_modulate(x, shift1, scale1, NORM_EPS))
        y, sums = depthwise_gelu(y, self.taps, self.conv2.bias)
        gates = channel_gates(sums, *weight_and_bias(self.ca[1]), x.shape[2] * x.shape[3])
        x = product_residual(y, gates, *weight_and_bias(self.conv3), gate1, x, self.ours["conv3"])

        y = layer_norm_modulate(x, shift2, scale2, NORM_EPS)
        y = product_gelu(y, *weight_and_bias(self.conv4), self.ours["conv4"])
        return product_residual(y, None, *weight_and_bias(self.conv5), gate2, x, self.ours["conv5"])


class FusedDiCo(FusedNetwork, DiCo):
    """``DiCo`` with fused blocks and the same inputs x (B, C, H, W), t (B,), y (B,), results and errors."""

    def sharing(self) -> Sequence[Sequence[nn.Module]]:
        # The decoder at full resolution has the width, and so the condition, of level 2.
        second = [*self.encoder_level_2, *self.decoder_level_2, *self.decoder_level_1, self.final_layer]
        return [*self.encoder_level_1], second, [*self.latent]

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, 4, "DiCo")
        times = embed_times([self.t_embedder_1, self.t_embedder_2, self.t_embedder_3], t)
        first, second, third = self.modulations(*(a + b for a, b in zip(times, self.y_embedder(y), strict=True)))

        skip1 = run_blocks(self.encoder_level_1, stem(self.x_embedder, x), first)  # (B, C, H, W)
        x = unshuffle(self.down1_2.body[0](skip1))
        skip2 = run_blocks(self.encoder_level_2, x, second)  # (B, 2C, H/2, W/2)
        x = run_blocks(self.latent, unshuffle(self.down2_3.body[0](skip2)), third)  # (B, 4C, H/4, W/4)
        x = library_convolution(self.reduce_chan_level2, shuffle_and_concatenate(self.up3_2.body[0](x), skip2))
        x = run_blocks(self.decoder_level_2, x, second)  # (B, 2C, H/2, W/2)
        x = library_convolution(self.reduce_chan_level1, shuffle_and_concatenate(self.up2_1.body[0](x), skip1))
        x = run_blocks(self.decoder_level_1, x, second)  # (B, 2C, H, W)
        shift, scale = next(second)
        return self.final_layer.out_proj(layer_norm_modulate(x, shift, scale, NORM_EPS))
