"""EDM2 with its weights folded for inference: ``ablations`` in ``edm2.toml``. The same function of x, t and y.

What the released network does to each weight in every forward pass depends on the weight and a learned gain alone, so
it can be done once. The result has no gains of its own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .edm2 import EDM2, MPLayer, magnitude_preserving, product

GAINS = {"emb_linear": "emb_gain", "out_conv": "out_gain"}  # of the layers that have one, which stands beside them


class FoldedLayer(MPLayer):
    """A linear layer or convolution whose weight is already what ``MPLayer`` makes of it, its gain included."""

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return product(x, self.weight)


class FoldedEDM2(EDM2):
    """``EDM2`` without the work on its weights. x, t, y and what comes back are EDM2's."""

    def __init__(self, weights: str = "folded", **options: Any) -> None:
        super().__init__(**options)
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, MPLayer):
                    folded = FoldedLayer(1, 1)
                    folded.weight = child.weight
                    setattr(module, name, folded)
            for name in GAINS.values():
                if hasattr(module, name):
                    delattr(module, name)
                    setattr(module, name, 1.0)

    @staticmethod
    def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that belong here, from those of the official network or from a state dict of this one."""
        return fold(state)


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a folded network from that of the official one; one without gains is folded already.

    What is no plain weight or gain stays as it is, for the loader to refuse by name.
    """
    names = tuple(GAINS.values())
    gains = {key: value.reshape(()) for key, value in state.items() if key.endswith(names) and value.numel() == 1}
    if not gains:
        return dict(state)
    folded = {key: value for key, value in state.items() if key not in gains}
    for key, value in folded.items():
        owner, _, kind = key.rpartition(".")
        around, _, layer = owner.rpartition(".")
        if kind == "weight" and value.dim() > 1 and value.is_floating_point() and value.layout == torch.strided:
            gain = gains.get(f"{around}.{GAINS.get(layer)}", 1.0)
            folded[key] = magnitude_preserving(value, gain).to(value.dtype)
    return folded
