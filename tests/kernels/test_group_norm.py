"""The operations of a DiC block: their CPU form against the model's own layers, their refusals, and the kernels in
Triton's interpreter, in a process of its own."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convbench.errors import UsageError
from convbench.kernels.aot.budgets import TRITONS
from convbench.kernels.aot.compiler import folder_of
from convbench.kernels.ops.gate_residual import gate_residual
from convbench.kernels.ops.gate_residual import inputs as gate_inputs
from convbench.kernels.ops.group_norm import group_norm_gelu
from convbench.kernels.ops.group_norm import inputs as norm_inputs
from convbench.kernels.schema import Shape
from convbench.models.dic import ModulatedConvs

ROOT = Path(__file__).parents[2]
SHAPE = Shape("dic_xl", 256, 1, channels=24, height=5, width=7)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")
@pytest.mark.parametrize("triton", TRITONS)
def test_kernels_in_the_interpreter(triton: str) -> None:
    try:
        folder = folder_of(triton)
    except UsageError as error:
        pytest.fail(str(error))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [*([folder] if folder else []), ROOT]))
    suite = str(ROOT / "tests" / "support" / "interpreted_group_norm.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", suite],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("skip", [False, True])
def test_a_block_made_of_the_ops_is_the_block(skip: bool) -> None:
    """In float64, where nothing but a wrong formula can differ."""
    torch.manual_seed(0)
    block = ModulatedConvs(48 if skip else 24, 24).double().to(memory_format=torch.channels_last)
    x, c = channels_last(torch.randn(2, 48 if skip else 24, 5, 7).double()), torch.randn(2, 24).double()
    gate, scale, shift = block.affine(c).chunk(3, dim=1)

    def normed(norm: torch.nn.GroupNorm, y: Tensor, *more: Tensor) -> Tensor:
        return group_norm_gelu(y, norm.weight, norm.bias, norm.num_groups, norm.eps, *more)

    with torch.no_grad():
        y = F.conv2d(normed(block.norm0, x), block.conv0.weight, padding=1)
        y = F.conv2d(normed(block.norm1, y, block.conv0.bias, scale, shift), block.conv1.weight, padding=1)
        if skip:
            residual = F.conv2d(x, block.skip.weight)
            found = gate_residual(y, block.conv1.bias, gate, residual, block.skip.bias)
        else:
            found = gate_residual(y, block.conv1.bias, gate, x)
        torch.testing.assert_close(found, block(x, c), rtol=1e-12, atol=1e-12)


ARGUMENTS: dict[str, Any] = {
    "group_norm_gelu": (group_norm_gelu, norm_inputs),
    "gate_residual": (gate_residual, gate_inputs),
}


@pytest.mark.parametrize("op", ARGUMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_op_is_what_torch_expects_of_one(op: str, dtype: torch.dtype) -> None:
    """Schema, fake tensors and dynamic shapes."""
    function, inputs = ARGUMENTS[op]
    torch.library.opcheck(function, inputs(SHAPE, 2, dtype, "cpu", 0), test_utils=CHECKS)


CHECKS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("op", ARGUMENTS)
def test_the_result_is_in_channels_last_and_of_the_type_of_x(op: str) -> None:
    function, inputs = ARGUMENTS[op]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = function(*inputs(SHAPE, 2, dtype, "cpu", 0))
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("op", ARGUMENTS)
def test_another_layout_is_refused(op: str) -> None:
    """A silent copy would cost what the kernel saves."""
    function, inputs = ARGUMENTS[op]
    x, *others = inputs(SHAPE, 2, torch.float32, "cpu", 0)
    with pytest.raises(UsageError, match=r"x must be in channels_last"):
        function(x.contiguous(), *others)
    wider = torch.zeros(2, 5, 7, 2 * SHAPE.channels).permute(0, 3, 1, 2)
    with pytest.raises(UsageError, match=r"x must be in channels_last"):
        function(wider[:, ::2], *others)


@pytest.mark.parametrize(
    ("op", "index", "wrong", "said"),
    [
        ("group_norm_gelu", 3, 5, "24 channels cannot be divided into 5 groups"),
        ("group_norm_gelu", 1, torch.ones(23), r"weight must have shape \(24,\)"),
        ("group_norm_gelu", 5, torch.ones(48)[::2], "bias must be contiguous"),
        ("group_norm_gelu", 6, None, "scale and shift must be specified together"),
        ("group_norm_gelu", 7, torch.ones(24, 2).t(), "shift must have adjacent channels"),
        ("gate_residual", 2, torch.ones(3, 24), r"gate must have shape \(2, 24\)"),
        ("gate_residual", 3, channels_last(torch.ones(2, 24, 5, 6)), "residual must be torch.float32"),
        ("gate_residual", 3, channels_last(torch.ones(2, 24, 5, 7).half()), "residual must be torch.float32"),
    ],
)
def test_arguments_that_do_not_fit_are_named(op: str, index: int, wrong: Any, said: str) -> None:
    function, inputs = ARGUMENTS[op]
    arguments = [*inputs(SHAPE, 2, torch.float32, "cpu", 0)]
    arguments[index] = copy.copy(wrong)
    with pytest.raises(UsageError, match=said):
        function(*arguments)
