"""The compile gate: what each shipped configuration takes, against the budget stored for it in ``budgets.toml``."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import write_whole
from .compiler import compile_for, folder_of
from .targets import SHARED_BYTES

# What the gate compiles: Triton version -> target -> precisions. The oldest supported one for the H200 alone, whose
# environment has it; the newest seen for every target.
GATE: Mapping[str, Mapping[str, Sequence[str]]] = {
    "3.6.0": {"sm_90": ("bf16",)},
    "3.9.0": {"sm_80": ("bf16",), "sm_90": ("bf16", "fp16", "fp32"), "sm_100": ("bf16",)},
}
TRITONS = tuple(GATE)
FIRST_ONLY = ("fp16", "fp32")  # of these the first configuration of each operation
MORE_IS_WORSE = ("registers", "stack", "spills", "shared")
LESS_IS_WORSE = ("loads_128", "mma")
STACK_ALLOWED = 16  # bytes; ptxas moves a value or two to the stack now and then without being short of registers
STORED = Path(__file__).with_name("budgets.toml")
HEAD = """\
# Resources of each shipped configuration, compiled ahead of time by the oldest and the newest Triton.
# Written by scripts/kernel_budgets.py; tests/kernels/test_aot.py compares every line with the compiler's answer.
# stack and shared in bytes, registers of a thread, the rest counts of instructions.
"""

Row = dict[str, Any]
Budgets = Mapping[str, Row]
"""Key of a configuration -> its budget."""


def budget_key(row: Row) -> str:
    """Name one shipped configuration in one precision on one GPU target, as ``budgets.toml`` does."""
    return " ".join(row[key] for key in ("kernel", "configuration", "precision", "target"))


def gate_rows(triton: str) -> Iterator[Row]:
    """Compile all that the gate covers with one version of Triton. Raises UsageError where it is not installed."""
    folder = folder_of(triton)
    for target, precisions in GATE[triton].items():
        yield from compile_for(target, precisions, folder, FIRST_ONLY)


def read_budgets(path: Path = STORED) -> dict[str, dict[str, Row]]:
    """Triton version -> key of a configuration -> its budget."""
    return tomllib.loads(path.read_text("utf-8")) if path.exists() else {}


def write_budgets(rows: Sequence[Row], path: Path = STORED) -> None:
    """Store compiled rows as the budgets."""
    lines = [HEAD.rstrip("\n")]
    for triton in sorted({row["triton"] for row in rows}):
        lines += ["", f'["{triton}"]']
        for row in rows:
            if row["triton"] == triton:
                values = ", ".join(f"{key} = {row[key]}" for key in (*MORE_IS_WORSE, *LESS_IS_WORSE))
                lines.append(f'"{budget_key(row)}" = {{ {values} }}')
    write_whole(path, ("\n".join(lines) + "\n").encode())


def violations(rows: Sequence[Row], budgets: Budgets) -> list[str]:
    """Describe each difference between compiled rows of one Triton version and their budgets, one line each."""
    found = []
    for row in rows:
        name = budget_key(row)
        if row["error"]:
            found.append(f"{name} does not compile: {row['error']}")
            continue
        available = SHARED_BYTES[row["target"]]
        if row["shared"] > available:
            found.append(f"{name} cannot be launched: needs {row['shared']} bytes of shared memory of {available}")
        budget = budgets.get(name)
        if budget is None:
            found.append(f"{name} has no budget")
            continue
        for key, sign in [*((key, 1) for key in MORE_IS_WORSE), *((key, -1) for key in LESS_IS_WORSE)]:
            worse = sign * (row[key] - budget[key])
            if worse > 0:
                found.append(f"{name}: {key} {row[key]}, worse than the budget of {budget[key]}")
            elif worse < 0:
                found.append(f"{name}: {key} {row[key]}, better than the budget of {budget[key]}: the budget is stale")
    compiled = {budget_key(row) for row in rows}
    found += [f"{name} has a budget and is not shipped: stale" for name in budgets if name not in compiled]
    return found


def budgeted(kernel: str, precision: str, target: str, triton: str) -> Row:
    """The most registers and stack that any configuration of a kernel takes by the stored budgets; {} if unknown."""
    rows = [
        row
        for name, row in read_budgets().get(triton, {}).items()
        if name.startswith(f"{kernel} ") and name.endswith(f" {precision} {target}")
    ]
    return {key: max(row[key] for row in rows) for key in ("registers", "stack")} if rows else {}


def spilling(budgets: Budgets) -> list[str]:
    """Keys of budgets that allow spilling: more than ``STACK_ALLOWED`` bytes of stack."""
    return [name for name, row in budgets.items() if row["stack"] > STACK_ALLOWED]
