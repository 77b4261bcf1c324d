"""Artefacts of ncnn and MNN: proved against PyTorch, with Winograd and without, and made without a network."""

import copy
import subprocess
import sys
from pathlib import Path

import exported
import pytest
import tiny
import torch
from tolerances import RELATIVE_L2
from torch import nn

from convbench import catalogue
from convbench.checks.output import relative_error
from convbench.errors import UsageError
from convbench.export import folder, make, mnn, ncnn, runtimes, shapes, verify
from convbench.export.shapes import Shapes

pytest.importorskip("ncnn")
pytest.importorskip("_tools")  # of MNN, whose own module prints when it is imported
BATCH = (2, 2)


def sizes(family: str) -> Shapes:
    return shapes.of_variant(catalogue.find(f"tiny:{family}"), tiny.RES[family], BATCH)


def made(family: str, to: str, out: Path) -> tuple[nn.Module, Path]:
    network = exported.network(family)
    wanted = make.Wanted(f"tiny:{family}", tiny.RES[family], to, batch=BATCH)
    with folder.making(out) as partial:
        make.build(network, sizes(family), wanted, partial)
    return network, out


@pytest.mark.slow
@pytest.mark.parametrize(("to", "family"), [("ncnn", "dico"), ("mnn", "fcdm")])
def test_an_artefact_is_proved(to: str, family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network, path = made(family, to, tmp_path / to)
    found = verify.check(path, network, sizes(family), takes_trajectory=False)
    assert found["status"] == "passed", found["reason"]
    assert capfd.readouterr().out == ""  # stdout belongs to tables
    manifest = folder.read(path)
    assert (manifest.to, manifest.batch) == (to, BATCH)
    damaged = copy.deepcopy(network)
    next(damaged.parameters()).data += 0.1
    assert verify.check(path, damaged, sizes(family), takes_trajectory=False)["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("to", ["ncnn", "mnn"])
def test_winograd_can_be_switched_off(to: str, tmp_path: Path) -> None:
    """Both are right, and they differ in their last digits: other products were computed."""
    network, path = made("dic", to, tmp_path / to)
    inputs = sizes("dic").inputs(2)
    runtime = {"ncnn": ncnn, "mnn": mnn}[to]
    with torch.no_grad():
        expected = network(*inputs)
    outs = [runtime.step(path / folder.read(path).entry, 1, winograd)(*inputs) for winograd in (True, False)]
    assert all(relative_error(out, expected) <= RELATIVE_L2["fp32"] for out in outs)
    assert not torch.equal(*outs)


@pytest.mark.slow
def test_the_norm_that_mnn_computes_wrongly_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnn, "without_norms", lambda source, target: target.write_bytes(source.read_bytes()))
    network, path = made("fcdm", "mnn", tmp_path / "mnn")
    found = verify.check(path, network, sizes("fcdm"), takes_trajectory=False)
    assert found["status"] == "failed" and max(row["relative_l2"] for row in found["checks"]) > 1e-3


# Stops the process when Python opens a connection or starts a process, whatever the library does.
WATCH = """
import sys
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "subprocess.", "os.system", "os.posix_spawn", "os.exec")
def watch(event, args):
    if event.startswith(FORBIDDEN):
        sys.stderr.write(f"tried {event}\\n"); sys.stderr.flush(); import os; os._exit(9)
sys.addaudithook(watch)
"""


@pytest.mark.slow
def test_mnn_converts_without_a_network_and_installs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnn, "CONVERT", WATCH + mnn.CONVERT.replace("; ", "\n"))
    _, path = made("dic", "mnn", tmp_path / "mnn")
    assert (path / mnn.ENTRY).stat().st_size > 2**16
    own = subprocess.run(
        [sys.executable, "-c", f"{WATCH}\nimport MNN.tools.utils.log"], capture_output=True, text=True, check=False
    )
    assert (own.returncode, own.stderr) == (9, "tried os.system\n")  # what MNN's own command would do


@pytest.mark.parametrize("to", ["ncnn", "mnn"])
def test_a_range_of_batches_is_refused(to: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--to {to} makes a file for one batch and size: give --batch 1"):
        make.export(make.Wanted("tiny:dic", 64, to), tmp_path / "out")


@pytest.mark.slow
def test_operators_that_ncnn_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ncnn has no layer for .*, which this network needs"):
        made("dit", "ncnn", tmp_path / "ncnn")


def test_a_file_of_somebody_else_is_not_opened(tmp_path: Path) -> None:
    """Both runtimes trust what they read; so only what this user made here is opened without being told to."""
    from convbench.export.manifest import NATIVE

    assert {"ncnn", "mnn"} <= set(NATIVE)
    with pytest.raises(UsageError, match="--trust-native"):
        _open_foreign(tmp_path)


def _open_foreign(path: Path) -> None:
    network, takes = exported.network("dic"), sizes("dic")
    inputs, outputs = Shapes(takes.takes, BATCH, takes.side, out_channels=8).ports()
    (path / ncnn.ENTRY).write_text("7767517\n")
    manifest = folder.Manifest(
        *("tiny:dic", tiny.RES["dic"], "ncnn", "fp32", BATCH, {}, inputs, outputs, takes.takes, ncnn.ENTRY),
        weights={"source": "random", "sha256": make.parameters_sha256(network)},
        versions={},
        target={"device": "cpu"},
        command="",
        created_utc="",
        build_s=0.0,
    )
    folder.write(path, manifest)
    with runtimes.opened(path):
        pass
