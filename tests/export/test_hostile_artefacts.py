"""Artefacts that somebody else wrote: no manifest imports code, opens a file or a hub, or ends in a traceback."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import exported
import pytest
import torch
from hostile import ESCAPES, ROOT, SURROGATE, deep

from convbench import catalogue
from convbench.catalogue import external
from convbench.cli import main
from convbench.errors import UsageError
from convbench.export import folder, manifest, runtimes, shapes, trust, verify
from convbench.serving import listen
from convbench.serving.triton import repository
from convbench.weights import locate

Shown = tuple[int, str, str]
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def artefact(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right one of a tiny network, to be tampered with."""
    path = tmp_path / "artefact"
    shutil.copytree(exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx"), path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path / "cache"))


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> Shown:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out, shown.err


def last_line(shown: Shown) -> str:
    """The line that says why, behind those of progress. Fails for a traceback or for what a terminal would obey."""
    _, out, err = shown
    assert "Traceback" not in err and out == ""
    assert (err + out).isascii() or all(character.isprintable() for character in (err + out).replace("\n", ""))
    assert "\x1b" not in err
    return err.splitlines()[-1]


def rewrite(path: Path, change: Change) -> None:
    file = path / "manifest.json"
    content = json.loads(file.read_text("utf-8"))
    result = change(content)
    file.write_text(json.dumps(content if result is None else result), "utf-8")


# ---- 1: a manifest runs code ----

PAYLOAD = """
from pathlib import Path
Path({canary!r}).mkdir()
def net(res):
    Path({canary!r}).mkdir(exist_ok=True)
net.inputs = {{}}
"""
IDS = [
    *("payload:net", "posix:_exit", "os:abort", ".payload:net", "payload:", ":net", "payload", "timm:resnet18"),
    *("diffusers:config.json", "diffusers:/etc/passwd", "payload:net@kernel=3", "dico_s@payload:net", "theirs_net"),
    *("dico_s@kernel=7:payload", "convbench.models:create", "PAYLOAD:net", "dico_s@width=1000000", "a" * 400),
]


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("command", ["verify", "serve", "deploy"])
def test_a_manifest_names_no_code(
    id: str,
    command: str,
    artefact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever its model is called, nothing is imported: not from the working folder, not by an entry point."""
    canary = tmp_path / "canary"
    here = tmp_path / "here"
    here.mkdir()
    (here / "payload.py").write_text(PAYLOAD.format(canary=str(canary)))
    (here / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    info = here / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[convbench.models]\ntheirs_net = payload:net\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    external.variant_of.cache_clear()
    before = set(sys.modules)

    rewrite(artefact, lambda content: content.update(model=id))
    asked = {"verify": [], "serve": ["--port", "0"], "deploy": ["--to", "triton-server", "--out", tmp_path / "out"]}
    if command == "verify":
        shown = called(capsys, command, artefact)
        assert shown[0] == 2 and last_line(shown)
    else:  # these need nothing of the model, so they may go on; that the server starts is not wanted here
        monkeypatch.setattr("convbench.serving.listen._listening", stop)
        shown = called(capsys, command, artefact, *asked[command])
        assert "Traceback" not in shown[2]
    assert not canary.exists()
    assert {
        name for name in set(sys.modules) - before if "payload" in name or name.startswith(("timm", "diff"))
    } == set()


def stop(*_: object) -> Any:
    raise UsageError("stopped by the test")


def test_verify_runs_a_model_from_outside_only_where_the_command_line_repeats_it(
    artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = called(capsys, "verify", artefact)
    assert shown[0] == 2
    assert last_line(shown) == (
        f"convbench: {artefact} was made from tiny:dico, which is not a model of convbench (unknown model 'tiny:dico': "
        "did you mean dico_s or dico_l or dico_h?); if it is your code and may be run, repeat that name with --model"
    )
    shown = called(capsys, "verify", artefact, "--model", "tiny:dic")
    assert shown[0] == 2 and "is not the model that" in last_line(shown)
    assert called(capsys, "verify", artefact, "--model", "tiny:dico", "--no-trajectory")[0] == 0


def test_an_id_of_a_file_is_looked_up_in_the_zoo_alone() -> None:
    assert catalogue.find_in_zoo("dico_s").id == "dico_s"
    assert catalogue.find_in_zoo("dico_s@kernel=7").ablated
    for id in ("mynet:net", "tiny:dico", "mynet", "mynet:net@kernel=3", "dico_s@kernel=7:net"):
        with pytest.raises(UsageError):
            catalogue.find_in_zoo(id)
    with pytest.raises(
        UsageError, match="the value must have the form"
    ):  # a network of any size, by an id of a few characters
        catalogue.find_in_zoo("dic_xl@width=100000000")


# ---- 2: hashes before anything is opened, and whose machine code ----


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """What runtimes were given to open."""
    files: list[Path] = []

    def watch(file: Path, *_: Any, **__: Any) -> Any:
        files.append(file)
        raise RuntimeError("opened")

    for runtime in ("onnxruntime.session", "openvino.session", "aoti.step", "tensorrt.opened"):
        monkeypatch.setattr(f"convbench.export.{runtime}", watch)
    yield files


def as_native(path: Path, content: bytes = b"machine code") -> None:
    """Make of an ONNX artefact one of AOTInductor with that content, as its manifest says it."""
    from convbench.export import aoti

    (path / "model.onnx").unlink()
    (path / "layers.json").unlink()
    (path / "model.pt2").write_bytes(content)
    found = replace(
        manifest.parsed({k: v for k, v in json.loads((path / "manifest.json").read_text()).items() if k != "schema"}),
        to="aoti",
        entry="model.pt2",
        target=aoti.target("cpu"),
    )
    folder.write(path, found)


def test_a_file_with_another_hash_is_never_opened(artefact: Path, opened: list[Path]) -> None:
    (artefact / "model.onnx").write_bytes(b"x" * 100)
    found = verify.check(artefact, exported.network("dico"), exported.sizes("dico"))
    assert (found["status"], found["reason"]) == ("failed", f"model.onnx {folder.CHANGED}")
    with pytest.raises(UsageError, match=r"is damaged: model\.onnx is not the file"), runtimes.opened(artefact):
        pass
    assert opened == []


@pytest.mark.parametrize("command", ["verify", "serve"])
def test_machine_code_of_somebody_else_is_not_opened(
    command: str, artefact: Path, opened: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    as_native(artefact)
    asked = ["--model", "tiny:dico"] if command == "verify" else ["--port", "0"]
    shown = called(capsys, command, artefact, *asked)
    assert shown[0] == 2 and opened == []
    assert "is machine code, and this user did not build it on this machine" in last_line(shown)


def test_machine_code_is_opened_where_it_was_built_here_or_is_trusted(artefact: Path, opened: list[Path]) -> None:
    as_native(artefact)
    read = folder.read(artefact)
    network, sizes = exported.network("dico"), exported.sizes("dico")
    assert verify.check(artefact, network, sizes, trust_native=True)["reason"] == (
        "it does not run: aoti cannot open model.pt2: opened"
    )
    assert len(opened) == 1
    with pytest.raises(UsageError, match="--trust-native"):
        verify.check(artefact, network, sizes)
    trust.add(read)
    assert trust.built_here(read)
    verify.check(artefact, network, sizes)
    assert len(opened) == 2
    (artefact / "model.pt2").write_bytes(b"other code!!")  # not the one that was built, though its manifest says so
    assert verify.check(artefact, network, sizes)["reason"] == f"model.pt2 {folder.CHANGED}"
    assert len(opened) == 2


def test_the_record_of_what_was_built_counts_only_where_it_is_ones_own(artefact: Path, tmp_path: Path) -> None:
    as_native(artefact)
    read = folder.read(artefact)
    trust.add(read)
    assert (trust.record().stat().st_mode & 0o777, trust.built_here(read)) == (0o600, True)
    line = trust.record().read_bytes()
    assert len(line.split()) == 2 and line.startswith(read.files["model.pt2"]["sha256"].encode())
    trust.record().chmod(0o666)  # anybody could have added it
    assert not trust.built_here(read)
    trust.record().chmod(0o600)
    trust.record().write_bytes(line.replace(trust.machine().encode(), b"0" * 32))  # another machine
    assert not trust.built_here(read)
    trust.record().unlink()
    (tmp_path / "theirs").write_bytes(line)
    trust.record().symlink_to(tmp_path / "theirs")
    assert not trust.built_here(read)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        trust.add(read)


def test_what_is_opened_is_what_was_hashed(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is exchanged between its hash and its opening, by whoever can write into the folder."""
    real = runtimes.onnxruntime.session
    seen: list[bytes] = []

    def exchanged(file: Path, *rest: Any, **more: Any) -> Any:
        (artefact / "model.onnx").write_bytes(b"exchanged")
        assert file.parent != artefact and file.parent.stat().st_mode & 0o777 == 0o700
        assert sorted(entry.name for entry in file.parent.iterdir()) == ["layers.json", "model.onnx"]
        seen.append(file.read_bytes()[:9])
        return real(file, *rest, **more)

    monkeypatch.setattr(runtimes.onnxruntime, "session", exchanged)
    (artefact / "unlisted.py").write_text("raise SystemExit")
    with runtimes.opened(artefact, 1) as step:
        assert step(*exported.sizes("dico").example()).shape == (2, 8, 8, 8)
    assert seen and seen[0] != b"exchanged"


@pytest.mark.parametrize("exchange", ["content", "link", "fifo"])
def test_what_is_deployed_is_what_was_hashed(
    exchange: str, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is exchanged between its check and its copy."""
    check, file = folder.changed_files, artefact / "model.onnx"
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")

    def exchanged(*given: Any) -> list[str]:
        found = check(*given)
        file.unlink()
        {"content": lambda: file.write_bytes(b"other"), "fifo": lambda: os.mkfifo(file)}.get(
            exchange, lambda: file.symlink_to(secret)
        )()
        return found

    monkeypatch.setattr(folder, "changed_files", exchanged)
    with pytest.raises(UsageError, match=r"is damaged: model\.onnx (is not the file|cannot be read)"):
        repository.deploy(artefact, tmp_path / "out", repository.Deployment())
    assert {entry.name for entry in tmp_path.iterdir()} <= {"artefact", "secret", "cache"}


@pytest.mark.parametrize("kind", ["symlink", "outward symlink", "fifo", "folder", "device"])
def test_a_listed_file_that_is_no_file_is_not_followed(kind: str, artefact: Path, tmp_path: Path) -> None:
    file = artefact / "model.onnx"
    aside = tmp_path / "aside"
    file.rename(aside)
    {
        "symlink": lambda: (shutil.move(aside, artefact / "real.onnx"), file.symlink_to("real.onnx")),
        "outward symlink": lambda: file.symlink_to(aside),
        "fifo": lambda: os.mkfifo(file),
        "folder": file.mkdir,
        "device": lambda: file.symlink_to("/dev/zero"),
    }[kind]()
    found = verify.check(artefact, exported.network("dico"), exported.sizes("dico"))
    assert found["status"] == "failed" and found["checks"] == []
    assert found["reason"] == "model.onnx cannot be read: it is not an ordinary file"


@pytest.mark.parametrize("kind", ["fifo", "symlink", "folder", "device"])
def test_a_manifest_that_is_no_file_is_one_line(kind: str, artefact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = artefact / "manifest.json"
    content = file.read_bytes()
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        target = Path("/dev/zero") if kind == "device" else artefact / "real.json"
        if kind == "symlink":
            target.write_bytes(content)
        file.symlink_to(target)
    shown = called(capsys, "verify", artefact)
    assert shown[0] == 2 and last_line(shown).endswith("manifest.json: it is not an ordinary file")


VERIFICATIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "fifo": (os.mkfifo, "it is not an ordinary file"),
    "device": (lambda file: file.symlink_to("/dev/zero"), "it is not an ordinary file"),
    "folder": (Path.mkdir, "it is not an ordinary file"),
    "link to nothing": (lambda file: file.symlink_to("nothing"), "No such file or directory"),
    "large": (lambda file: file.write_bytes(b" " * (2**20 + 1)), "it has over 1048576 bytes"),
    "deep": (lambda file: file.write_text(deep()), "it is nested too deep"),
    "no text": (lambda file: file.write_bytes(b"\xff\xfe{"), "is not JSON"),
    "another kind": (lambda file: file.write_text("[1]"), "failed its verification and is not served"),
    "another status": (lambda file: file.write_text('{"status": ["passed"]}'), "failed its verification"),
    "failed": (lambda file: file.write_text('{"status": "failed"}'), "failed its verification and is not served"),
}


@pytest.mark.parametrize("kind", VERIFICATIONS)
def test_what_an_artefact_says_of_its_verification_is_read_within_limits(kind: str, artefact: Path) -> None:
    """It is not among the files that are hashed. A pipe of that name used to stop the server before it had begun."""
    make, message = VERIFICATIONS[kind]
    make(artefact / "verification.json")
    with pytest.raises(UsageError) as caught, listen.opened(artefact, listen.ServerSettings(threads=1)):
        pass
    assert message in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("status", ["passed", "unchecked", None])
def test_an_artefact_that_did_not_fail_is_served(status: str | None, artefact: Path) -> None:
    (artefact / "verification.json").unlink(missing_ok=True)
    if status:
        (artefact / "verification.json").write_text(json.dumps({"status": status}))
    with listen.opened(artefact, listen.ServerSettings(threads=1)) as (what, _):
        assert what.name == "tiny_dico"


def test_no_room_for_the_copy_is_one_line(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(UsageError, match="has room for 10: set TMPDIR"), runtimes.opened(artefact):
        pass


# ---- 9: every field ----

WRONG: list[Any] = [None, True, -1, 0, 2**70, 1.5, "", "x" * 5000, SURROGATE, ESCAPES, [], [[]], {}, {"a": {"b": 1}}]
FIELDS = [*manifest.Manifest.__dataclass_fields__, "schema"]
NULLABLE = {("details", "{}"), ("details", "{'a': {'b': 1}}"), ("command", "''"), ("versions", "{}"), ("build_s", "0")}
FINE = {*NULLABLE, ("build_s", "1.5"), ("command", repr("x" * 5000)), ("command", repr(ESCAPES)), ("dimensions", "{}")}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:20])
def test_every_field_of_another_kind_is_one_line(
    field: str, wrong: Any, artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(artefact, lambda content: content.update({field: wrong}))
    shown = called(capsys, "verify", artefact)
    assert shown[0] == 2 and last_line(shown).startswith("convbench: ")
    if (field, repr(wrong)) not in FINE and field not in ("model", "created_utc"):
        with pytest.raises(UsageError, match=r"manifest|older convbench|newer convbench"):
            folder.read(artefact)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_that_is_missing_is_one_line(
    field: str, artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(artefact, lambda content: content.pop(field) and None)
    shown = called(capsys, "verify", artefact)
    assert shown[0] == 2 and last_line(shown)


def at(*path: Any, to: Any) -> Change:
    """A change of one value deep inside."""

    def change(content: dict[str, Any]) -> None:
        inside: Any = content
        for step in path[:-1]:
            inside = inside[step]
        inside[path[-1]] = to

    return change


FACTS = {"sha256": "0" * 64, "bytes": 1}
TAMPERINGS: dict[str, Change] = {
    "nothing but a list": lambda content: [content],
    "a number": lambda content: 5,
    "unknown key": at("extra", to=1),
    "schema true": at("schema", to=True),
    "res of a huge network": at("res", to=2**40),
    "res that the model has not": at("res", to=63),
    "to another target": at("to", to="openvino"),
    "to code": at("to", to="python"),
    "precision fp64": at("precision", to="fp64"),
    "batch of three": at("batch", to=[1, 2, 3]),
    "batch backwards": at("batch", to=[8, 1]),
    "batch of texts": at("batch", to=["1", "8"]),
    "batch true": at("batch", 0, to=True),
    "huge batch": at("batch", 1, to=2**40),
    "batch and dimensions": at("dimensions", "batch", to=[1, 9]),
    "dimension of one": at("dimensions", "batch", to=[1]),
    "dimension of nothing": at("dimensions", "h4", to=None),
    "dimension negative": at("dimensions", "h4", to=[-4, 4]),
    "dimension huge": at("dimensions", "h4", to=[2, 2**62]),
    "dimension beyond memory": at("dimensions", "h4", to=[2, 2**19]),
    "dimension named by an attacker": at("dimensions", 'h4" }', to=[1, 2]),
    "many dimensions": lambda content: content["dimensions"].update({f"d{i}": [1, 2] for i in range(1000)}),
    "no inputs": at("inputs", to=[]),
    "input twice": lambda content: content["inputs"].append(content["inputs"][0]),
    "input renamed": at("inputs", 0, "name", to="z"),
    "inputs swapped": lambda content: content["inputs"].reverse(),
    "input of float64": at("inputs", 0, "dtype", to="float64"),
    "input of objects": at("inputs", 0, "dtype", to="object"),
    "input without a shape": at("inputs", 0, "shape", to=[]),
    "input of seven axes": at("inputs", 0, "shape", to=[1] * 7),
    "extent that is nothing": at("inputs", 0, "shape", 1, to=None),
    "extent that is a float": at("inputs", 0, "shape", 1, to=4.0),
    "extent NaN": at("inputs", 0, "shape", 1, to=float("nan")),
    "extent 0": at("inputs", 0, "shape", 1, to=0),
    "extent -4": at("inputs", 0, "shape", 1, to=-4),
    "extent huge": at("inputs", 0, "shape", 1, to=2**62),
    "extent of another name": at("inputs", 0, "shape", 2, to="4*z"),
    "extent of code": at("inputs", 0, "shape", 2, to="__import__('os')*h4"),
    "extent of a huge multiple": at("inputs", 0, "shape", 2, to="9" * 5000 + "*h4"),
    "extent of another multiple": at("inputs", 0, "shape", 2, to="2*h4"),
    "channels by name": at("inputs", 0, "shape", 1, to="h4"),
    "other channels": at("inputs", 0, "shape", 1, to=5),
    "port with more": at("inputs", 0, "extra", to=1),
    "port that is a text": at("inputs", 0, to="x"),
    "no output": at("outputs", to=[]),
    "two outputs": lambda content: content["outputs"].append(content["outputs"][0]),
    "output of another size": at("outputs", 0, "shape", 2, to=8),
    "signature of another model": at("signature", "classes", to=1000),
    "signature without channels": at("signature", "channels", to=0),
    "signature with a caption": at("signature", "caption", to=[77, 768]),
    "signature of one number": at("signature", "caption", to=[77]),
    "signature that ends nowhere": at("signature", "t_end", to=float("inf")),
    "signature that takes code": at("signature", "takes", to=["x", "eval"]),
    "entry outside": at("entry", to="../../etc/passwd"),
    "entry absolute": at("entry", to="/etc/passwd"),
    "entry that is not listed": at("entry", to="other.onnx"),
    "entry in capitals": at("entry", to="MODEL.ONNX"),
    "entry that is the manifest": at("entry", to="manifest.json"),
    "entry with a null": at("entry", to="model.onnx\0.py"),
    "entry that is dots": at("entry", to=".."),
    "entry in full width": at("entry", to="model．onnx"),
    "no files": at("files", to={}),
    "a file outside": at("files", "../x", to=FACTS),
    "an absolute file": at("files", "/etc/passwd", to=FACTS),
    "a file in a folder": at("files", "a/b", to=FACTS),
    "a file of Windows": at("files", "..\\x", to=FACTS),
    "a file twice but for case": at("files", "Model.onnx", to=FACTS),
    "a file without a name": at("files", "", to=FACTS),
    "a file with a quotation mark": at("files", 'x"y', to=FACTS),
    "a file with a line break": at("files", "x\ny", to=FACTS),
    "many files": lambda content: content["files"].update({f"f{i}": FACTS for i in range(1000)}),
    "a file without a hash": at("files", "model.onnx", to={"bytes": 1}),
    "a hash that is short": at("files", "model.onnx", "sha256", to="0" * 63),
    "a hash that is none": at("files", "model.onnx", "sha256", to=None),
    "a hash in capitals": lambda c: at("files", "model.onnx", "sha256", to=c["files"]["model.onnx"]["sha256"].upper())(
        c
    ),
    "another hash": at("files", "model.onnx", "sha256", to="0" * 64),
    "negative bytes": at("files", "model.onnx", "bytes", to=-1),
    "other bytes": at("files", "model.onnx", "bytes", to=1),
    "huge bytes": at("files", "model.onnx", "bytes", to=2**62),
    "facts with more": at("files", "model.onnx", "mode", to=0o777),
    "weights without a hash": at("weights", to={"source": "random, seed 0"}),
    "weights with more": at("weights", "code", to="x"),
    "weights of another hash": at("weights", "sha256", to="0" * 64),
    "target without a device": at("target", to={}),
    "target of another device": at("target", "device", to="tpu"),
    "target that is a list": at("target", to=["cpu"]),
    "versions of numbers": at("versions", "torch", to=2.13),
    "build_s NaN": at("build_s", to=float("nan")),
    "build_s infinite": at("build_s", to=float("inf")),
    "build_s negative": at("build_s", to=-1),
    "details too deep": at("details", "x", to=json.loads("[" * 50 + "]" * 50)),
    "details of a surrogate": at("details", SURROGATE, to=1),
    "model with a line break": at("model", to="dico_s\nconvbench: all is well"),
    "model with escapes": at("model", to=ESCAPES),
    "model that is a surrogate": at("model", to=SURROGATE),
}


NEED_THE_MODEL = ("weights of another hash", "signature of another model")


@pytest.mark.parametrize("name", TAMPERINGS)
@pytest.mark.parametrize("command", ["verify", "serve", "deploy"])
def test_a_tampered_manifest_is_one_line(
    name: str, command: str, artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(artefact, TAMPERINGS[name])
    asked = {
        "verify": ["--model", "tiny:dico"],
        "serve": ["--port", "-1"],  # a usage error at the latest: no server is wanted
        "deploy": ["--to", "triton-server", "--out", tmp_path / "out"],
    }
    shown = called(capsys, command, artefact, *asked[command])
    if command == "deploy" and name in NEED_THE_MODEL:
        return  # which need the network to be told, and deploying imports nothing of it
    assert shown[0] == (1 if command == "verify" and name in ("another hash", "other bytes") else 2), shown
    if shown[0] == 2:
        assert last_line(shown).startswith("convbench: ") and not (tmp_path / "out").exists()


def test_the_list_of_tamperings_is_long_enough() -> None:
    assert len(TAMPERINGS) >= 54


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (deep().encode(), "nested too deep"),
        (b'{"schema": 2, "details": ' + b'{"a":' * 100_000, "nested too deep"),
        (b"\xff\xfe\xfd", "cannot read"),
        (b'{"schema": ' + b"9" * 10_000 + b"}", "cannot read"),
        (b"\0" * 10, "cannot read"),
        (b" " * (2**20 + 1), "is not a manifest of convbench"),
        (b'{"schema": 2, "schema": 1}', "older convbench"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_manifest_that_is_no_json_is_one_line(
    content: bytes, words: str, artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (artefact / "manifest.json").write_bytes(content)
    shown = called(capsys, "verify", artefact)
    assert shown[0] == 2 and words in last_line(shown)


def test_a_network_that_its_files_cannot_hold_is_not_built(artefact: Path) -> None:
    """DiC-H has a thousand million parameters, this artefact has some hundred kilobytes."""
    read = folder.read(artefact)
    variant = catalogue.find("dic_h")
    sizes = shapes.of_variant(variant, 256, (1, 8), dynamic=True)
    inputs, outputs = replace(sizes, out_channels=8).ports()
    facts = {"model": "dic_h", "res": 256, "dimensions": sizes.dimensions, "inputs": inputs, "outputs": outputs}
    with pytest.raises(UsageError, match=r"bytes, which cannot hold the 10\d+ numbers of dic_h at 256 pixels"):
        verify.require_plausible(artefact, replace(read, **facts), variant)


# ---- a runtime refuses the file ----


def seal_again(path: Path) -> None:
    """Let the manifest list the files as they are now."""
    folder.write(path, folder.read(path))


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"not a model", b"\x08\x09" + b"\xff" * 64], ids=["empty", "zeros", "text", "cut"]
)
@pytest.mark.parametrize("command", ["verify", "serve"])
def test_an_onnx_file_that_its_runtime_refuses_is_one_line(
    content: bytes, command: str, artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (artefact / "model.onnx").write_bytes(content)
    seal_again(artefact)
    asked = ["--model", "tiny:dico"] if command == "verify" else ["--port", "0"]
    shown = called(capsys, command, artefact, *asked)
    assert shown[0] == (1 if command == "verify" else 2)
    assert "onnx cannot open model.onnx" in last_line(shown)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "link", "unlisted", "x/../../secret"])
def test_weights_beside_an_onnx_file_lie_beside_it(
    place: str, artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """External data may be named anywhere; only a listed file of the folder is ever read."""
    import onnx

    model = onnx.load(str(artefact / "model.onnx"))
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    for file in (tmp_path / "secret", artefact / "unlisted"):
        file.write_bytes(tensor.raw_data)
    length = str(len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (artefact / "model.onnx").write_bytes(model.SerializeToString())
    unlisted = (artefact / "unlisted").rename(tmp_path / "kept")
    seal_again(artefact)
    unlisted.rename(artefact / "unlisted")
    (artefact / "link").symlink_to(tmp_path / "secret")
    shown = called(capsys, "verify", artefact, "--model", "tiny:dico")
    assert shown[0] == 1 and "onnx cannot open model.onnx" in last_line(shown)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "offset", "operator", "weights elsewhere", "no weights"])
def test_an_openvino_file_that_its_runtime_refuses_is_one_line(
    damage: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "artefact"
    shutil.copytree(exported.artefact(tmp_path_factory.getbasetemp(), "dico", "openvino"), path)
    text = (path / "model.xml").read_text()
    if damage == "weights elsewhere":
        (path / "model.bin").rename(tmp_path / "model.bin")
        (path / "model.bin").symlink_to(tmp_path / "model.bin")
    elif damage == "no weights":
        (path / "model.bin").unlink()
        seal_again(path)
    else:
        changed = {
            "cut": text[: len(text) // 2],
            "empty": "",
            "offset": text.replace('offset="0"', f'offset="{10**12}"', 1),
            "operator": text.replace('type="Convolution"', 'type="Evil"', 1),
        }[damage]
        (path / "model.xml").write_text(changed)
        seal_again(path)
    shown = called(capsys, "verify", path, "--model", "tiny:dico")
    assert shown[0] == 1
    assert last_line(shown).startswith("failed: ")


def test_layers_of_another_kind_do_not_end_a_verification(artefact: Path) -> None:
    """They are read where something differs, to say where."""
    for content in ("[1]", '{"layer": 5}', '[{"layer": 5}]', "[{}]", deep(), "["):
        (artefact / "layers.json").write_text(content)
        seal_again(artefact)
        other = exported.network("dico")
        torch.nn.init.normal_(other.get_parameter("final_layer.out_proj.bias"))
        found = verify.check(artefact, other, exported.sizes("dico"), takes_trajectory=False)
        assert found["status"] == "failed" and found["layer"]["layer"] is None
        assert found["layer"]["text"].startswith("which layer differs first cannot be told: ")


# ---- 13: a manifest names no file and no hub ----


@pytest.mark.parametrize("source", ["hf:owner/repo/w.pt", "official", "/etc/passwd", "weights.pt", "~/w.pt", ESCAPES])
def test_the_source_of_weights_is_never_followed(
    source: str,
    artefact: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(locate, "locate", lambda weights, *_: asked.append(weights))
    rewrite(artefact, at("weights", "source", to=source))
    shown = called(capsys, "verify", artefact, "--model", "tiny:dico")
    assert shown[0] == 2 and asked == []
    assert "an artefact cannot choose files to open or download" in last_line(shown)


def test_every_subprocess_leaves_the_working_folder_alone(tmp_path: Path) -> None:
    """`python -m` looks for modules where it is called: the probe of TensorRT must not."""
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from convbench.export import tensorrt; print(tensorrt._probe('no_such_module'))"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'no_such_module'" in done.stdout and not (tmp_path / "canary").exists()
