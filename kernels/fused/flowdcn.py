"""FlowDCN with fused deformable sampling; norms, projections and perceptron are unchanged.

Shape letters: B batch, H W token grid, G groups, K samples of a token, D channels of a group.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...models.flowdcn import FlowDCN
from ..ops.deformable_sampling import deformable_sampling
from .modules import FusedBlock, FusedNetwork


class FusedDeformableSampling(FusedBlock):
    """Replaces ``DeformableSampling``. (B, H, W, G, D), (B, H, W, G, K, 2), (B, H, W, G, K) -> (B, H, W, G, D)"""

    @staticmethod
    def refuses(block: Any) -> str | None:
        return None  # it has no options

    def forward(self, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        maps = values.flatten(3).permute(0, 3, 1, 2)  # (B, G D, H, W) in channels_last
        sampled = deformable_sampling(maps, offsets.contiguous(), weights.contiguous())
        return sampled.permute(0, 2, 3, 1).unflatten(3, values.shape[3:])


class FusedFlowDCN(FusedNetwork, FlowDCN):
    """``FlowDCN`` with fused sampling. Inputs, results and errors are the same."""

    def sharing(self) -> Sequence[Sequence[nn.Module]]:
        return ()  # each block computes its own modulation
