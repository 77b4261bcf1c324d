"""Timesteps of every family, in half precision: bfloat16 has only every fourth whole number near 1000."""

import pytest
import tiny
import torch

from convbench.catalogue import families, find
from convbench.checks.output import input_sets
from convbench.models import create
from convbench.schema import Case


@pytest.mark.parametrize("family", families())
def test_timesteps_are_told_apart_that_half_precision_cannot_hold(family: str) -> None:
    """They are encoded before anything is rounded: otherwise both outputs are equal to the last bit."""
    case = Case(f"tiny:{family}", tiny.RES[family], 1)
    x, _, y = input_sets(case)[0]
    t = find(case.model).signature.time(torch.full((1,), 903.0)).bfloat16().float()
    near = t * (1 + 2**-10)
    assert torch.equal(t.bfloat16(), near.bfloat16()) and not torch.equal(t, near)
    model = create(case.model, res=case.res).bfloat16()
    with torch.inference_mode():
        assert not torch.equal(model(x.bfloat16(), t, y), model(x.bfloat16(), near, y))
