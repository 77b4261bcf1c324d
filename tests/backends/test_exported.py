"""ONNX Runtime, OpenVINO, AOTInductor and TensorRT as backends of a measurement; the commands export and verify."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import exported
import pytest
import torch
from simulated import QUICK, Simulated

from convbench import backends, cli
from convbench.errors import UsageError
from convbench.export import cache, folder, make, onnxruntime
from convbench.measure.forward import measure
from convbench.schema import Case

CASE = Case("tiny:dico", exported.RES, 2, threads=1)
Built = list[make.Wanted]


@pytest.fixture
def built(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Built:
    """A cache of its own; what is built is taken from the shared artefacts, and noted here."""
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path))
    asked: Built = []

    def build(network: Any, sizes: Any, wanted: make.Wanted, into: Path, *_: Any, **__: Any) -> folder.Manifest:
        asked.append(wanted)
        for file in exported.artefact(tmp_path_factory.getbasetemp(), "dico", wanted.to).iterdir():
            shutil.copy(file, into)
        return folder.read(into)

    monkeypatch.setattr(make, "build", build)
    return asked


@pytest.mark.slow
def test_they_are_proved_timed_and_built_once(built: Built) -> None:
    pytest.importorskip("openvino")
    cases = [replace(CASE, backend=name) for name in ("eager", "onnxruntime", "openvino")]
    for turn in range(2):
        results = measure(cases, QUICK, clock=Simulated())
        assert [(result.status, result.reason) for result in results if result.status != "ok"] == []
        eager, ort, ov = results
        assert eager.build_s is None and eager.compared_with == ov.case
        for result in (ort, ov):
            assert result.build_s and result.build_s > 0
            assert result.prepare_s is not None and result.prepare_s >= 0
            assert result.error_vs_fp32 is not None and 0 < result.error_vs_fp32 < 2e-6
        assert [wanted.to for wanted in built] == ["onnx", "openvino"], f"turn {turn}"


@pytest.mark.slow
def test_a_damaged_cache_is_built_again(built: Built) -> None:
    network = exported.network("dico")
    first = cache.prepared(network, CASE, "onnx", one_batch=False)
    assert cache.prepared(network, CASE, "onnx", one_batch=False).waited_s == 0 < first.waited_s
    (first.path / "model.onnx").write_bytes(b"half of a mod")
    again = cache.prepared(network, CASE, "onnx", one_batch=False)
    assert len(built) == 2 and again.waited_s > 0 and folder.changed_files(again.path, again.manifest) == []


@pytest.mark.slow
def test_other_weights_and_another_precision_are_other_artefacts(built: Built) -> None:
    network = exported.network("dico")
    paths = {cache.prepared(network, CASE, "onnx", one_batch=False).path}
    network.get_parameter("final_layer.out_proj.bias")[0] += 1
    paths.add(cache.prepared(network, CASE, "onnx", one_batch=False).path)
    paths.add(cache.prepared(network, replace(CASE, precision="fp16"), "onnx", one_batch=False).path)
    paths.add(cache.prepared(network, CASE, "onnx", one_batch=True).path)
    assert len(paths) == len(built) == 4
    assert [(wanted.batch, wanted.precision) for wanted in built] == [
        ((1, 64), "fp32"),
        ((1, 64), "fp32"),
        ((1, 64), "fp16"),
        ((2, 2), "fp32"),
    ]


@pytest.mark.parametrize(
    ("backend", "changes", "reason"),
    [
        ("tensorrt", {}, "NVIDIA GPUs only"),
        ("onnxruntime", {"precision": "fp16"}, "computes in fp32 on this device"),
        ("openvino", {"device": "cuda", "threads": None}, "on a processor"),
        ("aoti", {"mode": "train"}, "forward pass only"),
    ],
)
def test_why_a_case_cannot_run_is_said(backend: str, changes: dict[str, Any], reason: str) -> None:
    assert reason in str(backends.find(backend).unsupported(replace(CASE, backend=backend, **changes)))


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert backends.find("openvino").unsupported(replace(CASE, backend="openvino")) == (
        "ONNX files: onnx is not installed: pip install 'convbench[export]'"
    )


def fake_runtime(ran: str) -> Any:
    class Session:
        def __init__(self, *_: Any, providers: list[Any]) -> None:
            self.asked = providers

        def disable_fallback(self) -> None: ...

        def get_providers(self) -> list[str]:
            return [ran]

    options = SimpleNamespace(add_session_config_entry=lambda *_: None, add_free_dimension_override_by_name=None)
    return SimpleNamespace(
        InferenceSession=Session,
        SessionOptions=lambda: options,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )


def test_a_silent_fallback_to_another_provider_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a stream of its own: the address of PyTorch's default stream, 0, means none to the provider."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(cuda_stream=81))
    monkeypatch.setattr(onnxruntime.packages, "require", lambda name: fake_runtime("CPUExecutionProvider"))
    with pytest.raises(UsageError, match="silently fell back to CPUExecutionProvider"):
        onnxruntime.session(tmp_path / "model.onnx", "cuda")
    monkeypatch.setattr(onnxruntime.packages, "require", lambda name: fake_runtime("CUDAExecutionProvider"))
    asked = onnxruntime.session(tmp_path / "model.onnx", "cuda").asked
    assert asked == [("CUDAExecutionProvider", {"user_compute_stream": "81", "use_tf32": "0"})]


class Ordered:
    """A stream that says what it is asked to wait for."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said

    def wait_stream(self, other: "Ordered") -> None:
        self.said.append(f"{self.name} waits for {other.name}")


