"""The process that compiles: ``python -m convbench.kernels.aot.worker REQUEST`` writes one JSON line a configuration.

It is a process of its own because one process has one Triton, and a Triton that interprets kernels cannot compile them.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files import write_whole
from ..registry import all_kernels
from ..schema import Compilation, Kernel
from .machine_code import resources
from .targets import capability, ships_for

CACHE_VERSION = 1  # raise it when resources() reads something else: older entries are then ignored

Row = dict[str, Any]


def serve(kernels: Sequence[Kernel], request: Row) -> None:
    """Compile what the request asks for, and print a row for each configuration as it is done.

    Request: ``target``; ``precisions``; ``first_only``, the precisions of which only each operation's first
    configuration is compiled; and ``kernels``, names, where an empty list stands for all.
    """
    import triton

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder  # Triton's own cache would keep every intermediate form
        for kernel in kernels:
            if request["kernels"] and kernel.name not in request["kernels"]:
                continue
            for precision in request["precisions"]:
                shipped = [each for each in kernel.compilations(precision) if ships_for(each, request["target"])]
                for compilation in shipped[: 1 if precision in request["first_only"] else None]:
                    row = {"kernel": kernel.name, "configuration": compilation.label, "precision": precision}
                    row |= {"target": request["target"], "triton": triton.__version__, "error": None}
                    try:
                        row |= compile_one(compilation, request["target"])
                    except Exception as error:  # from any stage of the compiler; the row says which kernel and what
                        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
                    print(json.dumps(row), flush=True)


def compile_one(compilation: Compilation, target: str) -> Row:
    """Return the resources of one configuration on a target such as sm_90, from the cache or from Triton."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = compilation.function
    types = compilation.pointers | compilation.scalars
    at = function.arg_names.index
    source = ASTSource(
        fn=function,
        signature={name: "constexpr" if name in compilation.constants else types[name] for name in function.arg_names},
        constexprs={(at(name),): value for name, value in compilation.constants.items()},
        attrs={(at(name),): [["tt.divisibility", 16]] for name in compilation.aligned},
    )
    options = {
        "num_warps": compilation.num_warps,
        "num_stages": compilation.num_stages,
        "enable_fp_fusion": True,  # as at launch; Triton 3.10 turns it off by default
    }
    key = json.dumps([triton.__version__, capability(target), source.hash(), options, CACHE_VERSION, *compilation.work])
    kept = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    try:
        return {**json.loads(kept.read_text()), "cached": True}
    except (OSError, ValueError):
        pass  # not compiled yet, or torn

    start = time.perf_counter()
    compiled = triton.compile(source, target=GPUTarget("cuda", capability(target), 32), options=options)
    row: Row = {"seconds": time.perf_counter() - start, **resources(compiled, compilation.work)}
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(row).encode())
    except OSError as error:  # without a cache the next compilation takes longer, nothing else
        print(f"convbench: cannot write {kept}: {error.strerror}", file=sys.stderr)
    return {**row, "cached": False}


def cache_folder() -> Path:
    """Folder of the cache: $XDG_CACHE_HOME/convbench/aot, or below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convbench" / "aot"


if __name__ == "__main__":
    serve(all_kernels(), json.loads(sys.argv[1]))
