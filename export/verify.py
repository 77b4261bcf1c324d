"""Verification of an artefact against fp32 PyTorch: over batches, sizes, timesteps, classes and a trajectory."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convbench import models
from convbench.catalogue import Variant
from convbench.checks.output import relative_error
from convbench.errors import UsageError, first_line
from convbench.schema import Step
from convbench.timing.clock import Inputs
from convbench.tolerances import RELATIVE_L2, TRAJECTORY_L2

from . import folder, locate, runtimes, trajectories, trust
from .manifest import Manifest
from .shapes import Shapes

BATCHES = (2, 3, 8)  # beside the smallest: of several images, of an odd number, of many
TRAJECTORY_STEPS = 10
MOST_NUMBERS_A_BYTE, LEAST_NUMBERS = 4, 2**24  # int8 has one, and fixed tables may be folded away
Row = dict[str, Any]


def check(
    artefact: Path,
    network: nn.Module,
    sizes: Shapes,
    takes_trajectory: bool = True,
    threads: int | None = None,
    report: Any = lambda what: None,
    trust_native: bool = False,
) -> dict[str, Any]:
    """Compare an artefact with the network it was made from. Opens nothing whose hash is not the manifest's.

    Args:
        network: in fp32, with the weights of the artefact.
        trust_native: open machine code that was not built here.

    Returns what ``verification.json`` holds: ``status`` (passed, failed or unchecked), ``reason``, ``precision``,
    ``limit`` of the relative L2 error of the worst image, one row in ``checks`` for each batch and size, and where
    something differs the ``layer`` that does so first.
    """
    manifest = folder.read(artefact)
    limit = RELATIVE_L2[manifest.precision]
    found: dict[str, Any] = {
        "status": "passed",
        "reason": "",
        "precision": manifest.precision,
        "limit": limit,
        "checked_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "checks": [],
        "layer": None,
    }
    if reason := _unchecked(manifest):
        changed = folder.changed_files(artefact, manifest)
        return {**found, "status": "failed" if changed else "unchecked", "reason": "; ".join([*changed, reason])}
    trust.require(artefact, manifest, trust_native)
    try:
        with folder.sealed(artefact, manifest) as private:
            return _checked(private, manifest, network, sizes, takes_trajectory, threads, report, found)
    except folder.Damaged as damaged:
        return {**found, "status": "failed", "reason": "; ".join(damaged.changes)}


def _checked(
    private: Path,
    manifest: Manifest,
    network: nn.Module,
    sizes: Shapes,
    takes_trajectory: bool,
    threads: int | None,
    report: Any,
    found: dict[str, Any],
) -> dict[str, Any]:
    """``found`` with what came of running the files of a private copy."""
    limit = found["limit"]
    rows: list[Row] = found["checks"]
    worst: tuple[float, Inputs] | None = None
    try:
        file, device = private / manifest.entry, manifest.target["device"]
        with runtimes.open_file(file, manifest, threads, device) as step, torch.inference_mode():
            for inputs in pool(sizes):
                report(f"batch {len(inputs[0])} of {inputs[0].shape[2]}x{inputs[0].shape[3]}")
                out, reference = _run(step, inputs, device), network(*inputs)
                rows.append(_compared(out, reference, inputs, limit))
                error = math.inf if rows[-1]["relative_l2"] is None else rows[-1]["relative_l2"]
                if not rows[-1]["ok"] and (worst is None or error > worst[0]):
                    worst = error, inputs
            if takes_trajectory and not worst and sizes.takes.predicts != "logits":
                report("a trajectory")
                found["trajectory"] = _trajectory(step, network, sizes, manifest)
    except runtimes.Unreadable as unreadable:
        return {**found, "status": "failed", "reason": f"it does not run: {unreadable}"}
    except UsageError as refused:
        return {**found, "status": "unchecked", "reason": str(refused)}
    except Exception as error:  # a runtime may raise anything about a file that is damaged
        return {**found, "status": "failed", "reason": f"it does not run: {first_line(error, 300)}"}
    if worst:
        try:
            found["layer"] = locate.first_difference(private, manifest, network, worst[1])
        except Exception as error:  # the names of layers and the graph come from the same files
            text = f"which layer differs first cannot be told: {first_line(error)}"
            found["layer"] = {"layer": None, "relative_l2": None, "text": text}
    return found | _verdict(found)


def _unchecked(manifest: Manifest) -> str | None:
    """Reason why nothing here can run the artefact."""
    if manifest.to == "onnx" and manifest.precision == "bf16" and manifest.target["device"] == "cpu":
        return "ONNX Runtime has no bf16 convolution on a processor: verify it on a GPU"
    if manifest.target["device"] == "cuda" and not torch.cuda.is_available():
        return f"running it needs an NVIDIA GPU ({manifest.target.get('library', 'CUDA')}), and torch sees none here"
    return None


def _verdict(found: dict[str, Any]) -> dict[str, Any]:
    rows, walk = found["checks"], found.get("trajectory")
    failed = [row for row in rows if not row["ok"]]
    reasons = []
    if failed:
        row = max(failed, key=lambda row: row["relative_l2"] if row["relative_l2"] is not None else math.inf)
        size = "not finite or of another shape" if row["relative_l2"] is None else f"{row['relative_l2']:.1e}"
        reasons.append(
            f"{len(failed)} of {len(rows)} comparisons are wrong: relative error {size} at batch {row['batch']} of "
            f"{row['height']}x{row['width']} exceeds the limit of {found['limit']:.0e}"
        )
        if found["layer"]:
            reasons.append(found["layer"]["text"])
    elif walk and not walk["ok"]:
        error = walk["relative_l2"]
        how = "are not finite" if error is None else f"differ by {error:.1e}"
        reasons.append(f"after {walk['steps']} steps of {walk['sampler']} the images {how}")
    if reasons:
        return {"status": "failed", "reason": "; ".join(reasons)}
    most = max(row["relative_l2"] for row in rows)
    return {
        "status": "passed",
        "reason": f"{len(rows)} comparisons with fp32 PyTorch, relative L2 error of the worst image {most:.1e}, "
        f"at most {found['limit']:.0e} allowed.",
    }


def pool(sizes: Shapes) -> Iterator[Inputs]:
    """Yield inputs to compare: x (B, C, H, W), t (B,), y (B,), with both ends of t and y and values in between.

    They have several batch sizes and, if allowed, other sizes that are not square.
    """
    low, high = sizes.batch
    batches = sorted({low, *(min(max(low, batch), high) for batch in BATCHES)})
    images = max(sum(batches), 4 * low)
    x, t, y = sizes.inputs(images)
    start = 0
    while start < images:  # a batch that cannot vary is repeated until four different images were seen
        for batch in batches:
            if start < images:
                chosen = slice(start, start + batch) if start + batch <= images else slice(images - batch, images)
                yield x[chosen], t[chosen], y[chosen]
                start += batch
    if sizes.sides:
        least, most = sizes.sides
        between = least + (most - least) // 2 // sizes.multiple * sizes.multiple
        for height, width in ((least, least), (least, between), (between, least)):
            yield sizes.inputs(min(max(2, low), high), height, width, seed=1)


def _run(step: Step, inputs: Inputs, device: str) -> Tensor:
    return step(*(v.to(device) for v in inputs)).cpu().clone()


def _compared(out: Tensor, reference: Tensor, inputs: Inputs, limit: float) -> Row:
    x, t, y = inputs
    row: Row = {
        "batch": len(x),
        "height": x.shape[2],
        "width": x.shape[3],
        "t_from": float(t.min()),
        "t_to": float(t.max()),
    }
    if y.dim() == 1:
        row |= {"y_from": int(y.min()), "y_to": int(y.max())}
    if out.shape != reference.shape or not out.isfinite().all():
        return {**row, "relative_l2": None, "max_abs": None, "cosine": None, "ok": False}
    a, b = out.double().flatten(1), reference.double().flatten(1)
    error = locate.worst_image(a, b)
    return {
        **row,
        "relative_l2": error,
        "max_abs": float((a - b).abs().max()),
        "cosine": float(torch.cosine_similarity(a, b).min()),
        "ok": error <= limit,
    }


def _trajectory(step: Step, network: nn.Module, sizes: Shapes, manifest: Manifest) -> Row:
    """The same start, noise and class through the sampler with both; how far apart the images are at the end."""
    device, images = manifest.target["device"], sizes.batch[0]
    trained = not manifest.weights["source"].startswith("random")
    expected = trajectories.sample(network, sizes, TRAJECTORY_STEPS, images, trained)
    found = trajectories.sample(lambda x, t, y: _run(step, (x, t, y), device), sizes, TRAJECTORY_STEPS, images, trained)
    error, limit = relative_error(found, expected), TRAJECTORY_L2[manifest.precision]
    return {
        "sampler": trajectories.sampler(sizes, TRAJECTORY_STEPS, trained).name,
        "steps": TRAJECTORY_STEPS,
        "images": images,
        "relative_l2": error if math.isfinite(error) else None,
        "limit": limit,
        "ok": error <= limit,
    }


def require_plausible(artefact: Path, manifest: Manifest, variant: Variant) -> None:
    """Raise UsageError for a model of convbench that is far larger than its files, before it is built.

    Otherwise a manifest of some bytes could ask for all memory there is.
    """
    if variant.factory:
        return
    numbers = sum(math.prod(value.shape) for value in models.on_meta(variant, manifest.res).state_dict().values())
    held = sum(facts["bytes"] for facts in manifest.files.values())
    if numbers > MOST_NUMBERS_A_BYTE * held + LEAST_NUMBERS:
        raise UsageError(
            f"{artefact} has {held} bytes, which cannot hold the {numbers} numbers of {manifest.model} at "
            f"{manifest.res} pixels"
        )