def test_a_session_on_a_gpu_waits_for_its_inputs_and_pytorch_for_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion of the inputs is queued on PyTorch's stream, and their memory must not be used again meanwhile."""
    said: list[str] = []
    torchs, own = Ordered("torch", said), Ordered("session", said)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: torchs)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: said.append(f"kept for {stream.name}"))
    convert = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda self: (said.append("converted"), convert(self))[1])
    binding = SimpleNamespace(bind_output=lambda *_: None, bind_input=lambda *_: None)
    session = SimpleNamespace(
        stream=own, io_binding=lambda: binding, run_with_iobinding=lambda binding: said.append("runs")
    )
    out = torch.zeros(1, 4, 8, 8)
    step = onnxruntime.bound_step(session, out)
    assert step(torch.zeros(1, 4, 8, 8, dtype=torch.float16), torch.zeros(1), torch.zeros(1, dtype=torch.int64)) is out
    order = ["session waits for torch", "runs", "torch waits for session"]
    assert said == ["converted", "converted", *order, *["kept for session"] * 3]


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def indented_code(readme: str) -> str:
    """The last block of code that computes something."""
    blocks = re.findall(r"(?:^    .*\n)+", readme, re.MULTILINE)
    return next(re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks if "numpy" in block)


@pytest.mark.slow
def test_export_then_verify_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way, for real: exit 0; the README runs; a damaged file is exit 1; nothing is replaced unasked."""
    path = tmp_path / "dico"
    export = f"export --model tiny:dico --res 64 --to onnx --out {path} --batch 1..4 --format json"
    code, out, err = run(export, capsys)
    (row,) = json.loads(out)
    assert (code, row["checked"]) == (0, "passed") and row["relative_l2"] < 2e-6
    assert sorted(file.name for file in path.iterdir()) == [
        "README.md",
        "layers.json",
        "manifest.json",
        "model.onnx",
        "verification.json",
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["dico"]
    code, out, err = run(export, capsys)
    assert code == 2 and err == f"convbench: {path} exists: choose another --out, or --force to replace it\n"

    monkeypatch.chdir(path)
    names: dict[str, Any] = {}
    exec(indented_code((path / "README.md").read_text()), names)
    assert names["out"].shape == (1, 8, 8, 8)

    verify = f"verify {path} --model tiny:dico"  # code from outside convbench, which only the command line may name
    code, out, _ = run(f"{verify} --no-trajectory", capsys)
    assert code == 0 and "passed: " in out
    (path / "model.onnx").write_bytes((path / "model.onnx").read_bytes()[:-1000])
    code, out, err = run(f"{verify} --format json", capsys)
    assert code == 1 and json.loads(out)[0]["status"] == "failed"
    assert "SHA-256 differs" in json.loads((path / "verification.json").read_text())["reason"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("verify nowhere", "nowhere is not an artefact"),
        ("export --model dico_s --to onnx --out {out} --batch 8..2", "must go from at least 1 upwards"),
        ("export --model dico_s --to onnx --out {out} --precision fp8", "fp8 is not built"),
        ("export --model dico_s --to onnx --out {out} --res 100", "--res 100 is invalid for dico_s"),
        ("export --model dit_s_2 --to onnx --out {out} --dynamic", "--dynamic is not possible for dit_s_2"),
        ("export --model dico_z --to onnx --out {out}", "dico_z"),
        ("export --model dico_s --to onnx --out {out}/no/folder", "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(line.format(out=tmp_path / "out"), capsys)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
