"""On an NVIDIA GPU: TensorRT and ONNX Runtime against PyTorch, other weights without a build. Run by `make gpu`."""

import shutil
from dataclasses import replace
from pathlib import Path

import exported
import pytest
import torch
from simulated import QUICK

from convbench import backends
from convbench.export import folder, make, tensorrt, verify
from convbench.measure.forward import measure
from convbench.models.random_weights import fill
from convbench.schema import Case

CASE = Case("tiny:dico", exported.RES, 2, device="cuda")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt", "aoti"])
def test_a_backend_is_proved_on_the_gpu(
    backend: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path))
    case = replace(CASE, backend=backend, precision=precision)
    if reason := backends.find(backend).unsupported(case):
        pytest.skip(reason)
    for _ in range(2):  # built, then taken from the cache
        (result,) = measure([case], QUICK)
        assert result.status == "ok", result.reason


def test_an_engine_is_right_and_takes_another_checkpoint(tmp_path: Path) -> None:
    if reason := backends.find("tensorrt").unsupported(replace(CASE, backend="tensorrt")):
        pytest.skip(reason)
    network, sizes, path = exported.network("dico"), exported.sizes("dico"), tmp_path / "engine"
    path.mkdir()
    make.build(network, sizes, make.Wanted("tiny:dico", exported.RES, "tensorrt", batch=(1, 8)), path)
    found = verify.check(path, network, sizes)
    assert found["status"] == "passed", found["reason"]

    fill(network, seed=1)
    source = tmp_path / "onnx"
    source.mkdir()
    make.build(network, sizes, make.Wanted("tiny:dico", exported.RES, "onnx", batch=(1, 8)), source)
    refitted = tmp_path / "refitted"
    shutil.copytree(path, refitted)
    tensorrt.refit(path / "engine.plan", source / "model.onnx", refitted / "engine.plan")
    folder.write(refitted, folder.read(refitted))
    assert verify.check(path, network, sizes)["status"] == "failed"
    assert verify.check(refitted, network, sizes)["status"] == "passed"
    assert torch.cuda.is_available()
