"""The wheel holds the package, whole, and nothing else: compared with the files of this checkout."""

import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import HeaderParser
from pathlib import Path

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
