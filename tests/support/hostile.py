"""What attackers write, and a process with little memory to try it in."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SURROGATE = "\ud800"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e"  # clears a screen, renames a window, turns text round

LIMITED = """
import resource, runpy, sys
limit = int(sys.argv[1])
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for name in sys.argv[2].split(","):
    __import__(name)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + limit, held + limit))
sys.argv = ["convbench", *sys.argv[3:]]
from convbench.cli import main
main()
"""


def deep(levels: int = 100_000) -> str:
    """JSON nested deeper than any reader goes."""
    return "[" * levels + "]" * levels


def in_little_memory(
    *arguments: object, limit: int = 2**30, imports: str = "torch", cwd: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    """A command line in a process that may allocate ``limit`` bytes beyond its imports, and take two minutes."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), imports, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def changed(file: Path, change: Any) -> None:
    """Let ``change`` edit the JSON of a file in place, or return what it becomes."""
    content = json.loads(file.read_text("utf-8"))
    result = change(content)
    file.write_text(json.dumps(content if result is None else result), "utf-8")
