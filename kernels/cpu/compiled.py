"""The library of C++ kernels for this processor, compiled at first use in some seconds and kept in the user's cache.

It is not part of the wheel as machine code: one pure wheel serves all machines, each library is tuned for its
processor, and whoever runs ``torch.compile`` on a processor has a compiler already.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from ...environment import describe
from ...errors import UsageError, first_line
from ...files import cache_home

SOURCE = Path(__file__).with_name("winograd.cpp")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-psabi"),
)
TARGETS = {  # by torch's name of what the processor can do: floats of a vector, rows of a product, flags
    "AVX512": (16, 14, ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mtune=native")),
    "AVX2": (8, 6, ("-mavx2", "-mfma", "-mtune=native")),
    "NEON": (4, 12, ()),
}
LONGEST_S = 120


def target() -> str | None:
    """Key of TARGETS for this process, or None. ATEN_CPU_CAPABILITY counts, as for torch's own kernels."""
    if platform.machine() in ("aarch64", "arm64"):
        return "NEON"
    name = torch.backends.cpu.get_cpu_capability()
    return name if name in TARGETS else None


def compiler() -> str | None:
    """The C++ compiler: $CXX, or g++. It has to be GCC, whose OpenMP is the one that torch brings."""
    return shutil.which(os.environ.get("CXX") or "g++")


def second_level_cache() -> int:
    """Bytes of the second-level cache of a core; a common size where the system does not say."""
    try:
        told = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text()
        return int(told.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 2**20


def missing() -> str | None:
    """Reason why there can be no library here, with what would change that, or None. Compiles nothing."""
    if platform.system() != "Linux":
        return "the C++ kernels are built for Linux only"
    if target() is None:
        return "the C++ kernels need a processor with AVX2 or AVX-512, or a 64-bit ARM"
    if compiler() is None:
        return "the C++ kernels are compiled at first use and need GCC: install g++"
    return None


@functools.cache
def version(command: str) -> str:
    """Return the version line of a compiler. Raises UsageError for one that does not run."""
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=LONGEST_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"the C++ compiler {command} does not run: {first_line(error)}; set CXX to GCC") from None
    return done.stdout.partition("\n")[0]


def command(out: Path, name: str, extra: tuple[str, ...] = (), source: Path = SOURCE) -> list[str]:
    """The command that compiles a source for the target ``name``. Torch's own OpenMP is linked before any other."""
    lanes, rows, flags = TARGETS[name]
    shared = sorted(str(path) for path in Path(torch.__file__).with_name("lib").glob("libgomp*.so*"))[:1]
    return [
        compiler() or "g++",
        *(*FLAGS, *flags, f"-DLANES={lanes}", f"-DROWS={rows}"),
        *("-shared", str(source), "-Wl,--as-needed", *shared, "-o", str(out), *extra),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """The library for this processor, compiled unless it is there. Raises UsageError where it cannot be."""
    if reason := missing():
        raise UsageError(reason)
    name, used = target(), compiler()
    assert name is not None and used is not None
    key = [SOURCE.read_text("utf-8"), version(used), *command(Path("out"), name), describe()["cpu"]]
    path = cache_home() / "kernels" / f"winograd-{hashlib.sha256('|'.join(key).encode()).hexdigest()[:16]}.so"
    if not path.is_file():
        _compile(path, name)
    return ctypes.CDLL(str(path))


def _compile(path: Path, name: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch, path.name)
            done = subprocess.run(command(made, name), capture_output=True, text=True, timeout=LONGEST_S, check=False)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if "error" in line] or [f"status {done.returncode}"]
                raise UsageError(f"{compiler()} cannot compile the C++ kernels: {said[0].strip()}")
            made.replace(path)  # whole or not at all, whoever compiles it at the same time
    except subprocess.TimeoutExpired:
        raise UsageError(f"{compiler()} took over {LONGEST_S} s to compile the C++ kernels") from None
    except OSError as error:
        raise UsageError(f"cannot write the C++ kernels to {path.parent}: {error.strerror}") from None
