"""The wheel holds the package, whole, and nothing else; every pin has a hash; known vulnerabilities are found."""

import json
import runpy
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from email.parser import HeaderParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("kernels", "export", "reports")
CONTENT = ("convbench", *LINKED)
REQUIRED = {"convbench/cli/__init__.py", "convbench/models/dic.toml", "convbench/reports/__init__.py"}
FOR_READERS = {".md", ".jsonl"}  # documentation and committed results stay in the checkout
RESULTS = Path("results")


def source_files() -> list[Path]:
    """Tracked files and new ones that git does not ignore, relative to the root; every file where git cannot say."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CONTENT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for top in CONTENT for path in (ROOT / top).rglob("*") if "__pycache__" not in path.parts]
    return sorted(path.relative_to(ROOT) for path in paths if path.is_file() and not path.is_symlink())


def place_in_wheel(path: Path) -> str:
    return (path if path.parts[0] == "convbench" else "convbench" / path).as_posix()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built in a copy that holds only source files, so that no older build can leak into it."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in source_files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy / path)
    for name in LINKED:
        shutil.copy(ROOT / "convbench" / name, copy / "convbench" / name, follow_symlinks=False)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_links_point_beside_the_package() -> None:
    assert {name: (ROOT / "convbench" / name).readlink().as_posix() for name in LINKED} == {
        name: f"../{name}" for name in LINKED
    }


def test_wheel_holds_exactly_the_source_files(wheel: zipfile.ZipFile) -> None:
    """A file of a new kind that is missing here belongs into [tool.setuptools.package-data] of pyproject.toml."""
    expected = {
        place_in_wheel(path)
        for path in source_files()
        if path.suffix not in FOR_READERS and not path.is_relative_to(RESULTS)
    }
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert sorted(found) == sorted(expected)
    assert REQUIRED | {"convbench/py.typed"} <= found
    assert {name.partition("/")[0] for name in found} == {"convbench"}  # no top-level kernels, export, reports, tests


def test_wheel_declares_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    scripts = ConfigParser()
    scripts.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    metadata = HeaderParser().parsestr(wheel.read(f"{info}/METADATA").decode())

    assert dict(scripts["console_scripts"]) == {"convbench": "convbench.cli:main"}
    assert (metadata["Name"], metadata["License-Expression"]) == ("convbench", "Apache-2.0")
    assert metadata["Requires-Python"] == ">=3.11"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


# ---- hashes ----


def test_every_pin_has_the_hash_of_its_file() -> None:
    """After a change of constraints.txt: run `make lock` and commit what it writes."""
    lock = runpy.run_path(str(ROOT / "scripts" / "lock.py"))
    assert list(lock["problems"]()) == []
    assert len(lock["locked"]()) > 100


def test_pins_without_their_hashes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = runpy.run_path(str(ROOT / "scripts" / "lock.py"))["problems"].__globals__
    monkeypatch.setitem(names, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setitem(names, "LOCK", tmp_path / "requirements.lock")
    (tmp_path / "constraints.txt").write_text("# pins\nPyYAML==6.0.3\ntorch==2.13.0\nzope.event==6.2\n")
    digest = "0" * 64
    (tmp_path / "requirements.lock").write_text(
        f"pyyaml==6.0.4 \\\n    --hash=sha256:{digest}\ntorch==2.13.0+cpu \\\n    --hash=sha256:{digest}\nmore==1\n"
    )
    assert list(names["problems"]()) == [
        "more: constraints.txt has None, requirements.lock 1",
        "pyyaml: constraints.txt has 6.0.3, requirements.lock 6.0.4",
        "zope-event: constraints.txt has 6.2, requirements.lock None",
        "more==1: no SHA-256",
    ]


def test_a_changed_file_is_not_installed(tmp_path: Path) -> None:
    """As `make setup LOCKED=1` calls pip."""
    subprocess.run([sys.executable, "-m", "zipfile", "-c", tmp_path / "a-1-py3-none-any.whl", __file__], check=True)
    (tmp_path / "lock").write_text(f"a==1 --hash=sha256:{'0' * 64}\n")
    options = ["--no-index", "--find-links", tmp_path, "--target", tmp_path / "to", "-r", tmp_path / "lock"]
    command = [sys.executable, "-m", "pip", "install", "--require-hashes", "--no-deps", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "DO NOT MATCH THE HASHES" in done.stderr
    assert "--require-hashes --no-deps --only-binary :all: -r requirements.lock" in (ROOT / "Makefile").read_text()


# ---- known vulnerabilities ----

PROBE = "GHSA-j8r2-6x86-q33r"


@contextmanager
def osv(known: dict[str, list[dict[str, Any]]], body: bytes | None = None) -> Iterator[str]:
    """Address of a service that knows these vulnerabilities by package, or answers everything with ``body``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/v1/querybatch":
                names = [each["package"]["name"] for each in asked["queries"]]
                found: Any = {"results": [{"vulns": known[name]} if name in known else {} for name in names]}
            else:
                found = {"vulns": known[asked["package"]["name"]]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode() if body is None else body)

        def log_message(self, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audited(service: str) -> tuple[int, list[str]]:
    command = [sys.executable, ROOT / "scripts" / "audit.py", "--service", service]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_a_known_vulnerability_of_a_pin_fails_the_audit() -> None:
    """Other than one that was withdrawn."""
    requests = [{"id": PROBE, "summary": "as pinned, too"}]
    numpy = [{"id": "X-1", "summary": "bad\x1b[2J"}, {"id": "X-2", "withdrawn": "2026-01-01T00:00:00Z"}]
    with osv({"requests": requests, "numpy": numpy}) as service:
        code, lines = audited(service)
    assert code == 1
    assert [line.partition(" ")[2].partition(" ")[2] for line in lines[:2]] == [
        "X-1: bad\\x1b[2J",
        f"{PROBE}: as pinned, too",
    ]
    assert lines[2].startswith("2 known vulnerabilities in 1") and len(lines) == 3


def test_an_audit_without_a_finding_says_whom_it_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    names = runpy.run_path(str(ROOT / "scripts" / "audit.py"))["known"].__globals__
    with osv({"requests": [{"id": PROBE}], "numpy": [{"id": "X", "aliases": ["CVE-1"]}]}) as service:
        assert list(names["known"]([("pandas", "3.1.1")], service)) == []
        assert len(list(names["known"]([("numpy", "2.4.6")], service))) == 1
        monkeypatch.setitem(names, "ACCEPTED", {"CVE-1": "not reached from here"})
        assert list(names["known"]([("numpy", "2.4.6")], service)) == []


@pytest.mark.parametrize("body", [None, b"", b"[]", b'{"results": [{}]}', b'{"results": 1}'])
def test_a_service_that_knows_nothing_has_audited_nothing(body: bytes | None) -> None:
    """Such as a mirror of a package index: it would never find anything."""
    with osv({}, body) as service:
        code, lines = audited(service)
    assert code == 0 and len(lines) == 1 and lines[0].startswith("not audited: ")


def test_an_audit_without_a_network_says_so() -> None:
    code, lines = audited("http://127.0.0.1:9")
    assert code == 0 and lines[0].startswith("not audited: Unanswered: http://127.0.0.1:9/v1/querybatch: ")
