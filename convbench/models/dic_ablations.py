"""DiC with modified parts, for the steps of the roadmap in its paper: ``ablations`` in ``dic.toml``.

The paper states the change of each step, but not the width or depth of its network; the rest is our interpretation and
marked as such in ``catalogue/published.toml``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dic import DiC, DiCBlock, ModulatedConvs
from .layers import LabelEmbedder, TimestepEmbedder, modulation, require_multiple

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu}


class AblatedConvs(ModulatedConvs):
    """Two 3x3 convolutions with a different activation, the condition at a different norm, or without the gate.

    (B, in_width, H, W), (B, condition) -> (B, width, H, W)
    """

    def __init__(self, in_width: int, width: int, condition: int, activation: str, injection: str, gate: bool) -> None:
        super().__init__(in_width, width)
        self.activation, self.injection, self.gate = ACTIVATIONS[activation], injection, gate
        modulated = width if injection == "middle" else in_width
        self.sizes = [width if gate else 0, modulated, modulated]
        self.affine = modulation(condition, chunks=1)
        self.affine[-1] = nn.Linear(condition, sum(self.sizes))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        gate, scale, shift = self.affine(c)[:, :, None, None].split(self.sizes, dim=1)
        y = self.norm0(x)
        if self.injection == "first":
            y = torch.addcmul(shift, y, 1 + scale)
        y = self.norm1(self.conv0(self.activation(y)))
        if self.injection == "middle":
            y = torch.addcmul(shift, y, 1 + scale)
        y = self.conv1(self.activation(y))
        return (self.skip(x) + (gate * y if self.gate else y)) * self.residual_scale


class AblatedDiC(DiC):
    """DiC with different blocks or skips, or with one condition for all stages.

    x (B, C, H, W), t (B,), y (B,) and the output are those of DiC.

    skips: "sparse" (every third block, as in the paper), "dense" (every block) or "none".
    embedding: "stage" (one table per width, as in the paper) or "shared" (that of the first width for all).
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        activation: str = "gelu",
        injection: str = "middle",
        gate: bool = True,
        embedding: str = "stage",
        skips: str = "sparse",
        num_classes: int = 1000,
        **other: Any,
    ) -> None:
        super().__init__(width, depths, num_classes=num_classes, **other)
        if skips != "none" and (depths[0], depths[1]) != (depths[4], depths[3]):
            raise ValueError(f"skips need as many decoder as encoder blocks, got depths {list(depths)}")
        self.every = {"sparse": 3, "dense": 1, "none": 0}[skips]
        self.shared = embedding == "shared"
        if self.shared:
            self.t_embedder_ls = nn.ModuleList([TimestepEmbedder(width)])
            self.y_embedder_ls = nn.ModuleList([LabelEmbedder(num_classes, width)])
        for stages, takes in ((self.enc_blocks, False), (self.lat_blocks, False), (self.dec_blocks, True)):
            for stage in stages:
                assert isinstance(stage, nn.ModuleList)
                for index, block in enumerate(stage):
                    assert isinstance(block, DiCBlock)
                    out = block.conv.norm1.num_channels
                    skip = out if takes and self.every and index % self.every == 0 else 0
                    condition = width if self.shared else out
                    stage[index] = DiCBlock(out + skip, out)
                    stage[index].conv = AblatedConvs(out + skip, out, condition, activation, injection, gate)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, 4, "DiC")
        codes = [time(t) + label(y) for time, label in zip(self.t_embedder_ls, self.y_embedder_ls, strict=True)]
        c1, c2, c3 = codes * 3 if self.shared else codes
        skips: list[Tensor] = []

        x = self._encode(0, self.x_embedder(x), c1, skips)  # (B, C, H, W)
        x = self._encode(1, self.downs[0](x), c2, skips)  # (B, 2C, H/2, W/2)
        x = self.lat_blocks[0](self.downs[1](x), c3)  # (B, 4C, H/4, W/4)
        x = self._decode(0, self.ups[0](x), c2, skips)  # (B, 2C, H/2, W/2)
        x = self._decode(1, self.ups[1](x), c1, skips)  # (B, C, H, W)
        return self.final_layer(self.output(x), c1)

    def _encode(self, stage: int, x: Tensor, c: Tensor, skips: list[Tensor]) -> Tensor:
        blocks = self.enc_blocks[stage]
        assert isinstance(blocks, nn.ModuleList)
        for left, block in zip(reversed(range(len(blocks))), blocks, strict=True):
            x = block(x, c)
            if self.every and left % self.every == 0:
                skips.append(x)
        return x

    def _decode(self, stage: int, x: Tensor, c: Tensor, skips: list[Tensor]) -> Tensor:
        blocks = self.dec_blocks[stage]
        assert isinstance(blocks, nn.ModuleList)
        for index, block in enumerate(blocks):
            if self.every and index % self.every == 0:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, c)
        return x
