"""Decoder with random weights, which takes as long as a trained one."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ..catalogue import Signature
from ..errors import UsageError
from .decoders import DecoderFacts, decoder_of
from .decoding import Decoder


class DecoderNetwork(nn.Module):
    """The decoder of a diffusers autoencoder, and what it takes back of the scale of its latents.

    (B, channels, S, S) -> (B, 3, factor S, factor S). The encoder is left out.
    """

    def __init__(self, facts: DecoderFacts) -> None:
        super().__init__()
        try:
            diffusers: Any = import_module("diffusers")
        except ImportError:
            raise UsageError("decode=yes needs diffusers: pip install 'convbench[sample]'; or use decode=no") from None
        self.autoencoder: Any = getattr(diffusers, facts.kind)(**facts.config)
        self.autoencoder.encoder = self.autoencoder.quant_conv = None
        self.scale = facts.scale or 1.0
        self.name = facts.name

    def forward(self, x: Tensor) -> Tensor:
        pixels: Tensor = self.autoencoder.decode(x / self.scale, return_dict=False)[0]
        return pixels


def random_decoder(device: str, takes: Signature | None = None) -> Decoder:
    """The decoder of a network's latents, by its published config, with random weights.

    Args:
        takes: of the network; by default class-conditional latents of the usual decoder.

    Raises UsageError where no decoder of such latents is known, or diffusers is not installed.
    """
    facts = decoder_of(takes or Signature())
    with torch.device(device):
        return DecoderNetwork(facts).requires_grad_(False).eval()
