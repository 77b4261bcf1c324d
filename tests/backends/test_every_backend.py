"""Every registered backend: measured here on a small model, or refused in words that say what it needs."""

from pathlib import Path

import pytest
from simulated import QUICK, Simulated
from tolerances import RELATIVE_L2

from convbench import backends
from convbench.measure.feasible import unsupported
from convbench.measure.forward import measure
from convbench.schema import Case

CASE = Case("dico_digits", 8, 2, threads=1)
ELSEWHERE = {  # on a processor
    "tensorrt": "TensorRT runs on NVIDIA GPUs only: --device cuda",
    "triton_graphs": "CUDA graphs need an NVIDIA GPU",
}
HERE = [
    pytest.param(name, marks=() if name == "eager" else pytest.mark.slow)
    for name in backends.names()
    if name not in ELSEWHERE
]


def case(name: str) -> Case:
    return Case(CASE.model, CASE.res, CASE.batch, name, threads=1)


@pytest.mark.parametrize("name", HERE)
def test_it_is_proved_and_timed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path))
    assert unsupported(case(name)) is None
    (row,) = measure([case(name)], QUICK, clock=Simulated())
    assert (row.status, row.verdict, row.backend) == ("ok", "VALID", name), row.reason
    assert row.images_per_s == pytest.approx(200)
    assert row.error_vs_fp32 is not None and row.error_vs_fp32 <= RELATIVE_L2["fp32"]
    assert bool(row.unranked) == (name == "triton")  # whose kernels need a GPU: here runs what they are checked against


@pytest.mark.parametrize("name", ELSEWHERE)
def test_it_says_what_it_needs(name: str) -> None:
    assert unsupported(case(name)) == ELSEWHERE[name]
    assert backends.find(name).summary


def test_a_backend_is_called_by_the_name_of_its_file() -> None:
    assert set(ELSEWHERE) < set(backends.names())
    assert [name for name in backends.names() if backends.find(name).name != name] == []
