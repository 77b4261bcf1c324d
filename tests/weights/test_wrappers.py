"""Which of several state dicts in one checkpoint is read: averaged weights before the last ones, whatever the order."""

from itertools import permutations
from pathlib import Path

import pytest
import torch

from convbench.weights.read import WRAPPERS, read_state_dict

RANKED = ("ema", "ema_state_dict", "model", "state_dict", "model_state_dict", "net")  # the best first


def test_the_names_are_known() -> None:
    assert WRAPPERS == RANKED


@pytest.mark.parametrize(("first", "second"), list(permutations(RANKED, 2)))
def test_of_two_the_better_one_is_read(first: str, second: str, tmp_path: Path) -> None:
    """In either order in the file; what lies beside them is passed over."""
    content = {"epoch": 3, **{name: {"weight": torch.full((2,), RANKED.index(name))} for name in (first, second)}}
    torch.save(content, tmp_path / "weights.pt")
    best = min(RANKED.index(first), RANKED.index(second))
    assert read_state_dict(str(tmp_path / "weights.pt"))["weight"].tolist() == [best, best]


@pytest.mark.parametrize("name", RANKED[1:])
def test_an_empty_one_is_passed_over(name: str, tmp_path: Path) -> None:
    torch.save({"ema": {}, name: {"weight": torch.ones(2)}}, tmp_path / "weights.pt")
    assert list(read_state_dict(str(tmp_path / "weights.pt"))) == ["weight"]
