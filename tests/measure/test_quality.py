"""Ways to sample run side by side: the same noise for all, engines of files, and what files cannot."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from convbench import models
from convbench.catalogue import find
from convbench.errors import UsageError
from convbench.measure import quality
from convbench.measure.quality import Race, SamplingWay, interleaved
from convbench.sampling.frechet import Statistics
from convbench.sampling.judge import JudgedImages
from convbench.sampling.plan import Plan

DICO = find("dico_digits")


def way(text: str, **more: Any) -> SamplingWay:
    return SamplingWay(Plan.of_text(f"sampler=ddim,{text}", DICO), **more)


class Eyes:
    """A judge that keeps the pixels as features."""

    name, recognises = "eyes", False
    real = Statistics(torch.zeros(64, dtype=torch.float64), torch.eye(64, dtype=torch.float64))

    def look(self, images: torch.Tensor, classes: torch.Tensor) -> JudgedImages:
        assert images.shape[1:] == (1, 8, 8)
        return JudgedImages(self.real, images.flatten(1), classes)

    def origin(self) -> dict[str, str]:
        return {}


@pytest.fixture
def race() -> Iterator[Race]:
    with Race("dico_digits", 8, str(DICO.shipped_weights), "cpu", 3, 10, Eyes()) as opened:
        yield opened


@pytest.fixture
def artefact(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An exported file that is the network itself and takes at most 8 images; the batches that it was called with."""
    network, calls = models.create("dico_digits", "shipped", res=8), []

    @contextmanager
    def opened(path: Path, threads: int, device: str) -> Iterator[Any]:
        def step(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return network(x, t, y)

        yield step

    monkeypatch.setattr(quality.folder, "read", lambda path: SimpleNamespace(model="dico_digits", res=8, batch=(1, 8)))
    monkeypatch.setattr(quality.runtimes, "opened", opened)
    return calls


def test_all_ways_sample_the_same_images_and_an_artefact_in_parts(race: Race, artefact: list[int]) -> None:
    """A file of any precision: what it computes in is its own affair."""
    file = way("steps=3", backend="onnx:a", precision="int8", artefact=Path("a"))
    runners = [race.opened(each) for each in (way("steps=3"), file, way("steps=3,cache=deep:every=2"))]
    for number in range(2):
        interleaved(race, runners, number, lambda name, step: None)
    plain, exported, cached = (runner.seen.features for runner in runners)
    assert plain.shape == (20, 64) and torch.allclose(plain, exported, atol=1e-4)
    assert (plain - cached).norm() > 1e-3 * plain.norm()
    assert set(artefact) == {8, 4}  # twice ten images
    assert all(len(runner.seconds) == len(runner.costs) == 2 and min(runner.seconds) > 0 for runner in runners)
    assert runners[0].seen.groups.tolist() == [*range(10), *range(10)]


@pytest.mark.usefixtures("artefact")
def test_what_a_file_cannot_is_one_line(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cache=deep needs a network in parts, and a holds a whole one"):
        race.opened(way("steps=3,cache=deep", artefact=Path("a")))
    monkeypatch.setattr(quality.folder, "read", lambda path: SimpleNamespace(model="dic_s", res=256, batch=(1, 8)))
    with pytest.raises(UsageError, match="a holds dic_s at 256 px, not dico_digits at 8"):
        race.opened(way("steps=3", artefact=Path("a")))
