"""The tests mirror the package: a folder of tests for a folder of code, helpers in support/, GPU tests in gpu/."""

import ast
import shlex
import tomllib
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "convbench"
OWN = {"data", "gpu", "support"}
WHOLE = {
    "docs",
    "docstrings",
    "functions",
    "fuzz",
    "gpu_script",
    "hostile_files",
    "imports",
    "limits",
    "mirror",
    "packaging",
}
"""Root tests of all of the project; every other one is named after a root module, or begins with its name."""
FILES = sorted(path.relative_to(TESTS) for path in TESTS.rglob("*.py"))


def test_every_folder_of_tests_is_a_folder_of_the_package() -> None:
    folders = {path.parent for path in FILES if path.parts[0] not in OWN and len(path.parts) > 1}
    assert folders and [str(folder) for folder in sorted(folders) if not (PACKAGE / folder).is_dir()] == []
    assert all(len(path.parts) == 2 for path in FILES if path.parts[0] in OWN)


def test_every_folder_of_the_package_has_tests() -> None:
    """But schema: its rows are tested where they are stored and upgraded."""
    code = {path.parent.name for path in PACKAGE.glob("*/*.py")} - {"schema"}
    assert len(code) > 10 and sorted(name for name in code if not list((TESTS / name).glob("test_*.py"))) == []


def test_a_test_at_the_root_is_of_a_root_module() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    names = {path.stem.removeprefix("test_") for path in FILES if len(path.parts) == 1} - {"conftest"}
    assert {name for name in names - WHOLE if name.partition("_")[0] not in modules} == set()
    assert names >= WHOLE


def test_helpers_are_in_support_alone() -> None:
    outside = [path for path in FILES if path.parts[0] != "support" and not path.name.startswith("test_")]
    assert outside == [Path("conftest.py")]
    assert [path.name for path in FILES if path.parts[0] == "support" and path.name.startswith("test_")] == []


def test_gpu_tests_are_in_their_folder_alone() -> None:
    mark = "mark." + "gpu"
    assert [str(path) for path in FILES if mark in (TESTS / path).read_text("utf-8")] == ["conftest.py"]


def test_the_files_that_make_mutants_names_exist() -> None:
    root = TESTS.parent
    modules = tomllib.loads((root / "scripts" / "mutants.toml").read_text("utf-8"))["modules"]
    judges = {each for tests in modules.values() for each in shlex.split(tests) if each.startswith("tests/")}
    assert len(modules) > 10 and [each for each in {*modules, *judges} if not (root / each).is_file()] == []


def test_the_faults_that_are_put_in_by_hand_can_be() -> None:
    root = TESTS.parent
    faults = tomllib.loads((root / "scripts" / "mutants_by_hand.toml").read_text("utf-8"))["fault"]
    assert len(faults) > 40 and len({fault["says"] for fault in faults}) == len(faults)
    for fault in faults:
        source = (root / fault["file"]).read_text("utf-8")
        assert source.count(fault["old"]) == 1, fault["says"]
        ast.parse(source.replace(fault["old"], fault["new"]))
        judges = [each for each in shlex.split(fault["tests"]) if each.startswith("tests/")]
        assert judges and all((root / each).is_file() for each in judges), fault["says"]
