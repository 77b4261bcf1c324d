"""The decoders by config: their tables against the counts, their shapes, and which latents each is for."""

import sys
from typing import Any

import pytest
import torch

from convbench.catalogue import Signature, find, variants
from convbench.counting import count
from convbench.errors import UsageError
from convbench.sampling import decoding
from convbench.sampling.decoders import decoder_of, decoders
from convbench.sampling.random_decoder import DecoderNetwork, random_decoder

NONE_KNOWN = {"ldm_4"}  # of 3 channels at a quarter of the side
LATENT = [id for id, variant in variants().items() if variant.signature.factor != 1 and not variant.shipped]


@pytest.mark.parametrize("id", decoders())
def test_parameters_and_macs_of_the_table_are_those_counted(id: str) -> None:
    pytest.importorskip("diffusers")
    facts = decoders()[id]
    side = 256 // facts.factor
    with torch.device("meta"):
        network = DecoderNetwork(facts).eval()
        found = count(network, (torch.empty(1, facts.channels, side, side),))
        assert network(torch.empty(2, facts.channels, 3, 5)).shape == (2, 3, 3 * facts.factor, 5 * facts.factor)
    assert (found.params, found.macs) == (facts.params, facts.macs)
    assert not any("encoder" in key.split(".") or "quant_conv" in key.split(".") for key in network.state_dict())


def test_the_decoder_of_va_vae_attends_at_its_lowest_level() -> None:
    """Three blocks of it beside the one in the middle, each of 512 channels: attn_resolutions 16 of the config."""
    pytest.importorskip("diffusers")
    with torch.device("meta"):
        keys = DecoderNetwork(decoders()["va_vae_f16"]).state_dict()
    attentions = [key for key in keys if key.endswith("to_q.weight")]
    assert [keys[key].shape for key in attentions] == [(512, 512)] * 4
    assert sum("up_blocks.0." in key for key in attentions) == 3


@pytest.mark.parametrize("id", LATENT)
def test_every_network_of_latents_has_its_decoder(id: str) -> None:
    takes = find(id).signature
    if id in NONE_KNOWN:
        with pytest.raises(UsageError, match="no decoder is known for latents of 3 channels at a side 4 times smaller"):
            decoder_of(takes)
        return
    expected = {8: "sd_vae_f8", 16: "va_vae_f16", 32: "dc_ae_f32"}[takes.factor]
    assert decoder_of(takes).id == expected


def test_a_random_decoder_runs_and_keeps_its_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a latent of 2 x 2; the scale is taken back before the network."""
    pytest.importorskip("diffusers")
    takes = find("sana_600m").signature
    decode: Any = random_decoder("cpu", takes)
    x = torch.randn(1, 32, 2, 2)
    with torch.inference_mode():
        found = decode(x)
        expected = decode.autoencoder.decode(x / 0.41407).sample
    assert found.shape == (1, 3, 64, 64) and found.isfinite().all()
    assert torch.equal(found, expected)
    assert random_decoder("meta")(torch.empty(2, 4, 8, 8, device="meta")).shape == (
        2,
        3,
        64,
        64,
    )  # the usual one by default
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"^decode=yes needs diffusers: pip install 'convbench\[sample\]'"):
        random_decoder("cpu")


def test_latents_with_statistics_of_their_own_are_not_decoded_by_weights() -> None:
    with pytest.raises(UsageError, match=r"^latents of VA-VAE f16 are normalised by statistics that convbench does"):
        decoding.create_decoder(Signature(channels=32, factor=16), "somewhere", "cpu")
    with pytest.raises(UsageError, match=r"give --vae with a folder of diffusers' AutoencoderDC, or hf:mit-han-lab"):
        decoding.create_decoder(find("sana_600m").signature, None, "cpu")
