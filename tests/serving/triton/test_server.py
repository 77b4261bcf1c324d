"""What ``convbench deploy`` writes, in the real tritonserver of nvidia-pytriton. `make serving` sets it up."""

import json
import os
import re
import subprocess
import urllib.request
from pathlib import Path

import exported
import numpy as np
import pytest
import served
import torch
import triton_server
from triton_server import HOME, ROOT, free_ports, running, start

from convbench.export import folder
from convbench.sampling.guidance import guided
from convbench.serving.triton import repository

pytestmark = pytest.mark.skipif(
    "CONVBENCH_TRITON" not in os.environ and not HOME.is_dir(), reason="there is no Triton: `make serving` installs one"
)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return triton_server.backends(tmp_path_factory.mktemp("backends"))


def fails(models: Path, backends: Path, log: Path) -> str:
    """What a server says that cannot load its models."""
    server = start(models, backends, log, free_ports(3))
    try:
        assert server.wait(60) != 0
    finally:
        server.kill()
        server.wait()
    return log.read_text()


def test_it_batches_and_returns_what_pytorch_computes(artefact: Path, backends: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    wanted = repository.Deployment("python", max_delay_s=0.05, threads=1, guidance=True)
    assert repository.deploy(artefact, models, wanted) == ["tiny_dico", "tiny_dico_guided"]
    given = served.inputs(3, 12)
    scale = np.array([1.0, 2.5, 4.0], "float32")
    np.savez(tmp_path / "in.npz", **given, cfg_scale=scale)
    with running(models, backends, tmp_path / "log") as (http, grpc, metrics):
        addresses = [f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"]
        client = [HOME / "bin" / "python", ROOT / "tests" / "support" / "triton_client.py"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(
            [*client, *addresses, tmp_path / "in.npz", tmp_path / "out"], check=True, timeout=120, env=environment
        )
        text = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10).read().decode()
    network = exported.network("dico")
    x, t, y = (torch.from_numpy(given[name]) for name in "xty")
    with torch.no_grad():
        plain = network(x, t, y).numpy()
        each = [guided(network, y[k : k + 1], 10, float(scale[k]))(x[k : k + 1], t[k : k + 1]) for k in range(3)]
    right = {"tiny_dico": plain, "tiny_dico_guided": torch.cat(each).numpy(), "time": np.repeat(plain[:1], 24, 0)}
    outputs = dict(np.load(tmp_path / "out.npz"))
    assert len(outputs) == 5
    for name, found in outputs.items():
        expected = right[name.split()[-1]]
        assert found.shape == expected.shape, name
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 2e-6, name

    errors = json.loads((tmp_path / "out.json").read_text())
    for what, (http_error, grpc_error) in {
        "wrong shape": ("400: .*unexpected shape for input 'x'", "INVALID_ARGUMENT: .*unexpected shape"),
        "too many images": ("400: .*batch-size must be <= 8", "INVALID_ARGUMENT: .*batch-size must be <= 8"),
        "unknown model": ("404: .*unknown model", "NOT_FOUND: .*unknown model"),
        "misspelt input": ("400: unexpected inference input 'xx'", "INVALID_ARGUMENT: unexpected inference input"),
        "unknown class": ("400: y must lie between 0 and 10", "INVALID_ARGUMENT: y must lie between 0 and 10"),
        "unknown class, guided": ("400: y must lie between 0 and 10", "INVALID_ARGUMENT: y must lie between"),
    }.items():
        assert re.search(http_error, errors[f"http {what}"], re.DOTALL), errors[f"http {what}"]
        assert re.search(grpc_error, errors[f"grpc {what}"], re.DOTALL), errors[f"grpc {what}"]
    counts = {
        name: int(re.search(rf'^nv_inference_{name}{{model="tiny_dico",version="1"}} (\d+)', text, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("request_success", "exec_count")
    }
    assert counts["exec_count"] < counts["request_success"] - 10  # requests were joined


def test_a_misspelt_field_is_refused_by_its_parser(artefact: Path, backends: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    repository.deploy(artefact, models, repository.Deployment("python"))
    config = models / "tiny_dico" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size", "max_batch_sise"))
    said = fails(models, backends, tmp_path / "log")
    assert 'has no field named "max_batch_sise"' in said


@pytest.mark.parametrize(
    ("to", "backend"), [("onnx", "onnxruntime"), ("tensorrt", "tensorrt"), ("openvino", "openvino")]
)
def test_the_other_configurations_are_understood(
    to: str, backend: str, artefact: Path, backends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This Triton has the Python backend alone: that is the only thing it may miss."""
    from dataclasses import replace

    manifest = replace(folder.read(artefact), to=to, target={"device": "cpu", "library": "TensorRT 10.1"})
    monkeypatch.setattr(folder, "read", lambda path: manifest)
    models = tmp_path / "models"
    repository.deploy(artefact, models, repository.Deployment(backend, threads=2))
    said = fails(models, backends, tmp_path / "log")
    assert f"unable to find backend library for backend '{backend}'" in said
    assert "field" not in said
