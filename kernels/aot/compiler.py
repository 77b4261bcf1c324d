"""Compilation of kernels by a process of their own, with the Triton of this environment or with another version."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from ...errors import ConvbenchError, UsageError

PACKAGE_ROOT = Path(__file__).absolute().parents[3]  # the folder that holds convbench/
WORKER = f"{__package__}.worker"

Row = dict[str, Any]


def folder_of(wanted: str) -> Path | None:
    """Find a version of Triton: None for the one installed here, else the folder to put first on the path.

    A second version is expected in ``<environment>/triton-<version>``. Raises UsageError, with the command that
    installs it, where it is missing.
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
    first_only: Sequence[str] = (),
    kernels: Sequence[str] = (),
) -> Iterator[Row]:
    """Compile the shipped configurations for one GPU target, and yield a row for each as it is done.

    Args:
        folder: Where another Triton is installed, as ``folder_of`` finds it.
        first_only: Precisions of which only the first configuration of each operation is compiled.
        kernels: Names of the kernels to compile; all of them if empty.

    Raises ConvbenchError where the process that compiles fails as a whole. A configuration that does not compile is a
    row with an ``error``.
    """
    paths = [*([str(folder)] if folder else []), str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)  # kernels made for the interpreter cannot be compiled
    request = json.dumps(
        {"target": target, "precisions": list(precisions), "first_only": list(first_only), "kernels": list(kernels)}
    )
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            [sys.executable, "-m", WORKER, request], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    yield json.loads(line)
            except BaseException:  # interrupted, or the caller does not want the rest
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise ConvbenchError(f"compiling for {target} ended with code {process.returncode}: {last}")
