"""Broken files, bombs and traps end in one line and exit code 2; what ``--weights`` accepts, and where it is."""

import hashlib
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convbench import cli, models
from convbench.catalogue import find, variants
from convbench.errors import WeightsError
from convbench.weights import container, locate
from convbench.weights.read import read_state_dict

MODEL = "dico_digits"  # the smallest variant
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(models.create(MODEL, res=8).state_dict())


def header(entries: dict[str, Any], content: bytes = b"", length: int | None = None) -> bytes:
    raw = json.dumps(entries).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + content


def tensor(kind: str = "F32", shape: tuple[Any, ...] = (2,), place: tuple[int, int] = (0, 8)) -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(place)}


# ---- what a user sees ----


class Trap:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def trap(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({**state, "args": Trap(path.parent / "canary")}, path)


def bare_trap(path: Path, state: dict[str, torch.Tensor]) -> None:
    path.write_bytes(pickle.dumps(Trap(path.parent / "canary")))


def truncated(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-5000])


def truncated_safetensors(path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-5000])


def huge_header(path: Path, state: dict[str, torch.Tensor]) -> None:
    path.write_bytes(header({"x": tensor(shape=(10**6, 10**6), place=(0, 4 * 10**12))}, bytes(8)))


def whole_numbers(path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file({key: value.to(torch.int32) for key, value in state.items()}, path)


def complex_numbers(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({key: value.to(torch.complex64) for key, value in state.items()}, path)


def not_a_number(path: Path, state: dict[str, torch.Tensor]) -> None:
    broken = {key: value.clone() for key, value in state.items()}
    broken["final_layer.out_proj.bias"][0] = float("nan")
    save_file(broken, path)


def infinite(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({key: value / 0 for key, value in state.items()}, path)


def bomb(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/999", bytes(10**8))


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("w.pt", trap, "contains more than plain tensors and was not opened, as reading it could execute code"),
        ("w.pt", bare_trap, "is not a readable PyTorch checkpoint"),
        ("w.safetensors", bare_trap, "is not a readable safetensors file"),
        ("w.pt", truncated, "is not a readable PyTorch checkpoint"),
        ("w.safetensors", truncated_safetensors, "is not at the position stated in the header"),
        ("w.safetensors", huge_header, "claims 1e+12 elements for x, but contains only 8 bytes"),
        ("w.safetensors", whole_numbers, "is int32 strided cpu, not floating point"),
        ("w.pt", complex_numbers, "is complex64 strided cpu, not floating point"),
        ("w.safetensors", not_a_number, "final_layer.out_proj.bias has NaN or infinite values"),
        ("w.pt", infinite, "has NaN or infinite values"),
        ("w.pt", bomb, "is a compressed archive"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_checkpoint_gives_one_line_and_exit_code_2(
    tmp_path: Path,
    state: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    name: str,
    make: Callable[[Path, dict[str, torch.Tensor]], None],
    reason: str,
) -> None:
    make(tmp_path / name, state)
    with pytest.raises(SystemExit) as ended:
        cli.main(["sample", "--model", MODEL, "--weights", str(tmp_path / name), "--out", str(tmp_path / "a.png")])
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if not line.startswith("weights: ")]  # name and hash of the file
    assert ended.value.code == 2 and shown.out == ""
    assert len(lines) == 1 and lines[0].startswith(f"convbench: {tmp_path}/{name} ") and reason in lines[0]
    assert sorted(os.listdir(tmp_path)) == [name]  # no canary, no picture


# ---- the outside of a file ----


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its header exceeds the file"),
        (header({}, length=2**63), "its header exceeds the file"),
        (header({}, length=10**9), "its header exceeds the file"),
        (header({"x": tensor()})[:-1], "its header exceeds the file"),
        (b"\x02" + bytes(7) + b"{]", "its header is not JSON"),
        ((10**5).to_bytes(8, "little") + b"[" * 10**5, "its header is not JSON"),
        (b"\x02" + bytes(7) + b"[]", "not a table"),
        (header({"x": 5}), "x has no valid type, shape and offsets"),
        (header({"x": tensor("F33")}), "x has no valid type, shape and offsets"),
        (header({"x": tensor(shape=(-1,))}, bytes(8)), "invalid shape"),
        (header({"x": tensor(shape=(1.5,))}, bytes(8)), "invalid shape"),
        (header({"x": tensor(place=(8, 0))}, bytes(8)), "stated in the header"),
        (header({"x": tensor(place=(-8, 0))}, bytes(8)), "stated in the header"),
        (header({"x": tensor(place=(0, 4))}, bytes(8)), "stated in the header"),
        (header({"x": tensor(place=(4, 12))}, bytes(8)), "stated in the header"),
    ],
)
def test_an_invalid_header_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        container.require_sane_header(tmp_path / "w.safetensors")


def test_valid_headers_are_accepted(tmp_path: Path) -> None:
    """Of every type that this version of safetensors writes, scalars and empty tensors among them."""
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    kinds += [torch.float8_e4m3fn, torch.float8_e5m2]
    content = {str(kind): torch.zeros(3, dtype=kind) for kind in kinds}
    content |= {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 5)}
    save_file(content, tmp_path / "w.safetensors", metadata={"trained": "never"})
    container.require_sane_header(tmp_path / "w.safetensors")
    assert read_state_dict(str(tmp_path / "w.safetensors")).keys() == content.keys()


def test_overlapping_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry of the directory points at the same bytes, so that they unpack to many times the file."""
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", bytes(10**5))
        first = archive.infolist()[0]
        archive.filelist.extend([first] * 99)
    with pytest.raises(WeightsError, match=r"claims to contain 10 MB, but has only 10\d kB"):
        read_state_dict(str(path))


def test_impossible_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "w.pt").open("wb") as file:
        file.truncate(200 * 2**30)  # a sparse file
    with pytest.raises(WeightsError, match="has 200 GiB; checkpoints of these models have at most 128"):
        read_state_dict(str(tmp_path / "w.pt"))
    torch.save({"x": torch.zeros(1)}, tmp_path / "small.pt")
    monkeypatch.setattr(container, "MAX_PICKLE_BYTES", 10)
    with pytest.raises(WeightsError, match="bytes to describe its tensors"):
        read_state_dict(str(tmp_path / "small.pt"))


def test_a_deeply_nested_key_is_not_printed(tmp_path: Path) -> None:
    key: Any = ()
    for _ in range(60):  # 2^60 brackets
        key = (key, key)
    path = tmp_path / "w.pt"
    path.write_bytes(b"")
    with zipfile.ZipFile(path, "w") as archive:  # as torch.save lays it out; hashing the key would take for ever too
        archive.writestr("w/data.pkl", pickle.dumps({"epoch": key}, protocol=2))
        archive.writestr("w/byteorder", "little")
        archive.writestr("w/version", "3\n")
    with pytest.raises(WeightsError, match=r"contains no tensors .*\(found: epoch\)"):
        read_state_dict(str(path))


# ---- where weights come from ----


def test_a_path_locates_itself(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    file.write_bytes(b"abc")
    found = locate.locate(str(file), find(MODEL), 8)
    assert found.path == file and found.sha256() == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(WeightsError, match=r"no checkpoint at nowhere\.pt"):
        locate.locate("nowhere.pt", find(MODEL), 8)


def test_shipped_weights_are_listed_in_the_catalogue() -> None:
    found = locate.locate("shipped", find(MODEL), 8)
    assert found.path == find(MODEL).shipped_weights == locate.locate("official", find(MODEL), 8).path
    with pytest.raises(WeightsError, match=r"convbench ships no weights of dico_s: specify a \.pt"):
        locate.locate("shipped", find("dico_s"), 256)


@pytest.mark.parametrize(
    "words", ["hf:", "hf:owner", "hf:owner/repo", "hf:owner/repo/", "hf:a/b/../../c", "hf:a/b/c@", "hf:a/b/c d"]
)
def test_a_malformed_hub_address_is_refused(words: str) -> None:
    with pytest.raises(WeightsError, match="is not of the form hf:owner/repo/file"):
        locate.locate(words, find("dico_s"), 256)


def test_the_hub_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"needs huggingface_hub: pip install 'convbench\[sample\]'"):
        locate.locate("hf:owner/repo/w.pt", find("dico_s"), 256)


COMMIT, CONTENT = "0123456789abcdef0123456789abcdef01234567", b"these are weights" * 1000


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as a download needs: one file of one repository, under main and under its commit."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        known = [f"/owner/repo/resolve/{revision}/sub/w.pt" for revision in ("main", COMMIT)]
        if self.path in known or self.path.partition("?")[0] == "/models/w.pt":
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if body else b"")
            return
        if self.path == "/models/cut.pt":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100])
            return
        self.send_response(404)
        if "/owner/repo/resolve/main/" in self.path:
            self.send_header("X-Error-Code", "EntryNotFound")
        elif "/owner/repo/" in self.path:
            self.send_header("X-Error-Code", "RevisionNotFound")
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


ASK = """
import sys
from convbench.weights import locate
from convbench.errors import WeightsError
for words in sys.argv[1:]:
    try:
        found = locate.from_hub(words)
        print(found.revision, found.sha256(), found.path.name)
    except WeightsError as error:
        print(error)
"""


def test_hub_files_pinned_revisions_and_missing_files(server: str, tmp_path: Path) -> None:
    """In a process of its own, as the library reads its settings once; then again with the hub gone."""
    pytest.importorskip("huggingface_hub", reason="the extra 'sample' is not installed")
    asked = ["hf:owner/repo/sub/w.pt", f"hf:owner/repo/sub/w.pt@{COMMIT}"]
    missing = ["hf:owner/repo/other.pt", "hf:owner/repo/sub/w.pt@nowhere", "hf:other/repo/w.pt", "hf:--/repo/w.pt"]
    clean = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    env = {**clean, "HF_HOME": str(tmp_path), "HF_ENDPOINT": server, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}

    def ask(*words: str, **more: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", ASK, *words], env={**env, **more}, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.splitlines()

    found = ask(*asked, *missing)
    held = f"{COMMIT} {hashlib.sha256(CONTENT).hexdigest()} w.pt"
    assert found[:2] == [held, held]
    assert found[2:5] == [
        "hf:owner/repo/other.pt: owner/repo has no file other.pt",
        "hf:owner/repo/sub/w.pt@nowhere: unknown revision: owner/repo at nowhere",
        "hf:other/repo/w.pt: there is no public repository other/repo",
    ]
    assert found[5].startswith("hf:--/repo/w.pt: ") and len(found) == 6
    offline = ask(asked[1], "hf:owner/repo/new.pt", HF_HUB_OFFLINE="1")
    assert offline == [
        held,
        "hf:owner/repo/new.pt: not on this machine, and the hub cannot be reached (no network, or HF_HUB_OFFLINE is "
        "set)",
    ]


def test_official_addresses_are_complete() -> None:
    listed = 0
    for variant in variants().values():
        for entry in variant.family.facts.get("official", {}).get(variant.id, []):
            assert entry.keys() == {"res", "address", "licence"}
            assert entry["address"].startswith(("https://", "hf:")) and entry["address"].partition("?")[0].endswith(
                (".pt", ".safetensors")
            )
            assert entry["res"] % variant.res_multiple == 0
            listed += 1
    assert listed >= 7
    for family in {variant.family.module: variant.family for variant in variants().values()}.values():
        assert set(family.facts.get("official", {})) <= set(family.facts["variants"])


def test_an_official_file_is_downloaded_once(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dit = find("dit_xl_2")
    address = f"{server}/models/w.pt?rlkey=1&dl=0"
    monkeypatch.setitem(dit.family.facts["official"]["dit_xl_2"][0], "address", address)
    found = locate.locate("official", dit, 256)
    assert found.path == tmp_path / "convbench" / "weights" / "w.pt" and found.path.read_bytes() == CONTENT
    assert str(found) == f"{address}, licence CC-BY-NC"
    monkeypatch.setattr(locate.urllib.request, "urlopen", None)  # not asked again
    assert locate.locate("official", dit, 256) == found
    assert os.listdir(found.path.parent) == ["w.pt"]


@pytest.mark.parametrize(("name", "reason"), [("gone.pt", "answered 404"), ("cut.pt", "download it elsewhere")])
def test_a_failed_download_leaves_no_files(server: str, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        locate.download(f"{server}/models/{name}", tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_download_that_is_too_large_is_refused(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "MAX_BYTES", 100)
    with pytest.raises(WeightsError, match="checkpoints of these models have at most 128"):
        locate.download(f"{server}/models/w.pt", tmp_path)


def test_a_missing_network_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"not on this machine and could not be downloaded: .*; download it else"):
        locate.download("http://127.0.0.1:1/w.pt", tmp_path)


@pytest.mark.parametrize(
    ("model", "res", "reason"),
    [
        ("dit_xl_2", 1024, "only one for 256, 512 px"),
        ("dit_s_2", 256, "only published weights of dit_xl_2"),
        ("dic_xl", 256, "announces weights"),
        ("dico_h", 256, "S, B, L and XL"),
        ("fcdm_xl", 256, "does not link any"),
    ],
)
def test_missing_official_weights_are_refused(model: str, res: int, reason: str) -> None:
    with pytest.raises(WeightsError, match=f"no official weights of {model} at {res} px are known: .*{reason}"):
        locate.locate("official", find(model), res)
