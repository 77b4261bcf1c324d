"""Resources of a compiled kernel: registers, stack and memory from the assembler, instruction counts from its code."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ConvbenchError

USAGE = {"registers": "REG", "stack": "STACK", "local": "LOCAL"}  # key -> name in the report of cuobjdump

INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;\n]*)", re.MULTILINE)
LABEL = re.compile(r"^(\.L_\w+):")


def resources(compiled: Any, work: Sequence[int] = ()) -> dict[str, Any]:
    """Read everything that the budgets hold from a kernel that ``triton.compile`` returned.

    work: that of a thread, as ``Compilation`` describes it; with it, also the instructions issued for an element.
    """
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([tools / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    row: dict[str, Any] = read_usage(usage) | read_code(code) | {"shared": int(compiled.metadata.shared)}
    if work:
        elements, *trips = work
        row["instructions_per_element"] = issued(code, trips) / elements
    return row


def read_usage(text: str) -> dict[str, int]:
    """Parse ``cuobjdump -res-usage``: registers of a thread, bytes of stack and of local memory."""
    found = {key: re.search(rf"\b{word}:(\d+)", text) for key, word in USAGE.items()}
    if missing := [USAGE[key] for key, match in found.items() if match is None]:
        raise ConvbenchError(f"cuobjdump does not report {', '.join(missing)}: {text[:200]}")
    return {key: int(match[1]) for key, match in found.items() if match}


def read_code(text: str) -> dict[str, int]:
    """Count instructions in ``nvdisasm -c``: all, spills, loads from memory, 16-byte loads, matrix products."""
    operations = [name for name, _ in INSTRUCTION.findall(text)]
    loads = [name for name in operations if re.match(r"LDG(STS)?\b|UTMALDG\b|UBLKCP\b", name)]
    return {
        "instructions": len(operations),
        "spills": sum(name.partition(".")[0] in ("STL", "LDL") for name in operations),
        "loads": len(loads),
        "loads_128": sum(bool(re.search(r"\.(128|256)\b|^UTMALDG|^UBLKCP", name)) for name in loads),
        "mma": sum(bool(re.match(r"HMMA|HGMMA|UTC\w*MMA|DMMA", name)) for name in operations),
    }


def issued(text: str, trips: Sequence[int]) -> int:
    """Count the instructions that a thread issues, from ``nvdisasm -c`` and the trips of its loops in code order.

    A loop is a branch back. Loops beyond ``trips``, the parts that the assembler unrolled of the last ones, count once,
    and so does the code of branches forward that a thread may take: an upper estimate, but for nested loops, of which
    the kernels counted so have none.
    """
    labels: dict[str, int] = {}
    names: list[str] = []
    loops: list[tuple[int, int]] = []  # first and last instruction
    for line in text.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(names)
        elif found := INSTRUCTION.match(line):
            back = re.search(r"\.L_\w+", found[2]) if found[1].startswith("BRA") else None
            if back and labels.get(back[0], len(names)) < len(names):  # one to itself ends the code
                loops.append((labels[back[0]], len(names)))
            names.append(found[1])
    end = len(names) - names[::-1].index("EXIT") if "EXIT" in names else len(names)  # the rest is padding
    return end + sum((trip - 1) * (last - first + 1) for (first, last), trip in zip(loops, trips, strict=False))
