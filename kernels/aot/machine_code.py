"""Resources of a compiled kernel: registers, stack and memory from the assembler, instruction counts from its code."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ...errors import ConvbenchError

USAGE = {"registers": "REG", "stack": "STACK", "local": "LOCAL"}  # key -> name in the report of cuobjdump


def resources(compiled: Any) -> dict[str, int]:
    """Read everything that the budgets hold from a kernel that ``triton.compile`` returned."""
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


def read_usage(text: str) -> dict[str, int]:
    """Parse ``cuobjdump -res-usage``: registers of a thread, bytes of stack and of local memory."""
    found = {key: re.search(rf"\b{word}:(\d+)", text) for key, word in USAGE.items()}
    if missing := [USAGE[key] for key, match in found.items() if match is None]:
        raise ConvbenchError(f"cuobjdump does not report {', '.join(missing)}: {text[:200]}")
    return {key: int(match[1]) for key, match in found.items() if match}


def read_code(text: str) -> dict[str, int]:
    """Count instructions in ``nvdisasm -c``: all, spills, loads from memory, 16-byte loads, matrix products."""
    operations = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.MULTILINE)
    loads = [name for name in operations if re.match(r"LDG(STS)?\b|UTMALDG\b|UBLKCP\b", name)]
    return {
        "instructions": len(operations),
        "spills": sum(name.partition(".")[0] in ("STL", "LDL") for name in operations),
        "loads": len(loads),
        "loads_128": sum(bool(re.search(r"\.(128|256)\b|^UTMALDG|^UBLKCP", name)) for name in loads),
        "mma": sum(bool(re.match(r"HMMA|HGMMA|UTC\w*MMA|DMMA", name)) for name in operations),
    }
