"""The judge by a feature network and reference statistics: what it sees, and every file that it must refuse."""

import hashlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scripted import Inception, Scores, fid_files, saved
from torch import Tensor, nn

from convbench.errors import UsageError
from convbench.sampling import quality
from convbench.sampling.feature_network import FeatureNetwork
from convbench.sampling.frechet import Statistics
from convbench.sampling.verdict import compare, planned_images


def images(count: int, seed: int = 0, channels: int = 3) -> Tensor:
    """Smooth random images of 32 pixels in [-1, 1]."""
    coarse = torch.randn(count, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, 32, mode="bilinear").clamp(-1, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return fid_files(tmp_path_factory.mktemp("fid"), images(2000))


@pytest.fixture(scope="module")
def by(files: tuple[Path, Path]) -> FeatureNetwork:
    return FeatureNetwork(*files, 32, "cpu")


def test_it_sees_the_features_of_bytes_and_no_classes(by: FeatureNetwork, files: tuple[Path, Path]) -> None:
    pixels = images(60, seed=1)
    seen = by.look(pixels, torch.arange(60))
    expected = Scores()((127.5 * pixels + 128).clamp(0, 255).to(torch.uint8))
    torch.testing.assert_close(seen.features, expected)
    assert seen.recognised is None and not by.recognises and seen.groups.unique().tolist() == [0]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert by.origin() == {"reference_sha256": hashes[0], "features_sha256": hashes[1]}
    assert torch.equal(by.look(pixels, torch.arange(60)).features, seen.features)  # no matter how often it has run


def test_a_network_without_the_argument_is_called_without_it(files: tuple[Path, Path], tmp_path: Path) -> None:
    plain = FeatureNetwork(files[0], saved(Scores(), tmp_path / "scores.pt"), 32, "cpu")
    pixels = images(3, seed=1)
    expected = FeatureNetwork(*files, 32, "cpu").look(pixels, torch.zeros(3)).features
    assert torch.equal(plain.look(pixels, torch.zeros(3)).features, expected)


def test_grey_images_are_repeated_and_those_that_are_not_finite_have_no_features(by: FeatureNetwork) -> None:
    grey = images(4, channels=1)
    grey[2, 0, 5, 5] = math.inf
    found, coloured = by.look(grey, torch.zeros(4)), by.look(grey.repeat(1, 3, 1, 1), torch.zeros(4))
    assert torch.equal(found.features[:2], coloured.features[:2])
    assert found.features.isnan().all(1).tolist() == [False, False, True, False]
    assert found.distance == math.inf and quality.figures(found).frechet == math.inf


def test_the_distance_is_an_fid_and_grows_with_what_is_wrong(by: FeatureNetwork) -> None:
    same = quality.judge(by, images(2000), torch.zeros(2000))
    assert (same.recognised, same.recognised_low, same.recognised_high) == (None, None, None)
    assert same.frechet == pytest.approx(0, abs=1e-4 * by.real.covariance.trace().item())
    others, classes = images(300, seed=1), torch.zeros(300)
    noise = 0.5 * torch.randn(others.shape, generator=torch.Generator().manual_seed(2))
    good, noisy = by.look(others, classes), by.look(others + noise, classes)
    assert 0.2 * good.floor < good.distance < 5 * good.floor  # of as many real images
    found = compare(noisy, good)
    assert found.word == "worse" and found.reason.startswith("Fréchet") and "recognised" not in found.reason
    assert found.recognised_difference is None
    lost = by.look(others * math.nan, classes)
    assert compare(lost, good).word == "worse"
    assert compare(good, good).word in ("same", "inconclusive")  # inconclusive if it happens to lie below the floor


def test_the_ratio_is_of_what_exceeds_the_floor(by: FeatureNetwork) -> None:
    pixels, classes = images(40, seed=1), torch.zeros(40)
    slightly, more = (by.look(pixels + change, classes) for change in (0.1, 0.2))
    assert 0 < slightly.distance < more.distance
    by.real.floors[40] = floor = 0.9 * slightly.distance
    ratio, low, high = quality.frechet_ratio(more, slightly)
    assert ratio == pytest.approx((more.distance - floor) / (slightly.distance - floor))
    assert low < ratio < high and ratio - 1 == pytest.approx(10 * (more.distance / slightly.distance - 1))


def test_more_images_are_planned_than_there_are_features(by: FeatureNetwork) -> None:
    assert planned_images(by, 1) == math.ceil((2.8 * 0.7 / 0.1) ** 2)
    inception: Any = SimpleNamespace(recognises=False, real=Statistics(torch.zeros(2048), torch.eye(1), biased=True))
    assert planned_images(inception, 1000) == 3000


# ---- what it refuses ----


class Silent(nn.Module):
    """No forward."""


class Pair(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.float().flatten(1), images


class Floats(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.conv2d(images, torch.ones(16, 3, 3, 3)).mean(dim=(2, 3))


def refusal(statistics: Path, network: Path) -> str:
    with pytest.raises(UsageError) as raised:
        FeatureNetwork(statistics, network, 32, "cpu")
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Silent(), "has no forward: expected TorchScript"),
        (Inception(12), "computes 12 features of an image, but"),
        (Pair(), "does not turn bytes (B, 3, H, W) into features (B, F): it returns tuple"),
        (Floats(), "does not turn bytes (B, 3, H, W) into features (B, F): RuntimeError: "),
    ],
)
def test_networks_that_do_not_fit(files: tuple[Path, Path], tmp_path: Path, network: nn.Module, reason: str) -> None:
    assert reason in refusal(files[0], saved(network, tmp_path / "net.pt"))


def test_files_that_are_not_torchscript(files: tuple[Path, Path], tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("a network", "utf-8")
    (tmp_path / "cut.pt").write_bytes(files[1].read_bytes()[:-500])
    for name in ("state.pt", "text.pt", "cut.pt"):
        assert f"{name} is not TorchScript: expected TorchScript, such as inception" in refusal(
            files[0], tmp_path / name
        )
    assert "No such file or directory" in refusal(files[0], tmp_path / "none.pt")
    assert "it is not an ordinary file" in refusal(files[0], tmp_path)
