"""The folder of an artefact: whole or not at all, whatever happens, and what its manifest refuses."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convbench.catalogue import Signature
from convbench.errors import UsageError
from convbench.export import folder
from convbench.export.folder import Manifest, Port, making

MANIFEST = Manifest(
    model="dico_s",
    res=256,
    to="onnx",
    precision="fp32",
    batch=(1, 64),
    dimensions={"batch": (1, 64), "h4": (4, 16), "w4": (4, 16)},
    inputs=(
        Port("x", "float32", ("batch", 4, "4*h4", "4*w4")),
        Port("t", "float32", ("batch",)),
        Port("y", "float32", ("batch", 77, 768)),
    ),
    outputs=(Port("out", "float32", ("batch", 8, "4*h4", "4*w4")),),
    signature=Signature(classes=10, caption=(77, 768), t_end=1.0, takes=("x", "y")),
    entry="model.onnx",
    weights={"source": "random, seed 0", "sha256": "0" * 64},
    versions={"torch": "2.13.0"},
    target={"device": "cpu"},
    command="convbench export",
    created_utc="2026-11-21T00:00:00+00:00",
    build_s=1.5,
)
KILLED = """
import sys, time
from pathlib import Path
from convbench.export.folder import making
with making(Path(sys.argv[1]), force=True) as partial:
    (partial / "model.onnx").write_bytes(b"x" * 2**20)
    print("writing", flush=True)
    time.sleep(3600)
"""
FULL = """
import resource, signal, sys
from pathlib import Path
from convbench.export.folder import making
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with making(Path(sys.argv[1])) as partial:
    (partial / "model.onnx").write_bytes(b"x" * 2**20)
"""


def artefact(path: Path) -> Path:
    with making(path) as partial:
        (partial / "model.onnx").write_bytes(b"weights")
        folder.write(partial, MANIFEST)
    return path


def run(program: str, path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = artefact(tmp_path / "a")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    read = folder.read(path)
    assert read.files == {"model.onnx": {"sha256": folder.sha256(path / "model.onnx"), "bytes": 7}}
    assert read.dynamic and folder.changed_files(path, read) == []
    assert read == folder.Manifest(**{**MANIFEST.__dict__, "files": read.files})


def test_a_changed_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = artefact(tmp_path / "a")
    manifest = folder.read(path)
    (path / "model.onnx").write_bytes(b"Weights")
    assert folder.changed_files(path, manifest) == ["model.onnx is not the file that was made: its SHA-256 differs"]
    (path / "model.onnx").unlink()
    assert folder.changed_files(path, manifest) == ["model.onnx is missing"]


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    path = artefact(tmp_path / "a")
    with pytest.raises(UsageError, match=r"a exists: choose another --out, or --force"), making(path):
        pass
    with making(path, force=True) as partial:
        (partial / "new").touch()
        assert (path / "model.onnx").exists()  # the old one is there until the new one is finished
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with (
        pytest.raises(UsageError, match=r"thesis exists and is not an artefact"),
        making(tmp_path / "thesis", force=True),
    ):
        pass


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), making(tmp_path / "a") as partial:
        (partial / "model.onnx").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [False, True])
def test_kill_9_leaves_what_was_there_and_the_next_one_tidies_up(tmp_path: Path, before: bool) -> None:
    path = tmp_path / "a"
    if before:
        artefact(path)
    with run(KILLED, path) as process:
        assert process.stdout and process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert path.exists() == before
    assert not before or folder.changed_files(path, folder.read(path)) == []
    (leftover,) = [entry for entry in tmp_path.iterdir() if entry != path]
    assert leftover.name == f".a.partial-{process.pid}"
    with making(path, force=True) as partial:
        (partial / "new").touch()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_killed_between_the_two_renames_the_old_one_comes_back(tmp_path: Path) -> None:
    with run("import sys", tmp_path) as process:
        process.wait()
    artefact(tmp_path / "a").rename(tmp_path / f".a.partial-{process.pid}-old")
    with pytest.raises(ZeroDivisionError), making(tmp_path / "a") as partial:
        raise ZeroDivisionError(partial)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with run(FULL, tmp_path / "a") as process:
        _, err = process.communicate()
    assert "UsageError: cannot write" in err and "the disk is full" in err and "nothing was left behind" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed: No space left on device")]
)
def test_a_full_disk_is_recognised_in_the_words_of_other_libraries(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(UsageError, match="the disk is full"), making(tmp_path / "a"):
        raise error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot read"),
        ("[]", "is not a manifest"),
        ('{"schema": 99}', "newer convbench: upgrade"),
        ('{"schema": 2, "model": "x"}', "is not a manifest"),
        ('{"schema": 1, "model": "x"}', "older convbench: export it again"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        folder.read(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 0},
        {"classes": True},
        {"classes": 2**31},
        {"factor": 8.0},
        {"null_class": 1},
        {"caption": [77]},
        {"caption": {"1": 2, "3": 4}},
        {"t_end": 0},
        {"t_end": float("nan")},
        {"predicts": None},
        {"takes": "xty"},
        {"takes": ["x", "z"]},
        {"takes": [["x"]]},
        {"more": 1},
    ],
)
def test_a_signature_of_wrong_kinds_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    path = artefact(tmp_path / "a")
    content = json.loads((path / "manifest.json").read_text())
    for wrong in (content["signature"] | changes, list(changes), None):
        (path / "manifest.json").write_text(json.dumps({**content, "signature": wrong}))
        with pytest.raises(UsageError, match="is not a manifest of convbench"):
            folder.read(path)


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    path = artefact(tmp_path / "a")
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**content, "entry": "../../etc/passwd"}))
    with pytest.raises(UsageError, match="outside its folder"):
        folder.read(path)


def test_a_folder_without_manifest_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"it has no manifest\.json; `convbench export` makes one"):
        folder.read(tmp_path)


def test_no_folder_to_write_into_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"the folder {tmp_path / 'no'} does not exist"):
        folder.require_free(tmp_path / "no" / "a")
    assert os.listdir(tmp_path) == []
