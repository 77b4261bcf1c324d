"""Artefacts that backends make once and keep: by network, weights, shapes, precision, versions and machine."""

import functools
import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from convbench import catalogue
from convbench.environment import describe
from convbench.errors import UsageError
from convbench.files import cache_home
from convbench.kernels.cpu import compiled
from convbench.schema import Case, Second, Step

from . import folder, make, shapes, trust
from .manifest import NATIVE, Manifest

MANY = 64  # images of a call that a file with a batch that may vary takes at least


@dataclass
class Prepared:
    """An artefact on disk. ``waited_s`` of it were spent on building in this process, 0 where it was there already."""

    path: Path
    manifest: Manifest
    waited_s: Second


@dataclass
class Built:
    """A step that an artefact stands behind: what it took to build, whenever that was, and how much of it just now."""

    step: Step
    build_s: Second
    waited_s: Second
    winograd_share: float = 1.0  # of the products of dense 3x3 convolutions: the fewest that its algorithm may execute

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.step(x, t, y)


def prepared(network: nn.Module, case: Case, to: str, one_batch: bool, conv: str = "library") -> Prepared:
    """The artefact for a case, built unless it is there. Height and width are fixed.

    Args:
        network: in whatever precision and place; the artefact is made from its weights in float32.
        one_batch: for exactly the batch of the case, which compiled code runs quicker with; otherwise for 1 to 64.
        conv: what computes 3x3 convolutions, as in ``Wanted``; "winograd" chooses for this number of threads.
    """
    batch = (case.batch, case.batch) if one_batch else (1, max(MANY, case.batch))
    sizes = shapes.of_variant(catalogue.find(case.model), case.res, batch)
    precision = case.precision if case.precision in ("fp16", "bf16") else "fp32"
    wanted = make.Wanted(case.model, case.res, to, precision, batch, weights=case.weights, conv=conv)
    facts = describe()
    key = {
        "schema": folder.SCHEMA,
        "model": case.model,
        "res": case.res,
        "to": to,
        "precision": case.precision,
        "batch": batch,
        "weights": make.parameters_sha256(network),
        "network": f"{type(network).__module__}.{type(network).__qualname__}",
        "versions": make.versions(to),
        "exporter": _sources_sha256(),
        "conv": [conv, compiled.target(), torch.get_num_threads()] if conv != "library" else None,
        "machine": [facts["cpu"], facts["cpu_features"], facts["gpus"]] if to in ("aoti", "tensorrt") else None,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_home() / "artefacts" / f"{re.sub(r'[^a-z0-9_.]', '-', case.model)}-{case.res}-{to}-{name}"
    if held := _held(path, to):
        return Prepared(path, held, 0.0)
    started = time.perf_counter()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    network = network if _is_plain(network, to, case.device) else _copied(network, to, case.device)
    with folder.making(path, force=True) as partial:
        manifest = make.build(
            network, sizes, wanted, partial, timing=cache_home() / "timing.cache", tf32=case.precision == "tf32"
        )
    return Prepared(path, manifest, time.perf_counter() - started)


@functools.cache
def _sources_sha256() -> str:
    """Hash of the exporters' own code: what an older one made is made again."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _held(path: Path, to: str) -> Manifest | None:
    """The manifest of a whole artefact in the cache; machine code that this user did not build here is built again."""
    if not (path / folder.MANIFEST).is_file():
        return None
    manifest = folder.read(path)
    if manifest.to != to or folder.changed_files(path, manifest):
        return None
    return manifest if to not in NATIVE or trust.built_here(manifest) else None


def _is_plain(network: nn.Module, to: str, device: str) -> bool:
    """True if an artefact can be made from the network as it is."""
    first = next(network.parameters())
    return first.dtype == torch.float32 and first.device.type == (device if to == "aoti" else "cpu")


def _copied(network: nn.Module, to: str, device: str) -> nn.Module:
    import copy

    return copy.deepcopy(network).float().to(device if to == "aoti" else "cpu")


def unsupported(case: Case, to: str, precisions: tuple[str, ...]) -> str | None:
    """Reason why no artefact can be made for a case, or None."""
    if case.mode != "forward":
        return f"{to} files compute the forward pass only"
    if case.precision not in precisions:
        return f"the {to} backend computes in {', '.join(precisions)} on this device"
    try:
        make.require_supported(to, case.precision if case.precision in ("fp16", "bf16") else "fp32")
    except UsageError as error:
        return str(error)
    return None
