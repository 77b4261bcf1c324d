"""Who may import whom, and what a module may be called: read from the source with ``ast``.

A rule about torch is about the time to start, so imports under ``if TYPE_CHECKING:`` are free of it;
a rule about our own modules holds everywhere.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convbench.catalogue import families

ROOT = Path(__file__).parents[1]
LINKED = ("kernels", "export", "reports")  # real folders at the top, links inside the package

FORBIDDEN = {
    "convbench.schema": ("convbench",),
    "convbench.errors": ("convbench",),
    "convbench.catalogue": ("torch",),
    "convbench.run.plan": ("torch",),
    "convbench.reports.columns": ("torch",),
    "convbench.store": ("torch",),
    "convbench.models": ("convbench.kernels",),
    "convbench.reports": ("torch", "convbench.run.runner", "convbench.backends"),
    "convbench": (*LINKED, "convbench.cli"),
}
MAY_IMPORT_CLI = ("convbench.cli", "convbench.__main__")
LIGHT = ("schema", "errors", "catalogue", "run.plan", "reports.columns", "store", "reports", "cli")  # never load torch
VAGUE = {"utils", "helpers", "common", "base"}


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name; a package under its own name, without ``__init__``."""
    files = [(path.relative_to(ROOT), path) for path in (ROOT / "convbench").rglob("*.py") if not _through_link(path)]
    files += [("convbench" / path.relative_to(ROOT), path) for top in LINKED for path in (ROOT / top).rglob("*.py")]
    return {".".join(where.with_suffix("").parts).removesuffix(".__init__"): path for where, path in files}


def _through_link(path: Path) -> bool:
    return path.relative_to(ROOT).parts[1] in LINKED


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imports(source: str, package: str) -> Iterator[tuple[str, bool]]:
    """The absolute name of everything that ``source``, inside ``package``, imports; and whether for its types alone."""
    tree = ast.parse(source)
    for_types = {id(node) for block in ast.walk(tree) for node in _typing_only(block)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        yield from ((name, id(node) in for_types) for name in names)


def _typing_only(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for statement in node.body:
            yield from ast.walk(statement)


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What ``module`` imports against the rules, as ``"importer -> imported"``."""
    package = module if is_package else module.rpartition(".")[0]
    return [
        f"{module} -> {name}"
        for name, for_types in imports(source, package)
        for layer, banned in FORBIDDEN.items()
        for other in banned
        if is_within(module, layer) and is_within(name, other)
        if not (other == "torch" and for_types)
        if not (other == "convbench.cli" and any(is_within(module, allowed) for allowed in MAY_IMPORT_CLI))
    ]


def badly_named(names: list[str]) -> list[str]:
    """Modules called like one of the standard library, or like nothing in particular; not those that bear the name of
    a published family of models."""
    published = {f"convbench.models.{module}" for module in families()}
    return [
        name for name in names if name.rpartition(".")[2] in sys.stdlib_module_names | VAGUE and name not in published
    ]


def test_nobody_imports_against_the_layers() -> None:
    found = [
        violation
        for module, path in sorted(modules().items())
        for violation in violations(module, path.read_text("utf-8"), path.name == "__init__.py")
    ]
    assert found == []


def test_every_layer_with_a_rule_exists() -> None:
    named = {*FORBIDDEN, *(name for banned in FORBIDDEN.values() for name in banned if is_within(name, "convbench"))}
    assert sorted(named - set(modules())) == []


def test_module_names_say_something() -> None:
    assert badly_named(sorted(modules())) == []


def test_light_modules_leave_torch_unloaded() -> None:
    """What the layers forbid directly must not come in through a third module either."""
    program = (
        f"import importlib, json, sys; [importlib.import_module('convbench.' + name) for name in {LIGHT}];"
        "print(json.dumps([name for name in ('torch', 'convbench.run.runner') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("convbench.schema", "from .errors import E", ["convbench.schema -> convbench.errors.E"]),
        ("convbench.schema", "from . import errors", ["convbench.schema -> convbench.errors"]),
        ("convbench.run.plan", "def f():\n    import torch.nn", ["convbench.run.plan -> torch.nn"]),
        ("convbench.store", "from torch import Tensor", ["convbench.store -> torch.Tensor"]),
        ("convbench.models.dic", "from ..kernels.norm import n", ["convbench.models.dic -> convbench.kernels.norm.n"]),
        ("convbench.models.dic", "from .. import kernels", ["convbench.models.dic -> convbench.kernels"]),
        (
            "convbench.reports.page",
            "from ..run.runner import run",
            ["convbench.reports.page -> convbench.run.runner.run"],
        ),
        ("convbench.reports.page", "import convbench.backends", ["convbench.reports.page -> convbench.backends"]),
        ("convbench.run.runner", "from convbench.cli import main", ["convbench.run.runner -> convbench.cli.main"]),
        ("convbench.run.runner", "if 1:\n    from .. import cli", ["convbench.run.runner -> convbench.cli"]),
        ("convbench.run", "import kernels", ["convbench.run -> kernels"]),
        ("convbench.kernels.norm", "from reports.page import p", ["convbench.kernels.norm -> reports.page.p"]),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str, expected: list[str]) -> None:
    assert violations(module, source) == expected


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("convbench.run", "import torch, torchprofile"),
        ("convbench.run.plan", "import torchprofile"),  # not torch, only spelt like it
        ("convbench.run.plan", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor"),
        ("convbench.backends.triton", "from ..kernels import norm"),
        ("convbench.kernels.norm", "from .layout import rows"),
        ("convbench.cli.flops", "from . import options\nfrom ..plan import plan"),
        ("convbench.__main__", "from .cli import main"),
    ],
)
def test_an_allowed_import_is_not(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_a_package_resolves_its_own_dot() -> None:
    source = "from .kernels import norm"
    assert violations("convbench.models", source, is_package=True) == []  # convbench.models.kernels
    assert violations("convbench.models", source) == ["convbench.models -> convbench.kernels.norm"]


def test_a_bad_name_is_found() -> None:
    assert badly_named(["convbench.cli.flops", "convbench.json", "convbench.models.utils"]) == [
        "convbench.json",
        "convbench.models.utils",
    ]
