"""Compile every shipped kernel configuration for GPUs that are not here, and read what it takes of them.

Triton brings its own assembler and disassembler, so neither a GPU nor a driver is needed. The compilations run in
processes of their own: one process has one Triton, and a Triton that interprets kernels cannot compile them. Results
are kept under the user's cache folder by everything they depend on. ``budgets.toml`` holds what the gate expects.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from ..errors import ConvbenchError, UsageError
from .schema import Compilation

TRITONS = "3.6.0", "3.9.0"  # the oldest supported and the newest seen: the gate compiles with both
GATE = {"sm_80": ("bf16",), "sm_90": ("bf16", "fp16", "fp32"), "sm_100": ("bf16",)}
BRIEFLY = ("fp16", "fp32")  # the gate takes one configuration an op of these, by the newest Triton
BUDGETS = Path(__file__).with_name("budgets.toml")
ROOM = {  # bytes of shared memory that one block can have (CUDA C++ Programming Guide, table of compute capabilities)
    80: 163 * 1024,
    86: 99 * 1024,
    87: 163 * 1024,
    89: 99 * 1024,
    90: 227 * 1024,
    100: 227 * 1024,
    103: 227 * 1024,
    120: 99 * 1024,
    121: 99 * 1024,
}
MORE_IS_WORSE = ("registers", "stack", "spills", "shared")
LESS_IS_WORSE = ("loads_128", "mma")
READING = 1  # to be raised when resources() reads something else: what is kept is then not used any more
STACK_ALLOWED = 16  # bytes; ptxas parks a value or two now and then without being short of registers

Row = dict[str, Any]


def targets(names: Sequence[str]) -> list[str]:
    """Check names such as sm_90. Raises UsageError for one that the kernels cannot be compiled for."""
    known = ", ".join(f"sm_{number}" for number in ROOM)
    for name in names:
        if name not in known.split(", "):
            raise UsageError(f"unknown GPU target '{name}': there are {known}")
    return list(names)


def identity(row: Row) -> str:
    """One shipped configuration in one precision on one GPU: the key of ``budgets.toml``."""
    return " ".join(row[key] for key in ("kernel", "configuration", "precision", "target"))


# In the process that compiles


def compile_one(compilation: Compilation, number: int) -> Row:
    """Resources of one configuration on sm_<number>, from the cache or from Triton."""
    import triton
    from triton.compiler import ASTSource

    function = compilation.function
    signature = {}
    for name in function.arg_names:
        if name in compilation.constants:
            signature[name] = "constexpr"
        else:
            signature[name] = (compilation.pointers | compilation.scalars)[name]
    at = function.arg_names.index
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(at(name),): value for name, value in compilation.constants.items()},
        attrs={(at(name),): [["tt.divisibility", 16]] for name in compilation.aligned},
    )
    options = {
        "num_warps": compilation.num_warps,
        "num_stages": compilation.num_stages,
        "enable_fp_fusion": True,  # as at launch; Triton 3.10 turns it off unless told
    }
    key = json.dumps([triton.__version__, number, source.hash(), options, READING])
    kept = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    try:
        return {**json.loads(kept.read_text()), "cached": True}
    except (OSError, ValueError):
        pass  # not compiled yet, or torn

    from triton.backends.compiler import GPUTarget

    start = time.perf_counter()
    compiled = triton.compile(source, target=GPUTarget("cuda", number, 32), options=options)
    row: Row = {"seconds": time.perf_counter() - start, **resources(compiled)}
    _write_whole(kept, json.dumps(row))
    return {**row, "cached": False}


def resources(compiled: Any) -> Row:
    """What the assembler reports of a compiled kernel, and what stands in its machine code."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([tools / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    return read_usage(usage) | read_code(code) | {"shared": int(compiled.metadata.shared)}


def read_usage(text: str) -> Row:
    """Registers of a thread, bytes of stack and of local memory, from ``cuobjdump -res-usage``."""
    found = {key: re.search(rf"\b{word}:(\d+)", text) for key, word in USAGE.items()}
    if missing := [USAGE[key] for key, match in found.items() if match is None]:
        raise ConvbenchError(f"cuobjdump reports no {', '.join(missing)}: {text[:200]}")
    return {key: int(match[1]) for key, match in found.items() if match}


USAGE = {"registers": "REG", "stack": "STACK", "local": "LOCAL"}


def read_code(text: str) -> Row:
    """Counts of instructions from ``nvdisasm -c``: spilled values, loads from memory, 16-byte ones, matrix products."""
    operations = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.MULTILINE)
    loads = [name for name in operations if re.match(r"LDG(STS)?\b|UTMALDG\b|UBLKCP\b", name)]
    return {
        "instructions": len(operations),
        "spills": sum(name.partition(".")[0] in ("STL", "LDL") for name in operations),
        "loads": len(loads),
        "loads_128": sum(bool(re.search(r"\.(128|256)\b|^UTMALDG|^UBLKCP", name)) for name in loads),
        "mma": sum(bool(re.match(r"HMMA|HGMMA|UTC\w*MMA|DMMA", name)) for name in operations),
    }


