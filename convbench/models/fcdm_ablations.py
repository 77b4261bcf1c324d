"""FCDM with modified parts, for the ablations of its paper: ``ablations`` in ``fcdm.toml``."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, cat, nn

from .fcdm import FCDM, Downsample, FCDMBlock, Head, Stage, Upsample
from .layers import LabelEmbedder, TimestepEmbedder, require_multiple


class FCDMLevels(nn.Module):
    """FCDM with any number of levels: encoder stages, a middle stage and as many decoder stages.

    x (B, C, H, W), t (B,), y (B,) and the output are those of FCDM; H and W are divisible by 2^(levels - 1).
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        mlp_ratio: float = 3,
        kernel: int = 7,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        if len(depths) % 2 == 0:
            raise ValueError(f"depths must have an odd number of stages, got {list(depths)}")
        down = len(depths) // 2
        widths = [width * 2**level for level in range(down + 1)]
        self.t_embedders = nn.ModuleList(TimestepEmbedder(w) for w in widths)
        self.y_embedders = nn.ModuleList(LabelEmbedder(num_classes, w) for w in widths)
        self.x_embedder = nn.Conv2d(in_channels, width, 3, padding=1)
        self.encoder = nn.ModuleList(
            Stage(w, d, mlp_ratio, kernel) for w, d in zip(widths[:-1], depths[:down], strict=True)
        )
        self.downs = nn.ModuleList(Downsample(w) for w in widths[:-1])
        self.latent = Stage(widths[-1], depths[down], mlp_ratio, kernel)
        self.ups = nn.ModuleList(Upsample(2 * w) for w in widths[:-1])
        self.reduce = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths[:-1])
        self.decoder = nn.ModuleList(
            Stage(w, d, mlp_ratio, kernel) for w, d in zip(widths[:-1], reversed(depths[down + 1 :]), strict=True)
        )
        self.output_layer = nn.Conv2d(width, width, 3, padding=1)
        self.final_layer = Head(width, in_channels * (2 if learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        require_multiple(x, 2 ** len(self.downs), "FCDM")
        codes = [time(t) + label(y) for time, label in zip(self.t_embedders, self.y_embedders, strict=True)]
        skips = []

        x = self.x_embedder(x)  # (B, C, H, W)
        for c, stage, down in zip(codes, self.encoder, self.downs, strict=False):
            skips.append(stage(x, c))
            x = down(skips[-1])  # half of H and W, twice the channels
        x = self.latent(x, codes[-1])
        for level in reversed(range(len(skips))):
            x = self.reduce[level](cat([self.ups[level](x), skips[level]], dim=1))
            x = self.decoder[level](x, codes[level])
        return self.final_layer(self.output_layer(x), codes[0])


def ablated_fcdm(depths: Sequence[int], grn: bool = True, **other: Any) -> nn.Module:
    """Build FCDM with any width, depths and kernel, two or more levels, and with or without its response norm."""
    model = (FCDM if len(depths) == 5 else FCDMLevels)(depths=depths, **other)
    if not grn:
        for block in model.modules():
            if isinstance(block, FCDMBlock):
                block.grn = nn.Identity()  # type: ignore[assignment]
    return model
