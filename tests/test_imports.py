"""Who may import whom, and what a module may be called: read from the source with ``ast``, lazy imports included."""

import json
import subprocess
import sys

import import_graph
import pytest
from import_graph import FOLDERS, ORDER, ROOT, ROOT_MODULES, modules

from convbench.catalogue import families

LIGHT = ("schema", "errors", "store", "catalogue", "run.plan", "reports.columns", "reports", "cli")
"""Modules that never load torch, so that ``--help``, ``models`` and ``report`` start at once."""

VAGUE = {"utils", "helpers", "common", "base"}


def found(importer: str, source: str, is_package: bool = False) -> list[import_graph.Import]:
    return list(import_graph.imports(importer, source, is_package, modules()))


def test_every_arrow_runs_down() -> None:
    assert import_graph.upward(import_graph.all_imports()) == []


def test_nothing_imports_in_a_circle() -> None:
    everything = import_graph.all_imports()
    assert import_graph.circles(import_graph.arrows(everything, of_rooms=True)) == []
    assert import_graph.circles(import_graph.arrows(everything, of_rooms=False)) == []


def test_no_module_uses_the_underscore_names_of_another() -> None:
    sources = {module: path.read_text("utf-8") for module, path in modules().items()}
    assert import_graph.private_uses(import_graph.all_imports(), sources) == []


def test_the_order_names_every_folder_and_root_module_once() -> None:
    rooms = {import_graph.room(module) for module in modules()} - {None}
    assert sorted(ORDER) == sorted(str(room) for room in rooms)
    assert all((ROOT / "convbench" / folder).is_dir() for folder in FOLDERS)
    assert len(ROOT_MODULES) <= 10


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("convbench.schema", "from .errors import UsageError"),
        ("convbench.models.dic", "from ..catalogue import find"),
        ("convbench.backends.triton", "from ..kernels import schema"),
        ("convbench.cli.flops", "from . import options\nfrom ..run.plan import plan"),
        ("convbench.__main__", "from .cli import main"),
        ("convbench.kernels.check", "from .layout import rows"),
    ],
)
def test_an_arrow_down_is_allowed(importer: str, source: str) -> None:
    assert import_graph.upward(found(importer, source)) == []


@pytest.mark.parametrize(
    ("importer", "source", "expected"),
    [
        ("convbench.errors", "from .schema import Case", "convbench.errors -> convbench.schema"),
        ("convbench.models.dic", "from ..kernels.check import n", "convbench.models.dic -> convbench.kernels.check"),
        ("convbench.models.dic", "from .. import kernels", "convbench.models.dic -> convbench.kernels"),
        ("convbench.models", "def f():\n    from ..run import plan", "convbench.models -> convbench.run.plan"),
        ("convbench.run.plan", "import convbench.cli", "convbench.run.plan -> convbench.cli"),
        ("convbench.store", "if 1:\n    from . import cli", "convbench.store -> convbench.cli"),
        (
            "convbench.store",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .cli import options",
            "convbench.store -> convbench.cli.options",
        ),
    ],
)
def test_an_arrow_up_is_found(importer: str, source: str, expected: str) -> None:
    is_package = importer == "convbench.models"
    assert import_graph.upward(found(importer, source, is_package)) == [expected]


def test_circles_are_found() -> None:
    assert import_graph.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert import_graph.circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    "source",
    ["from ..catalogue.families import _rows", "from ..catalogue import families\n\nfamilies._rows(None)"],
)
def test_a_use_of_an_underscore_name_is_found(source: str) -> None:
    importer = "convbench.models.dic"
    assert import_graph.private_uses(found(importer, source), {importer: source}) == [
        "convbench.models.dic -> convbench.catalogue.families._rows"
    ]


def test_the_linked_folders_are_never_imported_by_their_bare_names() -> None:
    """A published package is called kernels; the bare names work in a checkout only."""
    bare = [
        f"{each.importer} -> {each.module}"
        for each in import_graph.all_imports()
        if each.module.partition(".")[0] in import_graph.LINKED
    ]
    assert bare == []


@pytest.mark.parametrize("room", ["catalogue", "reports", "store", "run.plan", "errors", "schema", "files", "packages"])
def test_light_modules_do_not_import_torch(room: str) -> None:
    """Imports under ``if TYPE_CHECKING:`` are free: they cost no time."""
    wrong = [
        f"{each.importer} -> {each.module}"
        for each in import_graph.all_imports()
        if each.module.partition(".")[0] == "torch" and not each.for_types
        if each.importer == f"convbench.{room}" or each.importer.startswith(f"convbench.{room}.")
    ]
    lazily = {"convbench.catalogue.external -> torch"}  # to wrap a model from outside once it is built
    assert set(wrong) - lazily == set()


def test_light_modules_leave_torch_unloaded() -> None:
    """Torch must not come in through a third module either."""
    program = (
        f"import importlib, json, sys; [importlib.import_module('convbench.' + name) for name in {LIGHT}];"
        "print(json.dumps([name for name in ('torch', 'convbench.run.worker') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def badly_named(names: list[str]) -> list[str]:
    """Modules called like one of the standard library, or like nothing in particular; not those that bear the name of
    a published family of models."""
    published = {f"convbench.models.{module}" for module in families()}
    return [
        name for name in names if name.rpartition(".")[2] in sys.stdlib_module_names | VAGUE and name not in published
    ]


def test_module_names_say_something() -> None:
    assert badly_named(sorted(modules())) == []


def test_a_bad_name_is_found() -> None:
    assert badly_named(["convbench.cli.flops", "convbench.json", "convbench.models.utils"]) == [
        "convbench.json",
        "convbench.models.utils",
    ]


def test_no_two_public_classes_share_a_name() -> None:
    import ast

    homes: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    shared = {name: sorted(where) for name, where in homes.items() if len(where) > 1}
    shared.pop("TritonPythonModel", None)  # the name that Triton's Python backend asks for
    # Layers of model families bear the names that their papers give them.
    assert {name: where for name, where in shared.items() if not all("models" in module for module in where)} == {}
