"""The imports of convbench, read from its source with ``ast``: lazy ones and those for types alone included.

A room is a folder of the package, or a module at its root. ``python tests/support/import_graph.py`` prints the rooms,
the arrows between them, the circles and the figures that the tests hold.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINKED = ("kernels", "export", "reports")  # real folders at the top, links inside the package

FOLDERS = (
    "cli",
    "reports",
    "papers",
    "run",
    "measure",
    "serving",
    "backends",
    "export",
    "sampling",
    "kernels",
    "checks",
    "timing",
    "models",
    "weights",
    "catalogue",
)
ROOT_MODULES = (
    "doctor",
    "counting",
    "environment",
    "store",
    "packages",
    "files",
    "tolerances",
    "precision",
    "schema",
    "errors",
)
ORDER = (*FOLDERS, *ROOT_MODULES)
"""From top to bottom: a room imports only rooms that come later."""


@dataclass(frozen=True)
class Import:
    """One imported name: ``module`` is a module of ours, or the name as written where it is not."""

    importer: str
    module: str
    name: str | None  # of the module's attribute; None for the module itself
    line: int
    for_types: bool  # under ``if TYPE_CHECKING:``


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name; a package under its own name, without ``__init__``."""
    files = [(path.relative_to(ROOT), path) for path in (ROOT / "convbench").rglob("*.py") if not _through_link(path)]
    files += [("convbench" / path.relative_to(ROOT), path) for top in LINKED for path in (ROOT / top).rglob("*.py")]
    return {".".join(where.with_suffix("").parts).removesuffix(".__init__"): path for where, path in files}


def _through_link(path: Path) -> bool:
    return path.relative_to(ROOT).parts[1] in LINKED


def imports(importer: str, source: str, is_package: bool, known: Iterable[str]) -> Iterator[Import]:
    """Everything that ``source`` imports, wherever in it the import stands."""
    known = set(known)
    tree = ast.parse(source)
    for_types = {id(node) for block in ast.walk(tree) for node in _typing_only(block)}
    package = importer.split(".") if is_package else importer.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, None, node.lineno, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                module, name = (whole, None) if whole in known else (origin, alias.name)
                yield Import(importer, module, name, node.lineno, id(node) in for_types)


def _typing_only(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for statement in node.body:
            yield from ast.walk(statement)


@cache
def all_imports() -> list[Import]:
    """The imports of every module of the package."""
    found = []
    for module, path in sorted(modules().items()):
        found += imports(module, path.read_text("utf-8"), path.name == "__init__.py", modules())
    return found


def room(module: str) -> str | None:
    """The folder or root module that a module belongs to; None outside convbench and for the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "convbench" and len(parts) > 1 and parts[1] != "__main__" else None


def upward(found: Iterable[Import]) -> list[str]:
    """Imports against the order, as "importer -> imported"."""
    wrong = []
    for each in found:
        above, below = room(each.importer), room(each.module)
        if above is None or below is None or above == below:
            continue
        if below not in ORDER or above not in ORDER or ORDER.index(below) <= ORDER.index(above):
            wrong.append(f"{each.importer} -> {each.module}")
    return wrong


def arrows(found: Iterable[Import], of_rooms: bool) -> dict[str, set[str]]:
    """What each room imports, or each module where ``of_rooms`` is False; without itself."""
    graph: dict[str, set[str]] = defaultdict(set)
    for each in found:
        if not each.module.startswith("convbench."):
            continue
        start, end = (room(each.importer), room(each.module)) if of_rooms else (each.importer, each.module)
        if start and end and start != end:
            graph[start].add(end)
    return dict(graph)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, by Tarjan's algorithm, largest first."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found, key=lambda group: (-len(group), group))


def private_uses(found: Iterable[Import], sources: Mapping[str, str]) -> list[str]:
    """Underscore names of one module that another uses: imported by name, or reached through the module."""
    wrong = [
        f"{each.importer} -> {each.module}.{each.name}"
        for each in found
        if each.name and each.name.startswith("_") and not each.name.startswith("__") and _is_ours(each.module)
    ]
    for importer, source in sources.items():
        bound = _bound_modules(importer, source)
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in bound
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
            ):
                wrong.append(f"{importer} -> {bound[node.value.id]}.{node.attr}")
    return sorted(wrong)


def _is_ours(module: str) -> bool:
    return module == "convbench" or module.startswith("convbench.")


def _bound_modules(importer: str, source: str) -> dict[str, str]:
    """Names that stand for modules of ours in a source."""
    path = modules().get(importer)
    is_package = path is not None and path.name == "__init__.py"
    package = importer.split(".") if is_package else importer.split(".")[:-1]
    bound = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            bound |= {a.asname or a.name: f"{origin}.{a.name}" for a in node.names if f"{origin}.{a.name}" in modules()}
        elif isinstance(node, ast.Import):
            bound |= {a.asname: a.name for a in node.names if a.asname and a.name in modules()}
    return bound


def main() -> None:
    """Print rooms, arrows and circles, and the figures of the source."""
    found = all_imports()
    graph = arrows(found, of_rooms=True)
    sources = {module: path.read_text("utf-8") for module, path in modules().items()}
    print(f"{len(ORDER)} rooms, {sum(map(len, graph.values()))} arrows, {len(upward(found))} up")
    for name in ORDER:
        print(f"  {name}: {', '.join(sorted(graph.get(name, ()), key=ORDER.index)) or '-'}")
    print("circles between rooms:", circles(graph) or "none")
    print("circles between modules:", circles(arrows(found, of_rooms=False)) or "none")
    for line in sorted(set(upward(found))):
        print("  up:", line)
    lines = sorted(((source.count("\n"), module) for module, source in sources.items()), reverse=True)
    print("longest files:", ", ".join(f"{module} {count}" for count, module in lines[:5]))
    functions = sorted(
        (
            (node.end_lineno or 0) - node.lineno + 1,
            f"{module}.{node.name}",
        )
        for module, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    print("longest functions:", ", ".join(f"{name} {count}" for count, name in functions[:-6:-1]))
    print("median lines of a file:", lines[len(lines) // 2][0])
    private = private_uses(found, sources)
    print(f"underscore names used across modules: {len(private)}", *private, sep="\n  ")
    untyped = sum(source.count("dict[str, Any]") for source in sources.values())
    print(f"dict[str, Any]: {untyped}")


if __name__ == "__main__":
    main()
