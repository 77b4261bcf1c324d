"""Every limit of the program as a number: whoever loosens one must loosen it here too, with its reason."""

import re
from pathlib import Path

import tolerances as numbers

from convbench import tolerances
from convbench.checks import kernels, machine, output, timing
from convbench.measure import drift, sampling
from convbench.timing import compare, derived


def test_the_limits_of_errors() -> None:
    assert tolerances.RELATIVE_L2 == numbers.RELATIVE_L2
    assert tolerances.TRAJECTORY_L2 == numbers.TRAJECTORY_L2
    assert tolerances.FEATURE_SHIFT == numbers.FEATURE_SHIFT
    assert (output.LEAST_CHANGE, drift.FULL) == (1e-4, 20)


def test_the_limits_of_the_checks() -> None:
    assert (timing.CLOCKS_AGREE, timing.MONOTONE, timing.FLOOR_SLACK) == (0.02, 0.02, 0.98)
    assert timing.LINEAR == {"cpu": 0.05, "cuda": 0.02}
    assert (timing.DRIFT, timing.TREND_CHANCE) == (1.5, 0.2)
    assert (
        *(0.03, 0.15),
        *(0.05, 0.1),
    ) == (machine.CLOCK_RANGE, machine.CORES_OF_OTHERS, machine.CORES_STOLEN, machine.WAITED_SHARE)
    assert (kernels.MINOR, sampling.WHOLE_AGREES) == (0.02, 0.1)
    assert (compare.DELTA, compare.LEAST_PAIRS, compare.LEAST_AA_PAIRS) == ({"cpu": 0.03, "cuda": 0.01}, 20, 3)
    assert derived.TOLERANCE == 1e-9
    assert (timing.OUTSIDE_AGREES, timing.OUTSIDE_S, timing.ZEROS, timing.FRESH) == (0.1, 0.2, 0.25, 0.1)
    assert (timing.FRESH_STEPS, timing.FRESH_PAIRS, timing.FRESH_CONFIRMING) == (8, 3, 9)
    assert (timing.LINEAR_PAIRS, timing.CONFIRMING_PAIRS) == (3, 9)


def test_no_other_test_takes_the_limits_of_errors_from_the_program() -> None:
    """It would pass with any; the rest is pinned above and by its own tests."""
    taken = re.compile(r"^from convbench\.tolerances import (.*)$|\bconvbench\.(tolerances\.\w+)", re.MULTILINE)
    for file in Path(__file__).parent.rglob("*.py"):
        if file != Path(__file__):
            found = [a or b for a, b in taken.findall(file.read_text("utf-8"))]
            assert set(found) <= {"FID_GAP", "QUALITY_MARGINS"}, file
