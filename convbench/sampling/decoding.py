"""Decoding of samples to pixels: the identity in pixel space, an autoencoder of diffusers for latents."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..catalogue import Signature
from ..errors import UsageError, WeightsError
from ..weights.locate import HUB

Decoder = Callable[[Tensor], Tensor]
"""(B, C, S, S) float32 -> (B, 1 or 3, H, W) float32 in about [-1, 1]."""

LATENT_SCALE = 0.18215
"""Factor from the autoencoder's latents to those that every model here was trained on (Rombach et al. 2022)."""
ADVICE = "--vae with a folder of diffusers' AutoencoderKL, or hf:stabilityai/sd-vae-ft-ema or hf:zelaki/eq-vae-ema"


def create_decoder(takes: Signature, vae: str | None, device: str) -> Decoder:
    """Create the function that turns the samples of a network into pixels.

    Args:
        vae: a folder with config.json and weights of diffusers, or "hf:owner/repo[@revision]"; unused in pixel space.

    Raises UsageError if the samples are latents and ``vae`` is None.
    """
    if takes.factor == 1:
        return lambda x: x
    if (takes.factor, takes.channels) != (8, 4):
        raise UsageError(
            "only latents with 4 channels and 1/8 of the image side can be decoded; store them with --latents"
        )
    if vae is None:
        raise UsageError(f"the samples are latents: specify {ADVICE}, or store them undecoded with --latents and --npz")
    return _autoencoder(vae, device)


def _autoencoder(vae: str, device: str) -> Decoder:
    try:
        diffusers: Any = import_module("diffusers")
    except ImportError:
        raise UsageError(
            "decoding latents needs diffusers: pip install 'convbench[sample]'; or store them with --latents and --npz"
        ) from None
    where, _, revision = vae.removeprefix(HUB).partition("@")
    if not vae.startswith(HUB) and not (Path(vae) / "config.json").is_file():
        raise WeightsError(f"no autoencoder at {vae}: specify {ADVICE}")
    try:
        model: Any = diffusers.AutoencoderKL.from_pretrained(
            where if vae.startswith(HUB) else vae,
            revision=revision or None,
            local_files_only=not vae.startswith(HUB),
            use_safetensors=True,  # a pickle could run code
            low_cpu_mem_usage=False,  # it would ask for accelerate
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise WeightsError(f"the autoencoder {vae} cannot be loaded: {reason}") from None
    model.requires_grad_(False).eval().to(device)

    def decode(x: Tensor) -> Tensor:
        pixels: Tensor = model.decode(x / LATENT_SCALE, return_dict=False)[0]
        return pixels

    return decode


def bytes_from_pixels(pixels: Tensor) -> Tensor:
    """Convert pixels in [-1, 1] as the papers' sampling scripts do: (B, C, H, W) float -> (B, H, W, C) uint8."""
    return (127.5 * pixels + 128).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).contiguous()
