"""The proof of an artefact from its folder alone: ``convbench verify`` and ``convbench.verify``."""

import shlex
from pathlib import Path
from typing import Any

from convbench import catalogue, models
from convbench.catalogue import Variant
from convbench.errors import UsageError

from . import folder as folders
from . import make, shapes, trust
from . import verify as checks
from .make import Report
from .manifest import Manifest


def verify(
    folder: str | Path,
    weights: str | None = None,
    model: str | None = None,
    threads: int | None = None,
    trajectory: bool = True,
    trust_native: bool = False,
    report: Report = lambda what: None,
) -> dict[str, Any]:
    """Compare an artefact with the fp32 PyTorch network that it was made from, as ``convbench verify`` does.

    Statements of the artefact are not trusted: no checkpoint is opened and no code imported unless ``weights`` or
    ``model`` repeats its name, and no file is opened whose hash differs. Nothing is written.

    Args:
        folder: of the artefact.
        weights: checkpoint of the artefact, by default random weights.
        model: id of the artefact's model, needed if its code is not part of convbench.
        threads: of the CPU, by default what the runtime takes.
        trajectory: compare sampled images, too.
        trust_native: open machine code that was not built by this user on this machine.
        report: called with the name of each stage.

    Returns what ``verification.json`` holds: ``status`` is passed, failed or unchecked, with ``reason`` in words.

    Raises:
        UsageError: an artefact that cannot be read, other weights than its own, or a model that is not its own.
    """
    folder = Path(folder)
    manifest = folders.read(folder)
    variant = _variant(folder, manifest, model)
    source = _weights(folder, manifest, weights)
    trust.require(folder, manifest, trust_native)
    takes = variant.signature
    sizes = shapes.of_ports(
        manifest.inputs, manifest.outputs, manifest.dimensions, takes, side=manifest.res // takes.factor
    )
    report("loading")
    checks.require_plausible(folder, manifest, variant)
    network = models.create(variant.id, source, res=manifest.res)
    if make.parameters_sha256(network) != manifest.weights["sha256"]:
        raise UsageError(
            f"the weights of {manifest.model} from {source or make.RANDOM} are not those that {folder} was made "
            "from: specify the right ones with --weights"
        )
    return checks.check(folder, network, sizes, trajectory, threads, report, trust_native)


def _variant(folder: Path, manifest: Manifest, model: str | None) -> Variant:
    """Find the model that the artefact states: one of convbench, unless the caller names the same code."""
    if model is not None and model != manifest.model:
        raise UsageError(f"--model {model} is not the model that {folder} was made from: that is {manifest.model}")
    try:
        variant = catalogue.find_in_zoo(manifest.model) if model is None else catalogue.find(model)
    except UsageError as unknown:
        if model is not None:
            raise
        raise UsageError(
            f"{folder} was made from {manifest.model}, which is not a model of convbench ({unknown}); "
            "if it is your code and may be run, repeat that name with --model"
        ) from None
    if variant.signature != manifest.signature:
        raise UsageError(f"the inputs stated in {folder} are not those of {manifest.model}: export it again")
    return variant


def _weights(folder: Path, manifest: Manifest, weights: str | None) -> str | None:
    """Choose the checkpoint to compare with, which the caller must name. None for random weights."""
    stated = manifest.weights["source"]
    if weights is not None:
        return weights
    if make.is_self_contained(manifest):
        return None if stated == make.RANDOM else stated
    raise UsageError(
        f"{folder} says that its weights are from {stated[:400]}, but an artefact cannot choose files to open or "
        f"download; if you trust that source, specify --weights {shlex.quote(stated)[:400]}"
    )
