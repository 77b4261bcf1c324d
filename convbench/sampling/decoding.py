"""Decoding of samples to pixels: exact in pixel space, an autoencoder of diffusers for latents."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import Signature
from ..errors import UsageError, WeightsError
from ..weights.locate import HUB
from .decoders import DecoderFacts, decoder_of

Decoder = Callable[[Tensor], Tensor]
"""(B, C, S, S) float32 -> (B, 1 or 3, H, W) float32 in about [-1, 1]."""

KEEP = "; or keep them as they are (--latents with --npz)"


def create_decoder(takes: Signature, vae: str | None, device: str, otherwise: str = KEEP) -> Decoder:
    """Create the function that turns the samples of a network into pixels.

    Args:
        vae: a folder with config.json and weights of diffusers, or "hf:owner/repo[@revision]"; unused in pixel space.
        otherwise: what else can be done, for the end of an error.

    Raises UsageError where latents are to be decoded and nothing is given or known to decode them with.
    """
    if takes.in_pixels:  # folded, or with a factor of 1 as they are
        return lambda x: F.pixel_shuffle(x, takes.factor)
    facts, scale, vae = require_decoder(takes, vae, otherwise)
    return _autoencoder(vae, facts, scale, device, otherwise)


def require_decoder(takes: Signature, vae: str | None, otherwise: str = KEEP) -> tuple[DecoderFacts, float, str]:
    """Return the facts of the decoder of latents, their scale, what to load. Raises UsageError where one is missing."""
    try:
        facts = decoder_of(takes)
    except UsageError as error:
        raise UsageError(f"{error}{otherwise}") from None
    if facts.scale is None:
        raise UsageError(
            f"latents of {facts.name} are normalised by statistics that convbench does not have{otherwise}"
        )
    if vae is None:
        raise UsageError(f"the samples are latents: give {_advice(facts)}{otherwise}")
    return facts, facts.scale, vae


def _advice(facts: DecoderFacts) -> str:
    return f"--vae with a folder of diffusers' {facts.kind}, or {' or '.join(facts.published)}"


def _autoencoder(vae: str, facts: DecoderFacts, scale: float, device: str, otherwise: str) -> Decoder:
    try:
        diffusers: Any = import_module("diffusers")
    except ImportError:
        raise UsageError(f"decoding latents needs diffusers: pip install 'convbench[sample]'{otherwise}") from None
    where, _, revision = vae.removeprefix(HUB).partition("@")
    if not vae.startswith(HUB) and not (Path(vae) / "config.json").is_file():
        raise WeightsError(f"no autoencoder at {vae}: give {_advice(facts)}")
    try:
        model: Any = getattr(diffusers, facts.kind).from_pretrained(
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
        pixels: Tensor = model.decode(x / scale, return_dict=False)[0]
        return pixels

    return decode


def bytes_from_pixels(pixels: Tensor) -> Tensor:
    """Convert pixels in [-1, 1] as the papers' sampling scripts do: (B, C, H, W) float -> (B, H, W, C) uint8."""
    return (127.5 * pixels + 128).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).contiguous()
