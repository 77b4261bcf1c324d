"""Checks of this machine: each part that works, and for the rest the reason and the command that fixes it."""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import packages
from .errors import UsageError

Row = dict[str, Any]
COMMAND = re.compile(r"\b(pip (?:un)?install .*)$")
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"  # in a checkout only
CORE = ("torch", "numpy", "click", "pandas", "rich", "safetensors")  # beside the optional ones of packages.toml


Check = Callable[[], str | None]
"""Returns why something cannot run here, or None; may raise UsageError that says the same."""


def examine(backends: Mapping[str, Check], exports: Mapping[str, Check]) -> list[Row]:
    """Rows of ``area, what, works, reason, fix``; ``works`` is yes, no or perhaps, ``fix`` a command or None.

    Args:
        backends: a check by the name to show, such as "aoti on cpu".
        exports: the same for targets of ``convbench export``, such as "onnx in fp16".
    """
    checked = {"backends": backends, "exports": exports}
    asked = [row(area, what, _refusal(check)) for area, checks in checked.items() for what, check in checks.items()]
    return [*_devices(), *_conflicts(), *asked, _compiler(), *_servers(), *_parts(), *_versions()]


def row(area: str, what: str, reason: str | None = None, fix: str | None = None, works: str | None = None) -> Row:
    """A finding. A command at the end of the reason becomes the fix."""
    if reason and not fix and (found := COMMAND.search(reason)):
        fix, reason = found[1], reason[: found.start()].rstrip(" :")
    return {"area": area, "what": what, "works": works or ("no" if reason else "yes"), "reason": reason, "fix": fix}


def driver_gpus() -> list[str]:
    """The NVIDIA GPUs that the driver lists, whatever torch sees."""
    if not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    return [line for line in done.stdout.splitlines() if line.startswith("GPU ")]


def _devices() -> Iterator[Row]:
    import torch

    yield row("devices", "cpu")
    version = torch.__version__.partition("+")[0]
    if torch.cuda.is_available():
        yield row("devices", "cuda")
    elif not driver_gpus():
        yield row("devices", "cuda", "this machine has no NVIDIA GPU, or no driver for it")
    elif torch.version.cuda is None:
        yield row(
            "devices",
            "cuda",
            f"this machine has a GPU, but torch {torch.__version__} is a build without CUDA",
            f"pip install --force-reinstall torch=={version}",
        )
    else:
        yield row(
            "devices",
            "cuda",
            f"torch was built for CUDA {torch.version.cuda}, which the driver does not support",
            f"pip install --force-reinstall torch=={version} --index-url https://download.pytorch.org/whl/cu126",
        )


def installed(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _conflicts() -> Iterator[Row]:
    """Packages that are there and broken: two that overwrite each other, wheels without a library in them."""
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name)]
    if len(both) == 2:
        keep = "onnxruntime-gpu" if driver_gpus() else "onnxruntime"
        yield row(
            "packages",
            "ONNX Runtime",
            f"{' and '.join(both)} are installed together and overwrite each other's files",
            f"pip uninstall -y {' '.join(both)} && pip install {keep}",
        )
    for distribution in importlib.metadata.distributions():
        name = str(distribution.metadata["Name"]).lower().replace("-", "_")
        if not re.fullmatch(r"tensorrt(_cu\d+)?_libs", name):
            continue
        if not any("libnvinfer" in file.name for file in distribution.files or ()):
            index = "https://pypi.nvidia.com"
            yield row(
                "packages",
                "TensorRT",
                f"{name} {distribution.version} is a stub without the library: NVIDIA's own index has it",
                f"pip install --force-reinstall --extra-index-url {index} {name}=={distribution.version}",
            )


def _compiler() -> Row:
    found = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    reason = None if found else "torch compiles C++ for a CPU, and no C++ compiler was found"
    return row("backends", "C++ compiler for compile and aoti", reason, None if found else "apt-get install g++")


def _refusal(check: Check) -> str | None:
    """The reason that a check returns or raises."""
    try:
        return check()
    except UsageError as error:
        return str(error)


def _servers() -> Iterator[Row]:
    reasons = [packages.missing(name) for name in ("starlette", "uvicorn", "prometheus_client")]
    yield row("servers", "convbench serve", next(filter(None, reasons), None))
    own = CONSTRAINTS.with_name(".venv-triton")
    found = shutil.which("tritonserver") or installed("nvidia-pytriton") or own.is_dir()
    # The package carries a server with the Python backend; its numpy is too old to stand beside ours.
    wanted = "nvidia-pytriton==0.7.0 'numpy<2' onnxruntime"
    make = "make serving" if CONSTRAINTS.is_file() else f"python3 -m venv triton && triton/bin/pip install {wanted}"
    fix = None if found else make
    missing = (
        None
        if found
        else "no tritonserver on the path and no nvidia-pytriton: nothing here can run what `deploy` writes"
    )
    yield row("servers", "tritonserver", missing, fix)


def _parts() -> Iterator[Row]:
    gpu = bool(driver_gpus())
    for part in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))["part"]:
        reason = fix = None
        if part.get("gpu") and not gpu:
            reason = "needs an NVIDIA GPU"
        elif importlib.util.find_spec(part["package"]) is None:
            reason, fix = f"{part['package']} is not installed", part["install"]
        yield row(part["area"], part["what"], reason, fix)


def _versions() -> Iterator[Row]:
    """Packages of another major or minor version than the tests ran with."""
    tested = tested_versions()
    for name, wanted in tested.items():
        distribution = installed(name)
        if distribution is None or _minor(distribution.version) == _minor(wanted):
            continue
        older = _minor(distribution.version) < _minor(wanted)
        yield row(
            "versions",
            name,
            f"{distribution.version} is {'older' if older else 'newer'} than {wanted}, which the tests ran with",
            f"pip install {name}=={wanted}",
            works="perhaps",
        )


def tested_versions() -> dict[str, str]:
    """Tested versions by distribution: optional packages and, in a checkout, required ones."""
    modules = importlib.metadata.packages_distributions()
    found = {name: facts["version"] for module, facts in packages.table().items() for name in modules.get(module, ())}
    if CONSTRAINTS.is_file():
        pins = dict(re.findall(r"^([\w.-]+)==(\S+)", CONSTRAINTS.read_text("utf-8"), re.MULTILINE))
        found |= {name: pins[name] for name in CORE if name in pins}
    return found


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:2])
