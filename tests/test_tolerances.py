"""Every limit as a number: a limit that is loosened must be loosened here too, with its reason."""

from convbench import tolerances
from convbench.checks import output
from convbench.measure import drift


def test_the_limits_of_the_program() -> None:
    assert tolerances.RELATIVE_L2 == {
        "fp32": 5e-6,
        "tf32": 1e-2,
        "torch-default": 1e-2,
        "bf16": 5e-2,
        "fp16": 1e-2,
        "int8": 1e-1,
    }
    assert tolerances.TRAJECTORY_L2 == {
        "fp32": 5e-6,
        "tf32": 1e-2,
        "torch-default": 1e-2,
        "bf16": 5e-2,
        "fp16": 4e-3,
        "int8": 2e-1,
    }
    assert tolerances.FEATURE_SHIFT == {
        "fp32": 1e-5,
        "tf32": 4e-3,
        "torch-default": 4e-3,
        "bf16": 4e-2,
        "fp16": 2e-3,
    }
    assert output.LEAST_CHANGE == 1e-4
    assert drift.FULL == 20
