"""DDT against the official implementation on a small network, its rotary table, and what a kept state saves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from formula import formula_state, token_rivals
from tolerances import assert_close
from torch import Tensor, nn

from convbench.counting import count
from convbench.models.ddt import DDT, SPAN, SpanRotary

SIZE = {"width": 384, "depth": 12, "encoder": 8, "heads": 6, "patch": 2}


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[1] / "data" / "golden_tiny" / "ddt_tiny.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def network(res: int | tuple[int, int] = 256) -> nn.Module:
    model = DDT(**SIZE, res=res).eval().requires_grad_(False)
    model.load_state_dict(formula_state(model))
    return model


def test_a_small_network_has_the_official_keys_and_counts() -> None:
    official = token_rivals()["ddt_tiny"]
    with torch.device("meta"):
        model = DDT(**SIZE, res=512)
        inputs = torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, dtype=torch.long)
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == official["state_dict"]
    found = count(model, inputs)
    assert (found.params, found.macs) == (official["parameters"], official["macs_torchprofile"]["64"])
    assert found.macs_full == official["macs_full"]["64"]


@pytest.mark.parametrize("suffix", ["", "_unit"])
def test_output_in_float32_and_float64(suffix: str, stored: dict[str, Tensor]) -> None:
    model, t, y = network(), stored[f"t{suffix}"], stored["y"]
    assert_close(model(stored["x"], t, y), stored[f"out{suffix}"], "fp32")
    assert_close(model.double()(stored["x"].double(), t, y), stored[f"out{suffix}_f64"], "fp64")


def test_a_state_can_be_kept_for_the_next_step(stored: dict[str, Tensor]) -> None:
    """It holds the time it was made at: the decoder has no other."""
    model, x, y = network(), stored["x"], stored["y"]
    state = model.encode(x, stored["t_unit"], y)
    assert_close(state.mean((1, 2)), stored["state_unit_mean"], "fp32")
    assert_close(state.std((1, 2)), stored["state_unit_std"], "fp32")
    assert_close(model(x, torch.tensor([0.3, 0.8]), y, state), stored["out_reused_state"], "fp32")
    whole, kept = (count_of(*state) for state in ((), (torch.empty(1, 256, 384, device="meta"),)))
    assert 0.5 < 1 - kept / whole < 2 / 3  # eight of twelve blocks, less the modulation for each token of the others


def count_of(*state: Tensor) -> int:
    with torch.device("meta"):
        inputs = torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, dtype=torch.long)
        return count(DDT(**SIZE), (*inputs, *state)).macs


def test_height_and_width_may_differ(stored: dict[str, Tensor]) -> None:
    found = network((128, 256))(stored["x_16x32"], stored["t_unit"], stored["y"])
    assert_close(found, stored["out_16x32"], "fp32")


@pytest.mark.parametrize(("width", "rows", "columns"), [(8, 3, 5), (72, 4, 4), (8, 1, 2)])
def test_rotary_is_a_product_of_complex_numbers(width: int, rows: int, columns: int) -> None:
    """Places run from 0 to SPAN on both sides, whatever their number; a single one is 0."""
    x = torch.randn(2, rows * columns, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = torch.view_as_complex(x.unflatten(2, (-1, 2)))
    angle = torch.zeros(rows * columns, width // 2, dtype=torch.float64)
    for token in range(rows * columns):
        for pair in range(width // 2):
            step, count = (token // columns, rows) if pair % 2 else (token % columns, columns)
            angle[token, pair] = step * SPAN / max(1, count - 1) * 10_000 ** (-4 * (pair // 2) / width)
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(2)
    assert_close(SpanRotary(width, rows, columns)(x.float()), expected, "fp32")


def test_a_different_size_names_the_required_one() -> None:
    model = DDT(32, 2, 1, 2, 2, res=64, num_classes=10)
    y = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"^this DDT is built for 8x8 latents, got 16x16: create it with res=128$"):
        model(torch.zeros(1, 4, 16, 16), torch.zeros(1), y)
    with pytest.raises(ValueError, match=r"got 8x16: create it with res=\(64, 128\)$"):
        model.encode(torch.zeros(1, 4, 8, 16), torch.zeros(1), y)
