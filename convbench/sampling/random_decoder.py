"""Decoder with random weights, which takes as long as a trained one."""

from importlib import import_module
from typing import Any

from torch import Tensor

from ..errors import UsageError
from .decoding import LATENT_SCALE, Decoder


def random_decoder(device: str) -> Decoder:
    """Create the decoder of sd-vae-ft-ema and related models by its published config, with random weights.

    Raises UsageError if diffusers is not installed.
    """
    try:
        diffusers: Any = import_module("diffusers")
    except ImportError:
        raise UsageError("decode=yes needs diffusers: pip install 'convbench[sample]'; or use decode=no") from None
    blocks: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
    }
    model: Any = diffusers.AutoencoderKL(latent_channels=4, layers_per_block=2, **blocks)
    model.requires_grad_(False).eval().to(device)

    def decode(x: Tensor) -> Tensor:
        pixels: Tensor = model.decode(x / LATENT_SCALE, return_dict=False)[0]
        return pixels

    return decode
