"""``convbench deploy``: what the repository holds, and its model.py files with Triton exchanged for a double.

The real server: test_triton_server.py.
"""

import asyncio
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import exported
import numpy as np
import pytest
import served
import torch

from convbench import cli
from convbench.catalogue import find
from convbench.errors import UsageError
from convbench.export import folder
from convbench.sampling.guidance import combine
from convbench.serving.triton import guidance, repository, step


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


class Tensor:
    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def as_numpy(self) -> Any:
        return self.value


class Response:
    def __init__(self, tensors: Any = (), error: Any = None) -> None:
        self.tensors, self.failed = tensors, error

    def has_error(self) -> bool:
        return self.failed is not None

    def error(self) -> Any:
        return self.failed


class TritonError:
    INVALID_ARG = 3

    def __init__(self, message: str, code: int = 0) -> None:
        self.said, self.kind = message, code

    def message(self) -> str:
        return self.said

    def code(self) -> int:
        return self.kind


def by_name(holder: Any, name: str) -> Tensor:
    (found,) = [tensor for tensor in holder.tensors if tensor.name == name]
    return found  # type: ignore[no-any-return]


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The module that Triton's Python backend offers."""
    double = SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=Response,
        TritonError=TritonError,
        get_input_tensor_by_name=by_name,
        get_output_tensor_by_name=by_name,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", double)  # type: ignore[arg-type]
    return double


