"""SiT: the diffusion transformer DiT, trained by flow matching.

Paper: arXiv:2401.08740. Variants, sources and printed numbers: ``sit.toml``.
Shape letters: B batch, S latent height and width.
"""

from torch import Tensor

from .dit import DiT


class SiT(DiT):
    """DiT with its layers and keys, which returns only the first half of the output channels.

    x: (B, in_channels, S, S) latents between noise and data; t: (B,) times from 0 to 1, not multiplied by 1000;
    y: (B,) class indices, ``num_classes`` for none. Returns (B, in_channels, S, S): the velocity. The last layer has
    twice as many channels, as in DiT, and half of its output is dropped.
    """

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t, y)[:, : x.shape[1]]