def cache_folder() -> Path:
    """Where results are kept: $XDG_CACHE_HOME/convbench/aot, or under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convbench" / "aot"


def _write_whole(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_text(text)
        os.replace(part, path)
    except OSError as error:  # a cache that cannot be written costs time, nothing else
        print(f"convbench: {path} was not kept: {error.strerror}", file=sys.stderr)


def _serve(request: Row) -> None:
    """Compile what is asked for; one JSON line a configuration on stdout."""
    import triton

    from . import all_kernels

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder  # Triton's own would keep every intermediate form
        for kernel in all_kernels():
            if request.get("kernels") and kernel.name not in request["kernels"]:
                continue
            for precision in request["precisions"]:
                for compilation in kernel.compilations(precision)[: 1 if precision in request["briefly"] else None]:
                    row = {"kernel": kernel.name, "configuration": compilation.label, "precision": precision}
                    row |= {"target": request["target"], "triton": triton.__version__, "error": None}
                    try:
                        row |= compile_one(compilation, int(request["target"].removeprefix("sm_")))
                    except Exception as error:  # of any stage of the compiler; the row says which kernel and what
                        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
                    print(json.dumps(row), flush=True)


# In the process that asks


def folder_of(wanted: str) -> Path | None:
    """Where a Triton of that version is: None for the one installed here, else the folder to put before it.

    A second version stands in ``<environment>/triton-<version>``. Raises UsageError, with the command, where it does
    not.
    """
    try:
        if version("triton") == wanted:
            return None
    except PackageNotFoundError:
        pass
    folder = Path(sys.prefix) / f"triton-{wanted}"
    if any(each.version == wanted for each in distributions(name="triton", path=[str(folder)])):
        return folder
    raise UsageError(
        f"Triton {wanted} is not installed here or in {folder}: "
        f"{sys.executable} -m pip install --no-deps --target {folder} triton=={wanted}"
    )


def compile_for(
    target: str,
    precisions: Sequence[str],
    folder: Path | None = None,
    briefly: Sequence[str] = (),
    kernels: Sequence[str] = (),
) -> Iterator[Row]:
    """Every shipped configuration on one GPU, a row each as it is done, by the Triton in ``folder`` or the one here.

    Of a precision in ``briefly``, the first configuration of each op; of ``kernels``, if given, those alone. Raises
    ConvbenchError where the process that compiles ends badly.
    """
    import convbench

    root = str(Path(convbench.__file__).parents[1])
    paths = [*([str(folder)] if folder else []), root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    request = json.dumps(
        {"target": target, "precisions": list(precisions), "briefly": list(briefly), "kernels": list(kernels)}
    )
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            [sys.executable, "-m", "convbench.kernels.aot", request],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    yield json.loads(line)
            except BaseException:  # interrupted, or nobody wants the rest
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise ConvbenchError(f"compiling for {target} ended with code {process.returncode}: {last}")


# The gate


def read_budgets(path: Path = BUDGETS) -> dict[str, dict[str, Row]]:
    """Triton version -> configuration -> what it takes."""
    return tomllib.loads(path.read_text("utf-8")) if path.exists() else {}


def write_budgets(rows: Sequence[Row], path: Path = BUDGETS) -> None:
    """Make what was compiled the new budget."""
    lines = [
        "# What each shipped configuration takes, compiled ahead of time by the oldest and the newest Triton.",
        "# Written by scripts/kernel_budgets.py; tests/kernels/test_aot.py holds every line to the compiler's answer.",
        "# stack and shared in bytes, registers of a thread, the rest counts of instructions.",
    ]
    for triton in sorted({row["triton"] for row in rows}):
        lines += ["", f'["{triton}"]']
        for row in rows:
            if row["triton"] == triton:
                values = ", ".join(f"{key} = {row[key]}" for key in (*MORE_IS_WORSE, *LESS_IS_WORSE))
                lines.append(f'"{identity(row)}" = {{ {values} }}')
    _write_whole(path, "\n".join(lines) + "\n")


def complaints(rows: Sequence[Row], budgets: dict[str, Row]) -> list[str]:
    """What is wrong with compiled rows of one Triton version, one line each; empty where all is as budgeted."""
    found = []
    for row in rows:
        name = identity(row)
        if row["error"]:
            found.append(f"{name} does not compile: {row['error']}")
            continue
        room = ROOM[int(row["target"].removeprefix("sm_"))]
        if row["shared"] > room:
            found.append(f"{name} cannot be launched: {row['shared']} bytes of shared memory, {room} is all there is")
        budget = budgets.get(name)
        if budget is None:
            found.append(f"{name} has no budget")
            continue
        for key, sign in [*((key, 1) for key in MORE_IS_WORSE), *((key, -1) for key in LESS_IS_WORSE)]:
            worse = sign * (row[key] - budget[key])
            if worse > 0:
                found.append(f"{name}: {key} {row[key]}, worse than the budget's {budget[key]}")
            elif worse < 0:
                found.append(f"{name}: {key} {row[key]}, better than the budget's {budget[key]}: the budget is stale")
    compiled = {identity(row) for row in rows}
    found += [f"{name} has a budget and is not shipped: stale" for name in budgets if name not in compiled]
    return found


def budgeted(kernel: str, precision: str, target: str, triton: str) -> Row:
    """The most registers and stack that any configuration of a kernel takes, by the stored budgets; {} if not there."""
    rows = [
        row
        for name, row in read_budgets().get(triton, {}).items()
        if name.startswith(f"{kernel} ") and name.endswith(f" {precision} {target}")
    ]
    return {key: max(row[key] for row in rows) for key in ("registers", "stack")} if rows else {}


def overspent(budgets: dict[str, Row], excused: Sequence[str] = ()) -> list[str]:
    """Budgets that allow spilling: more than ``STACK_ALLOWED`` bytes of stack."""
    return [name for name, row in budgets.items() if row["stack"] > STACK_ALLOWED and name not in excused]


def gate_rows(triton: str) -> Iterator[Row]:
    """Everything the gate looks at, compiled by one version of Triton. Raises UsageError where it is not installed."""
    folder = folder_of(triton)
    for target, precisions in GATE.items():
        wanted = [each for each in precisions if each not in BRIEFLY or triton == TRITONS[-1]]
        yield from compile_for(target, wanted, folder, BRIEFLY)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
