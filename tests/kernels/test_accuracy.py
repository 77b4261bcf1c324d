"""The accuracy check of the kernels finds a wrong operation, on both sides of each limit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from convbench.checks.output import relative_error
from convbench.kernels.accuracy import check_accuracy, widened
from convbench.kernels.ops.gate_residual import KERNELS as GATE
from convbench.kernels.schema import Shape

LIMITS = {"fp32": (8.0, 1.5), "fp16": (1.2, 1.0), "bf16": (1.2, 1.0)}  # times the rounding, times the error of eager
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


@pytest.mark.parametrize("amplification", [1.0, 2.0])
@pytest.mark.parametrize("eager", [1.0, 20.0], ids=["eager rounds once", "eager is worse"])
@pytest.mark.parametrize("label", LIMITS)
def test_an_operation_may_be_as_far_off_as_rounding_or_eager(label: str, eager: float, amplification: float) -> None:
    """Errors are made up here, as multiples of that of rounding the exact outputs once."""
    (kernel,) = GATE
    small = replace(SHAPE, channels=24, height=15, width=17)

    def off(times: float) -> Callable[..., Tensor]:
        """The operation whose whole error is so many times that of rounding."""

        def op(*arguments: Any) -> Tensor:
            exact = kernel.reference(*widened(arguments))
            rounding = relative_error(exact.to(arguments[0].dtype), exact)
            noise = torch.randn(exact.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            added = rounding * (times**2 - 1) ** 0.5 * exact.norm() / noise.norm()
            return (exact + added * noise).to(arguments[0].dtype)

        return op

    roundings, times = LIMITS[label]
    allowed = amplification * max(roundings, times * eager)
    for share, status in ((0.95, "ok"), (1.05, "wrong")):
        made = replace(kernel, op=off(share * allowed), eager=off(eager), amplification=amplification)
        assert check_accuracy(made, small, label, "cpu")["status"] == status