def request(given: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(tensors=[Tensor(name, value) for name, value in given.items()])


def config(**facts: str) -> str:
    return json.dumps({"parameters": {name: {"string_value": value} for name, value in facts.items()}})


def test_a_batch_is_one_run_and_a_bad_class_is_refused_alone(artefact: Path, triton: Any, tmp_path: Path) -> None:
    repository.deploy(artefact, tmp_path / "models", repository.Deployment("python", threads=1))
    model = step.TritonPythonModel()
    facts = {"artefact": "onnx", "entry": "model.onnx", "threads": "1", "last_class": "10"}
    where = {"model_repository": str(tmp_path / "models" / "tiny_dico"), "model_version": "1"}
    model.initialize({"model_config": config(**facts), **where})
    runs: list[int] = []
    run = model.run
    model.run = lambda x, t, y: runs.append(len(x)) or run(x, t, y)  # type: ignore[func-returns-value]
    cases = [served.inputs(1 + k, 8, seed=k) for k in range(3)]
    cases[1]["y"][0] = 11
    first, bad, last = model.execute([request(case) for case in cases])
    assert runs == [4]
    assert bad.error().message() == "y must lie between 0 and 10" and bad.error().code() == TritonError.INVALID_ARG
    for answer, case in ((first, cases[0]), (last, cases[2])):
        with torch.no_grad():
            right = exported.network("dico")(*(torch.from_numpy(case[name]) for name in "xty")).numpy()
        found = by_name(answer, "out").value
        assert np.linalg.norm(found - right) / np.linalg.norm(right) < 2e-6
    (alone,) = model.execute([request(cases[1])])
    assert alone.has_error() and runs == [4]


def test_guidance_is_that_of_the_samplers(triton: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Request:
        def __init__(self, model_name: str, requested_output_names: list[str], inputs: list[Tensor]) -> None:
            self.given = {tensor.name: tensor.value for tensor in inputs}
            asked.append((model_name, self.given["y"].tolist()))

        async def async_exec(self) -> Response:
            if (self.given["y"] == 5).any():
                return Response(error=TritonError("five", 3))
            x, y = self.given["x"], self.given["y"].reshape(-1, 1, 1, 1)
            return Response([Tensor("out", np.concatenate([x * y, x + y], axis=1).astype("float32"))])

    triton.InferenceRequest = Request
    model = guidance.TritonPythonModel()
    model.initialize({"model_config": config(model="tiny_dico", null_class="10", channels="3")})
    case = served.inputs(2, 4)
    case["y"] = np.array([1, 7])
    five = case | {"y": np.array([1, 5])}
    scale = np.array([3.0, 3.0], "float32")
    beyond = case | {"y": np.array([1, 11])}
    answer, failed, refused = asyncio.run(
        model.execute([request(given | {"cfg_scale": scale}) for given in (case, five, beyond)])
    )
    assert ("tiny_dico", [[1], [7]]) in asked and ("tiny_dico", [[10], [10]]) in asked
    x = np.concatenate([case["x"], case["x"]])
    y = np.array([1, 7, 10, 10]).reshape(-1, 1, 1, 1)
    right = combine(torch.from_numpy(np.concatenate([x * y, x + y], axis=1).astype("float32")), 4, 3.0).numpy()
    assert np.allclose(by_name(answer, "out").value, right, rtol=1e-6)
    assert failed.error().message() == "five"
    assert refused.error().message() == "y must lie between 0 and 10" and refused.error().code() == 3


@pytest.mark.parametrize(
    ("to", "backend", "file"),
    [
        ("onnx", "onnxruntime", "model.onnx"),
        ("onnx", "python", "model.onnx"),
        ("tensorrt", "tensorrt", "model.plan"),
        ("openvino", "openvino", "model.xml"),
    ],
)
def test_each_backend_gets_its_file_and_configuration(
    to: str, backend: str, file: str, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = replace(folder.read(artefact), to=to, target={"device": "cuda", "library": "TensorRT 10.1"})
    monkeypatch.setattr(folder, "read", lambda path: manifest)
    wanted = repository.Deployment(backend, max_batch=4, max_delay_s=0.002, queue=32, instances=2)
    repository.deploy(artefact, tmp_path / "models", wanted)
    version = tmp_path / "models" / "tiny_dico" / "1"
    assert (version / file).read_bytes() == (artefact / "model.onnx").read_bytes()
    assert {path.name for path in version.iterdir()} == {file, *(["model.py"] if backend == "python" else [])}
    text = (version.parent / "config.pbtxt").read_text()
    for line in (
        f'backend: "{backend}"',
        "max_batch_size: 4",
        "dims: [ 4, -1, -1 ]",
        "dims: [ 1 ] reshape { shape: [ ] }",
        "max_queue_delay_microseconds: 2000",
        "max_queue_size: 32",
        "count: 2 kind: KIND_GPU",
        "batch_size: 4",
        "dims: [ 4, 8, 8 ] random_data: true",
        "version_policy { latest { num_versions: 1 } }",
    ):
        assert line in text
    assert "tritonserver --model-repository ." in (tmp_path / "models" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "wanted", "message"),
    [
        ({}, {"backend": "tensorrt"}, "--backend tensorrt does not run onnx: onnxruntime, python can"),
        (
            {"to": "tensorrt", "target": {"device": "cuda", "library": "TensorRT-RTX 1.7"}},
            {},
            "no engines of TensorRT-RTX",
        ),
        ({"batch": (4, 4)}, {}, r"takes at least 4 images.* export with --batch 1\.\.4"),
        (
            {"model": "sana_600m", "signature": find("sana_600m").signature},
            {"guidance": True},
            "--guidance is not possible for sana_600m: it has no index",
        ),
        (
            {"model": "jit_b_16", "signature": find("jit_b_16").signature},
            {"guidance": True},
            "--guidance is not possible for jit_b_16: it is guided only within an interval",
        ),
        ({}, {"max_batch": 9}, "--max-batch 9 is too large: this artefact takes at most 8 images"),
    ],
)
def test_what_triton_cannot_run_is_refused(
    changes: dict[str, Any],
    wanted: dict[str, Any],
    message: str,
    artefact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = replace(folder.read(artefact), **changes)
    monkeypatch.setattr(folder, "read", lambda path: manifest)
    with pytest.raises(UsageError, match=message):
        repository.deploy(artefact, tmp_path / "models", repository.Deployment(**wanted))
    assert list(tmp_path.iterdir()) == []


HOSTILE = {  # changes of a manifest, and what is said
    "a quotation mark in the model": ({"model": 'a" op_library_filename: "x.so'}, "is not a valid model id"),
    "a line break in the model": ({"model": "a\nbackend: x"}, "is not a valid model id"),
    "no model": ({"model": ""}, "is not a valid model id"),
    "a quotation mark in an input": ({"inputs": ['x" } op_library_filename: "x.so']}, "is not a name that Triton's"),
    "a path as an output": ({"outputs": ["../out"]}, "is not a name that Triton's configuration can hold"),
    "an escape in the entry": ({"entry": "model\x1b.onnx"}, "is not a listed file that Triton can run"),
    "an entry that is not listed": ({"files": {}}, "'model.onnx' is not a listed file that Triton can run"),
    "a program as entry": ({"entry": "numpy.py"}, "'numpy.py' is not a listed file that Triton can run"),
    "a hidden entry": ({"entry": ".onnx"}, "is not a listed file that Triton can run"),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_names_that_would_become_configuration_are_refused(
    what: str, backend: str, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, message = HOSTILE[what]
    manifest = folder.read(artefact)
    given: dict[str, Any] = {"files": {**manifest.files, **{changes.get("entry", "a"): {}, "numpy.py": {}}}} | changes
    for way in ("inputs", "outputs"):
        if way in given:
            first, *rest = getattr(manifest, way)
            given[way] = (replace(first, name=given[way][0]), *rest)
    manifest = replace(manifest, **given)
    monkeypatch.setattr(folder, "read", lambda path: manifest)
    monkeypatch.setattr(folder, "changed_files", lambda *_: [])
    with pytest.raises(UsageError, match=message) as caught:
        repository.deploy(artefact, tmp_path / "models", repository.Deployment(backend))
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_only_the_model_and_its_weights_are_copied(backend: str, artefact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artefact, copy)
    for name in ("numpy.py", "model.py", "model.so", "model.onnx.data", "libmodel.onnx"):
        (copy / name).write_text("import os")
    folder.write(copy, folder.read(copy))  # now all of them are listed, with their hashes
    for name in ("unlisted.py", "model.bin"):
        (copy / name).write_text("import os")
    repository.deploy(copy, tmp_path / "models", repository.Deployment(backend))
    version = tmp_path / "models" / "tiny_dico" / "1"
    programs = {"model.py"} if backend == "python" else set()
    assert {path.name for path in version.iterdir()} == {"model.onnx", "model.onnx.data"} | programs
    if programs:
        assert (version / "model.py").read_text() == Path(step.__file__).read_text()


def test_deploying_imports_nothing_of_the_model(
    artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artefact, copy)
    content = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**content, "model": "payload:net"}))
    (tmp_path / "payload.py").write_text("raise AssertionError('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    wanted = repository.Deployment("python", guidance=True)
    assert repository.deploy(copy, tmp_path / "models", wanted) == ["payload_net", "payload_net_guided"]
    assert (
        'key: "null_class" value { string_value: "10" }'
        in (tmp_path / "models" / "payload_net_guided" / "config.pbtxt").read_text()
    )


def test_on_the_command_line(
    artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(options: str = "") -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(f"deploy {artefact} --to triton-server --out {tmp_path / 'models'} {options}".split())
        out, err = capsys.readouterr()
        assert out == ""
        return ended.value.code, err

    code, err = run("--guidance --threads 2")
    assert code == 0 and "tiny_dico, tiny_dico_guided; start it with: tritonserver --model-repository" in err
    text = (tmp_path / "models" / "tiny_dico" / "config.pbtxt").read_text()
    assert 'parameters { key: "intra_op_thread_count" value { string_value: "2" } }' in text
    code, err = run()
    assert code == 2 and "or --force to replace it" in err

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "copied", full)
    code, err = run("--force")
    assert code == 2 and "the disk is full" in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    assert (tmp_path / "models" / "tiny_dico_guided").is_dir()  # the old one is whole
