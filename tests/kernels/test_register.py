"""Registration of the fused operations: their schemas, the check that runs first, the lines on pointer arguments."""

import inspect
import re

import pytest
import torch
from torch import Tensor

from convbench.errors import UsageError
from convbench.kernels import all_kernels
from convbench.kernels.register import register

SCHEMAS = {
    "channel_gates": "(Tensor sums, Tensor weight, Tensor bias, SymInt pixels) -> Tensor",
    "deformable_sampling": "(Tensor x, Tensor places, Tensor weights) -> Tensor",
    "depthwise": "(Tensor x, Tensor weight, Tensor bias) -> Tensor",
    "depthwise_gelu": "(Tensor x, Tensor weight, Tensor bias) -> (Tensor, Tensor)",
    "gate_residual": "(Tensor x, Tensor bias, Tensor gate, Tensor residual, Tensor? residual_bias=None) -> Tensor",
    "group_norm_gelu": "(Tensor x, Tensor weight, Tensor beta, SymInt groups, float eps, Tensor? bias=None, "
    "Tensor? scale=None, Tensor? shift=None) -> Tensor",
    "layer_norm_modulate": "(Tensor x, Tensor shift, Tensor scale, float eps=9.9999999999999995e-07) -> Tensor",
    "pointwise": "(Tensor x, Tensor weight, Tensor bias, bool gelu=False) -> Tensor",
    "pointwise_residual": "(Tensor x, Tensor? factor, Tensor weight, Tensor bias, Tensor gate, Tensor residual) -> "
    "Tensor",
    "pointwise_squares": "(Tensor x, Tensor weight, Tensor bias) -> (Tensor, Tensor)",
    "response_factors": "(Tensor squares, Tensor gamma, float eps=9.9999999999999995e-07) -> Tensor",
    "winograd_conv": "(Tensor x, Tensor weight, Tensor transformed, bool ours=False) -> Tensor",
}


@pytest.mark.parametrize("op", SCHEMAS)
def test_an_exported_program_finds_its_operations(op: str) -> None:
    """Name and schema of ``torch.ops.convbench.<op>`` are part of every program that was exported with it."""
    assert all_kernels()
    assert str(getattr(torch.ops.convbench, op).default._schema) == f"convbench::{op}{SCHEMAS[op]}"


def test_every_kernel_calls_a_registered_operation() -> None:
    assert {str(kernel.op).split("::")[1].rstrip(")>") for kernel in all_kernels()} == set(SCHEMAS)


def test_the_check_runs_first_and_tracing_computes_nothing() -> None:
    calls = []

    def reference(x: Tensor, times: float = 2.0) -> Tensor:
        calls.append("reference")
        return times * x

    def check(x: Tensor, *_: object) -> None:
        calls.append("check")
        if x.dim() != 1:
            raise UsageError("x must be (N,)")

    def launch(x: Tensor, times: float = 2.0) -> Tensor:
        raise AssertionError("the kernel ran without a GPU")

    op = register("test_of_register", reference, check, launch, empty=lambda x, *_: torch.empty_like(x))
    assert torch.equal(op(torch.ones(3)), torch.full((3,), 2.0))
    assert torch.equal(op(torch.ones(3), 5.0), torch.full((3,), 5.0))
    assert calls == ["check", "reference"] * 2
    with pytest.raises(UsageError, match=r"^x must be \(N,\)$"):
        op(torch.ones(1, 1))
    assert calls == ["check", "reference"] * 2 + ["check"]
    assert op(torch.ones(3, device="meta")).shape == (3,)
    assert len(calls) == 5


VECTOR = re.compile(r"\(\w+,\) contiguous")
MATRIX = re.compile(r"\([\w ]+(, [\w ]+)+\)(,| contiguous,).* strides \([\w ]+(, [\w ]+)+\)")


def test_every_pointer_argument_says_its_shape_and_strides() -> None:
    wanted, said = set(), set()
    for kernel in all_kernels():
        for compilation in kernel.compilations("bf16"):
            function = compilation.function.fn
            wanted |= {(function.__name__, name) for name in compilation.pointers}
            for name, line in re.findall(r"^    (\w+),  # (.*)$", inspect.getsource(function), re.MULTILINE):
                if VECTOR.match(line) or MATRIX.match(line):
                    said.add((function.__name__, name))
    assert sorted(wanted - said) == []
    assert len(wanted) > 40
