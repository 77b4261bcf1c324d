"""A network in parts for ONNX Runtime: sampling with a cache follows eager, and a wrong part is not used."""

from dataclasses import replace

import pytest
import torch

from convbench import models
from convbench.errors import ConvbenchError
from convbench.export import parts
from convbench.measure import drift
from convbench.models import cuts
from convbench.sampling.images import Recipe, sampler_for
from convbench.sampling.method_names import CacheChoice


@pytest.mark.slow
@pytest.mark.parametrize(("id", "cache"), [("dico_digits", "deep:every=2"), ("dit_glyphs", "first:threshold=0.1")])
def test_sampling_in_parts_follows_eager(id: str, cache: str) -> None:
    res = 8 if id.endswith("digits") else 32
    recipe = Recipe(id, res, None, "ddim", 20, 1.5, None, 0, (0, 1, 2), "eager", "fp32", None)
    recipe = replace(recipe, cache=CacheChoice.of_text(cache), cfg_interval=(0.0, 0.7))
    made = sampler_for(recipe.variant, "ddim", 20)
    expected = list(drift.states(recipe, made, range(3), "cpu", "shipped"))
    found = list(drift.states(replace(recipe, backend="onnxruntime"), made, range(3), "cpu", "shipped"))
    plain = list(drift.states(replace(recipe, cache=None), made, range(3), "cpu", "shipped"))
    error, _ = drift.distances(found[-1], expected[-1])
    assert error is not None and error <= drift.limit("fp32", 20)
    assert (plain[-1] - expected[-1]).norm() > 1e-3 * expected[-1].norm()  # the cache did something


@pytest.mark.slow
def test_parts_that_do_not_make_the_network_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.create("dico_digits", "shipped", res=8)
    right = cuts.cut_of(network)
    assert right
    wrong = replace(right, inner=lambda *entered: 1.001 * right.inner(*entered))
    monkeypatch.setattr(parts, "cut_of", lambda network: wrong)
    inputs = (torch.zeros(1, 1, 8, 8), torch.tensor([999.0]), torch.tensor([9]))
    with (
        pytest.raises(ConvbenchError, match="the network in parts is wrong: its error of"),
        parts.opened(network, inputs),
    ):
        pass
