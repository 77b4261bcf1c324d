"""``convbench doctor``: machines and environments that lack something, made up by exchanging what is looked at."""

import importlib.metadata
import json
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from convbench import cli, doctor


class Installed:
    """A distribution of a name, a version and the names of its files."""

    def __init__(self, name: str, version: str, *files: str) -> None:
        self.metadata, self.version = {"Name": name}, version
        self.files = [PurePosixPath(file) for file in files]


def install(monkeypatch: pytest.MonkeyPatch, *found: Installed) -> None:
    by_name = {each.metadata["Name"]: each for each in found}

    def distribution(name: str) -> Installed:
        if name not in by_name:
            raise importlib.metadata.PackageNotFoundError(name)
        return by_name[name]

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(found))


def test_it_says_of_everything_whether_it_works_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert {row["works"] for row in rows} <= {"yes", "no", "perhaps"}
    assert all((row["works"] == "yes") == (row["reason"] is None) for row in rows)
    found = {row["what"]: row["works"] for row in rows}
    assert found["cpu"] == found["eager on cpu"] == found["onnx in fp32"] == found["plots"] == "yes"
    assert found["cuda"] == ("yes" if torch.cuda.is_available() else "no")


def test_the_table_leaves_out_what_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        doctor, "examine", lambda *_: [doctor.row("a", "good"), doctor.row("b", "bad", "no: pip install x")]
    )
    for line, shown in {"doctor": False, "doctor --all": True}.items():
        with pytest.raises(SystemExit):
            cli.main(line.split())
        out = capsys.readouterr().out
        assert ("good" in out) == shown and "pip install x" in out
        assert "1 work, 1 do not, 0 are of a version" in out


def test_a_command_at_the_end_of_a_reason_becomes_the_fix() -> None:
    found = doctor.row("exports", "x", "ONNX files: onnx is not installed: pip install 'convbench[export]'")
    assert (found["reason"], found["fix"]) == ("ONNX files: onnx is not installed", "pip install 'convbench[export]'")
    assert doctor.row("a", "b", "CUDA graphs need an NVIDIA GPU")["fix"] is None


@pytest.mark.parametrize(
    ("gpus", "cuda", "reason", "fix"),
    [
        ([], None, "this machine has no NVIDIA GPU, or no driver", None),
        (["GPU 0: NVIDIA H200"], None, "is a build without CUDA", "pip install --force-reinstall torch==2.13.0"),
        (["GPU 0: NVIDIA H200"], "13.0", "built for CUDA 13.0, which the driver does not support", "whl/cu126"),
    ],
)
def test_a_torch_that_does_not_see_the_gpu(
    gpus: list[str], cuda: str | None, reason: str, fix: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "driver_gpus", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    cpu, found = doctor._devices()
    assert cpu["works"] == "yes" and found["works"] == "no"
    assert reason in found["reason"]
    assert found["fix"] is None if fix is None else fix in found["fix"]


@pytest.mark.parametrize(("gpus", "kept"), [([], "onnxruntime"), (["GPU 0: NVIDIA H200"], "onnxruntime-gpu")])
def test_two_onnxruntimes_together(gpus: list[str], kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "driver_gpus", lambda: gpus)
    install(monkeypatch, Installed("onnxruntime", "1.31.1"), Installed("onnxruntime-gpu", "1.31.1"))
    (found,) = doctor._conflicts()
    assert found["fix"] == f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {kept}"
    install(monkeypatch, Installed("onnxruntime-gpu", "1.31.1"))
    assert list(doctor._conflicts()) == []


def test_a_tensorrt_wheel_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Installed("tensorrt-cu13-libs", "11.4.0.106", "tensorrt_cu13_libs/__init__.py")
    whole = Installed("tensorrt_cu12_libs", "10.1", "tensorrt_libs/libnvinfer.so.10")
    other = Installed("tensorrt_rtx_cu13_libs", "1.7", "tensorrt_rtx_libs/libtensorrt_rtx.so")
    install(monkeypatch, stub, whole, other)
    (found,) = doctor._conflicts()
    assert "tensorrt_cu13_libs 11.4.0.106 is a stub" in found["reason"]
    assert "--extra-index-url https://pypi.nvidia.com tensorrt_cu13_libs==11.4.0.106" in found["fix"]


def test_a_version_that_is_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "tested_versions", lambda: {"onnx": "1.23.2", "torch": "2.13.0", "openvino": "2026.4.1"}
    )
    install(monkeypatch, Installed("onnx", "1.9.0"), Installed("torch", "2.13.1+cpu"))
    (found,) = doctor._versions()
    assert (found["what"], found["works"], found["fix"]) == ("onnx", "perhaps", "pip install onnx==1.23.2")
    assert found["reason"] == "1.9.0 is older than 1.23.2, which the tests ran with"


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    tested = doctor.tested_versions()
    assert {"torch", "numpy", "onnxruntime", "starlette"} <= set(tested)
    pins = dict(
        line.split("==") for line in doctor.CONSTRAINTS.read_text().splitlines() if "==" in line[1:] and line[0] != "#"
    )
    assert {name: pins[name] for name in tested if name in pins and pins[name] != tested[name]} == {}


def test_servers_and_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    monkeypatch.setattr(doctor, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    rows: dict[str, Any] = {row["what"]: row for row in (*doctor._servers(), *doctor._parts())}
    assert rows["convbench serve"]["fix"] == "pip install 'convbench[serve]'"
    assert "nvidia-pytriton==0.7.0" in rows["tritonserver"]["fix"]
    assert rows["plots"]["fix"] == "pip install matplotlib"
    assert rows["clocks, power and temperature of a GPU"]["fix"] is None  # no package makes a GPU


def test_gpus_are_those_that_the_driver_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/bin/true")
    said = SimpleNamespace(stdout="GPU 0: NVIDIA H200 (UUID: a)\nfailed\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: said)
    assert doctor.driver_gpus() == ["GPU 0: NVIDIA H200 (UUID: a)"]
