"""Run ``interpreter_suite.py`` in its own processes: a kernel is made for the interpreter or a GPU at import."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the interpreter is Triton's: pip install triton")
SUITE = Path(__file__).parents[1] / "support" / "interpreter_suite.py"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["fp32-", "fp16-", "bf16-", "mistake or gelu_is or batch"])
def test_in_the_interpreter(part: str) -> None:
    """Each precision of each case against float64, and each listed mistake, which has to be seen."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", part, str(SUITE)],
        cwd=SUITE.parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 20, done.stdout[-2000:]
