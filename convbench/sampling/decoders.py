"""The decoders of latents that are known: ``decoders.toml``. Imports no torch."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..catalogue import Signature
from ..errors import UsageError


@dataclass(frozen=True)
class DecoderFacts:
    """One table of decoders.toml."""

    id: str
    name: str
    factor: int  # pixels of the image to one of the latent
    channels: int
    kind: str  # the class of diffusers
    config: Mapping[str, Any]
    source: str
    params: int  # of the decoder, without the encoder
    macs: int  # of one image of 256 pixels
    published: tuple[str, ...] = ()  # what --vae can be given
    scale: float | None = None  # latents are the encoder's times this; None: normalised by statistics not held here


@cache
def decoders() -> dict[str, DecoderFacts]:
    """Every decoder by its id."""
    tables = tomllib.loads(Path(__file__).with_name("decoders.toml").read_text("utf-8"))
    return {
        id: DecoderFacts(id, kind=table.pop("class"), published=tuple(table.pop("published", ())), **table)
        for id, table in tables.items()
    }


def decoder_of(takes: Signature) -> DecoderFacts:
    """The decoder of a network's latents. Raises UsageError where none is known."""
    for decoder in decoders().values():
        if (decoder.factor, decoder.channels) == (takes.factor, takes.channels):
            return decoder
    known = ", ".join(f"{each.channels} at a side {each.factor} times smaller" for each in decoders().values())
    raise UsageError(
        f"no decoder is known for latents of {takes.channels} channels at a side {takes.factor} times smaller: there "
        f"are {known}"
    )
