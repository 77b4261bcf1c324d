"""Engines to sample with, most of them broken as real ones have been: tests/measure/test_drift.py and test_digits.py.

Named as "engines:NAME", as tests/ is on the path.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convbench.kernels.cpu import modules
from convbench.schema import Backend, Case, Step

Inputs = tuple[Tensor, Tensor, Tensor]
exact_gelu = F.gelu

# One whole block of each of the small models, by its place: the last that keeps its width.
BLOCK = {"dico_digits": "decoder_level_1.1", "fcdm_digits": "decoder_level_2.1", "dic_digits": "lat_blocks.0.0"}


def tanh_gelu(x: Tensor, approximate: str = "tanh") -> Tensor:
    return exact_gelu(x, approximate="tanh")


class Dropped(nn.Module):
    """What is left of a block: its input."""

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        return x


@contextmanager
def _half_tanh(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    model = copy.deepcopy(model).half()

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with patch.object(F, "gelu", tanh_gelu):
            return model(x.half(), t, y)

    yield step


@contextmanager
def _tanh(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with patch.object(F, "gelu", tanh_gelu):
            return model(x, t, y)

    yield step


@contextmanager
def _drops_a_block(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    model = copy.deepcopy(model)
    model.set_submodule(BLOCK[case.model], Dropped())
    yield model


@contextmanager
def _turned(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    yield lambda x, t, y: model(x.roll(1, 0), t.roll(1, 0), y.roll(1, 0)).roll(-1, 0)


@contextmanager
def _one_by_one(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    yield lambda x, t, y: torch.cat([model(*(v[i : i + 1] for v in (x, t, y))) for i in range(len(x))])


@contextmanager
def _winograd(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    suits = {name: "F(4x4,3x3)" for name, module in model.named_modules() if modules.suits(module)}
    yield modules.packed_copy(model, suits)


@contextmanager
def _gives_up(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    calls = 0

    def step(*given: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise LookupError("lost the session\nand a second line")
        return model(*given)

    yield step


@contextmanager
def _stumbles(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    yield lambda x, t, y: model(x, t, y) * torch.where((t > 400) & (t < 500), 1.5, 1.0)[:, None, None, None]


@contextmanager
def _overflows(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    yield lambda x, t, y: model(x, t, y) * torch.where(t < 500, torch.inf, 1.0)[:, None, None, None]


half_tanh = Backend("half_tanh", "float16 and the tanh GELU, whatever was asked for", _half_tanh)
tanh = Backend("tanh", "the tanh GELU, otherwise right", _tanh)
drops_a_block = Backend("drops_a_block", "left a block out", _drops_a_block)
turned = Backend("turned", "right, with the batch in another order", _turned)
one_by_one = Backend("one_by_one", "right, an image at a time", _one_by_one)
winograd = Backend("winograd", "right, every 3x3 convolution by F(4x4,3x3)", _winograd)
gives_up = Backend("gives_up", "fails at the third step", _gives_up)
stumbles = Backend("stumbles", "wrong at one step in the middle", _stumbles)
overflows = Backend("overflows", "leaves the range in the second half", _overflows)
unwilling = Backend("unwilling", "", _turned, unsupported=lambda case: "needs a licence")
