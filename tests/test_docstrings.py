"""Docstrings of the whole package: how they open, and that functions of tensors state shapes."""

import ast
import re
from collections.abc import Iterator

import pytest
from import_graph import modules

OPENINGS = frozenset(
    (
        *("what", "which", "who", "whose", "whether", "how", "where", "when", "why"),
        *("of", "from", "for", "in", "on", "by", "with", "without", "as", "if"),
    )
)
"""First words of a docstring that is neither a verb with its object nor a noun phrase."""

TENSOR = re.compile(r"\b(Tensor|Inputs)\b")
MAPPING = re.compile(r"\b(dict|Mapping)\b")  # a state dict: its shapes are those of the checkpoint

SIDE = r"[\w …^*/+.-]+"
SHAPE = re.compile(rf"\(({SIDE}, ?)+({SIDE})?\)|\({SIDE},\)")
"""Sides in parentheses, such as (B, C, H, W), (B,) or (B, C or 2C, H / 2, ...)."""

LETTERS = re.compile(r"\b[A-Z]{1,5}\b.* -> \(?[A-Z]")
"""Sides by their letters alone, as layers have them: BCHW, BC -> BCHW. The head of the module explains the letters."""

REFERRED = re.compile(r"[Ss]hapes as in ``(\w+)``")
"""Shapes that another function of the module states."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(
    node: Documented, name: str, owner: ast.ClassDef | None = None
) -> Iterator[tuple[str, Documented, ast.ClassDef | None]]:
    """Yield a module, its classes, functions and methods by name, each with its class; not functions in functions."""
    yield name, node, owner
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for each in node.body:
        if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from definitions(each, f"{name}.{each.name}", node if isinstance(node, ast.ClassDef) else None)


def wrong_openings(name: str, source: str) -> list[str]:
    """Return the definitions whose docstring opens with a word of ``OPENINGS``."""
    found = ((name, ast.get_docstring(node) or "") for name, node, _ in definitions(ast.parse(source), name))
    return [f"{name}: {text.splitlines()[0]}" for name, text in found if _first_word(text) in OPENINGS]


def _first_word(text: str) -> str:
    match = re.match(r"[a-z]+\b", text.lower())
    return match[0] if match else ""


def without_shapes(name: str, source: str) -> list[str]:
    """Return the public functions with a tensor argument or result whose docstring, or class's, states no shape."""
    found = list(definitions(ast.parse(source), name))
    stated = {name.rpartition(".")[2] for name, node, _ in found if _states_shape(node)}
    return [
        name
        for name, node, owner in found
        if isinstance(node, ast.FunctionDef) and _is_public(name) and _takes_tensors(node)
        if not any(_states_shape(each) or _refers_to(each, stated) for each in (node, owner) if each)
    ]


def _is_public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


def _takes_tensors(node: ast.FunctionDef) -> bool:
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    types = [ast.unparse(each) for each in (*(each.annotation for each in arguments), node.returns) if each]
    return any(TENSOR.search(each) and not MAPPING.search(each) for each in types)


def _refers_to(node: Documented, stated: set[str]) -> bool:
    match = REFERRED.search(ast.get_docstring(node) or "")
    return bool(match and match[1] in stated)


def _states_shape(node: Documented) -> bool:
    text = ast.get_docstring(node) or ""
    return bool(SHAPE.search(text) or (isinstance(node, ast.ClassDef) and LETTERS.search(text)))


@pytest.mark.parametrize("module", sorted(modules()))
def test_docstrings_open_with_a_verb_or_a_noun(module: str) -> None:
    assert wrong_openings(module, modules()[module].read_text("utf-8")) == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_functions_of_tensors_state_shapes(module: str) -> None:
    assert without_shapes(module, modules()[module].read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""What a module holds."""', ["m: What a module holds."]),
        ('class C:\n    def f(self):\n        """Of one case."""', ["m.C.f: Of one case."]),
        ('"""Official weights, and where they are."""\ndef f():\n    """Return where it is."""', []),
        ('""" "cuda" if torch sees a GPU, else "cpu"."""\ndef f(): pass', []),
    ],
)
def test_a_wrong_opening_is_found(source: str, expected: list[str]) -> None:
    assert wrong_openings("m", source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('def f(x: Tensor):\n    """Halve x."""', ["m.f"]),
        ("def f() -> list[Tensor]: pass", ["m.f"]),
        ('def f(x: Tensor):\n    """Halve x: BCHW -> BCHW."""', ["m.f"]),
        ('def f(x: Tensor):\n    """Halve x (B, C, H, W), see eq. 3 (Ho et al.)."""', []),
        ('def f() -> Tensor:\n    """Return the noise. -> (B,)"""', []),
        ("def _f(x: Tensor): pass", []),
        ("def f():\n    def inner(x: Tensor): pass", []),
        ("def f(state: dict[str, Tensor]): pass", []),
        ('class C:\n    """A layer. BCHW, BC -> BCHW."""\n    def forward(self, x: Tensor): pass', []),
        ('class C:\n    """A layer."""\n    def forward(self, x: Tensor): pass', ["m.C.forward"]),
        ("class _C:\n    def forward(self, x: Tensor): pass", []),
        ('def f(x: Tensor):\n    """Halve x (B, C)."""\ndef g(x: Tensor):\n    """Shapes as in ``f``."""', []),
        ('def f(x: int): pass\ndef g(x: Tensor):\n    """Shapes as in ``f``."""', ["m.g"]),
    ],
)
def test_a_missing_shape_is_found(source: str, expected: list[str]) -> None:
    assert without_shapes("m", source) == expected
