"""The accuracy check of the kernels finds a wrong operation."""

from dataclasses import replace

import pytest
import torch

from convbench.kernels.accuracy import check_accuracy
from convbench.kernels.ops.gate_residual import KERNELS as GATE
from convbench.kernels.schema import Shape

SHAPE = Shape("dic_xl", 256, 1, channels=384, height=32, width=32)


def test_a_wrong_op_is_found() -> None:
    (kernel,) = GATE
    small = replace(SHAPE, channels=24, height=5, width=7)
    assert check_accuracy(kernel, small, "fp32", "cpu")["status"] == "ok"
    wrong = replace(kernel, op=lambda x, *others: kernel.op(x, *others) * (1 + 1e-6))
    row = check_accuracy(wrong, small, "fp32", "cpu")
    assert row["status"] == "wrong"
    assert row["error"] == pytest.approx(1e-6, rel=0.1)
    assert row["error"] > row["error_limit"]
    nothing = replace(kernel, op=lambda x, *others: torch.full_like(x, float("nan")))
    assert check_accuracy(nothing, small, "bf16", "cpu")["status"] == "wrong"
