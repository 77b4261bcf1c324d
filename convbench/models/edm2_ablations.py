"""EDM2 with weights folded for inference: ``ablations`` in ``edm2.toml``. The function of x, t and y is the same.

The released network normalises each weight in every forward pass. The result only depends on the weight and a learned
gain, so it can be computed once. The folded network has no gains.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .edm2 import EDM2, MPLayer, linear_or_conv, magnitude_preserving

GAINS = {"emb_linear": "emb_gain", "out_conv": "out_gain"}  # layer -> its gain, a parameter of the parent


class FoldedLayer(MPLayer):
    """A linear layer or convolution whose weight is already normalised and scaled. BC -> BC or BCHW -> BCHW."""

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return linear_or_conv(x, self.weight)


class FoldedEDM2(EDM2):
    """EDM2 without normalisation of its weights; inputs and output are those of EDM2."""

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
        """Convert the weights of the official network; a state dict of this one is returned unchanged."""
        return fold_weights(state)


def fold_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold the state dict of the official network; one without gains is already folded.

    Entries that are not plain weights or gains are returned unchanged, so that the loader refuses them by name.
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
