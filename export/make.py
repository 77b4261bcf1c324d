"""``convbench export``: build an artefact, prove it, describe it."""

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convbench import __version__, catalogue, models, packages
from convbench.errors import ConvbenchError, UsageError
from convbench.kernels.cpu import compiled, modules

from . import aoti, autocast, folder, mnn, ncnn, onnx, openvino, quantize, shapes, tensorrt, trust
from .manifest import NATIVE, Manifest
from .shapes import Shapes
from .targets import PRECISIONS, SUPPORTED, TARGETS

Report = Callable[[str], None]
"""Called with what is being done now."""

FP8 = (
    "fp8 is not built: the one quantiser for it needs a GPU of compute capability 8.9 or newer and was never run here; "
    "int8 is the smallest that is"
)
ONE_BATCH = ("ncnn", "mnn")  # converted for the shapes of their example
SCRATCH = "scratch"
RANDOM, SHIPPED = "random, seed 0", "shipped"  # sources of weights that name no file


@dataclass(frozen=True)
class Wanted:
    """A request for an artefact."""

    model: str
    res: int
    to: str
    precision: str = "fp32"
    batch: tuple[int, int] = (1, 64)
    dynamic: bool = False
    weights: str | None = None
    command: str = ""
    conv: str = "library"  # what computes 3x3 convolutions: the library's, or "winograd", our own kernels


def export(wanted: Wanted, out: Path, force: bool = False, report: Report = lambda what: None) -> dict[str, Any]:
    """Make the artefact folder ``out``. Returns what its verification found, as in ``verification.json``.

    Raises:
        UsageError: what cannot be, named before any work where it can be known.
        ConvbenchError: the artefact is wrong; nothing is written then.
    """
    from . import verify

    require_supported(wanted.to, wanted.precision)
    if wanted.conv == "winograd":
        if wanted.to != "aoti":
            raise UsageError(f"--conv winograd comes with --to aoti, not with {wanted.to}: no other runtime has it")
        if reason := compiled.missing():
            raise UsageError(reason)
    variant = catalogue.find(wanted.model)
    if wanted.to in ONE_BATCH and (wanted.batch[0] < wanted.batch[1] or wanted.dynamic):
        raise UsageError(f"--to {wanted.to} makes a file for one batch and size: give --batch 1, say, and no --dynamic")
    sizes = shapes.of_variant(variant, wanted.res, wanted.batch, wanted.dynamic)
    folder.require_free(out, force)
    report("loading")
    network = models.create(wanted.model, wanted.weights, res=wanted.res)
    with folder.making(out, force) as partial:
        manifest = build(network, sizes, wanted, partial, report)
        report("verifying")
        found = verify.check(partial, network, sizes, trust_native=True)
        (partial / folder.VERIFICATION).write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        if found["status"] == "failed":
            raise ConvbenchError(f"the exported file is wrong and was not kept: {found['reason']}")
        (partial / folder.README).write_text(readme(manifest, found), "utf-8")
    return found


def require_supported(to: str, precision: str) -> None:
    """Raise UsageError for a target and precision that are not built, or packages that are missing, before any work."""
    if to not in TARGETS:
        raise UsageError(f"unknown target '{to}'; choose from {', '.join(TARGETS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision '{precision}'; choose from {', '.join(PRECISIONS)}")
    if precision == "fp8":
        raise UsageError(FP8)
    if precision not in SUPPORTED[to]:
        raise UsageError(f"--to {to} comes in {', '.join(SUPPORTED[to])}, not in {precision}")
    needs = {"onnx": ["onnx", "onnxscript"], "openvino": ["onnx", "onnxscript", "openvino"], "aoti": []}
    needs |= {"tensorrt": needs["onnx"], "ncnn": ["pnnx", "ncnn"], "mnn": [*needs["onnx"], "MNN"]}
    extra = {"fp16": ["modelopt"], "bf16": ["modelopt"], "int8": ["onnxruntime"]}.get(precision, [])
    for name in (*needs[to], *extra):
        if reason := packages.missing(name):
            raise UsageError(reason)
    if to == "tensorrt":
        tensorrt.library()


def build(
    network: nn.Module,
    sizes: Shapes,
    wanted: Wanted,
    into: Path,
    report: Report = lambda what: None,
    timing: Path | None = None,
    tf32: bool = False,
) -> Manifest:
    """Write the files of an artefact and its manifest into a folder, without proving anything.

    Args:
        network: in float32, on the CPU; for AOTInductor on the device that it shall run on.
        timing: an earlier timing cache of TensorRT.
    """
    started = time.perf_counter()
    channels, opset = onnx.tried(network, sizes)
    sizes = replace(sizes, out_channels=channels)
    report("compiling" if wanted.to == "aoti" else "exporting")
    details: dict[str, Any]
    layers: list[onnx.Layer] = []
    scratch = into / SCRATCH
    if wanted.to == "aoti":
        entry, target = aoti.ENTRY, aoti.target(next(network.parameters()).device.type)
        chosen: dict[str, str] = {}
        if wanted.conv == "winograd":
            report("choosing algorithms")
            chosen = modules.chosen(network, sizes.inputs(sizes.batch[0]), torch.get_num_threads())
            target["kernels"] = str(compiled.target())
        packed = modules.packed_copy(network, chosen) if chosen else network
        details = aoti.write(packed, sizes, into / entry) | ({"convolutions_by": chosen} if chosen else {})
    elif wanted.to == "ncnn":
        scratch.mkdir()
        entry, target, details = ncnn.ENTRY, {"device": "cpu"}, {}
        ncnn.write(network, sizes, into, scratch)
    else:
        scratch.mkdir()
        opset = mnn.OPSET if wanted.to == "mnn" else opset
        straight = wanted.to == "onnx"
        source, details = _onnx(
            network,
            sizes,
            wanted.precision,
            opset,
            wanted.weights is not None,
            into if straight else scratch,
            scratch,
            report,
        )
        layers = details.pop("layers")
        entry, target = onnx.ENTRY, {"device": "cpu"}
        if wanted.to == "openvino":
            report("converting")
            entry = openvino.ENTRY
            openvino.write(source, into)
            layers = _present(layers, openvino.values(into / entry))
        elif wanted.to == "mnn":
            report("converting")
            entry, layers = mnn.ENTRY, []
            mnn.write(source, into)
        elif wanted.to == "tensorrt":
            report("building the engine")
            entry, target = tensorrt.ENTRY, tensorrt.target()
            details |= tensorrt.build(source, sizes, into, tf32, timing)
            layers = []
    shutil.rmtree(scratch, ignore_errors=True)
    if layers:
        (into / folder.LAYERS).write_text(json.dumps(layers, indent=0) + "\n", "utf-8")
    inputs, outputs = sizes.ports()
    manifest = Manifest(
        model=wanted.model,
        res=wanted.res,
        to=wanted.to,
        precision=wanted.precision,
        batch=sizes.batch,
        dimensions=sizes.dimensions,
        inputs=inputs,
        outputs=outputs,
        signature=sizes.takes,
        entry=entry,
        weights={"source": wanted.weights or RANDOM, "sha256": parameters_sha256(network)},
        versions=versions(wanted.to),
        target=target,
        command=wanted.command,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        build_s=round(time.perf_counter() - started, 3),
        details=details,
    )
    manifest = folder.write(into, manifest)
    if wanted.to in NATIVE:
        try:
            trust.add(manifest)
        except OSError as error:
            report(f"not remembered as built here ({error.strerror}): opening it will need --trust-native")
    return manifest


def _onnx(
    network: nn.Module,
    sizes: Shapes,
    precision: str,
    opset: int,
    trained: bool,
    into: Path,
    scratch: Path,
    report: Report,
) -> tuple[Path, dict[str, Any]]:
    """Write model.onnx in the precision. ``details["layers"]``: those that the file still names."""
    file = into / onnx.ENTRY
    if precision == "fp32":
        return file, onnx.write(network, sizes, file, opset)
    wide = scratch / "fp32.onnx"
    details = onnx.write(network, sizes, wide, onnx.OPSET_INT8 if precision == "int8" else opset)
    report("calibrating" if precision == "int8" else "converting")
    if precision == "int8":
        details |= quantize.write(wide, file, network, sizes, trained)
    else:
        details |= autocast.write(wide, file, precision, network, sizes)
    graph = packages.require("onnx").load(str(file), load_external_data=False).graph
    details["layers"] = _present(details["layers"], {value for node in graph.node for value in node.output})
    return file, details


def _present(layers: list[onnx.Layer], values: set[str]) -> list[onnx.Layer]:
    return [layer for layer in layers if layer["value"] in values]


def parameters_sha256(network: nn.Module) -> str:
    """Hash of names, types, shapes and values of all parameters: equal for equal weights from any file."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions(to: str) -> dict[str, str]:
    """Versions of the packages that make such an artefact."""
    names = {
        "onnx": ("onnx", "onnxscript", "onnxruntime", "nvidia-modelopt"),
        "openvino": ("onnx", "onnxscript", "openvino"),
        "tensorrt": ("onnx", "onnxscript", "tensorrt", "tensorrt_rtx_cu13_libs"),
        "aoti": (),
        "ncnn": ("ncnn", "pnnx"),
        "mnn": ("onnx", "onnxscript", "mnn"),
    }[to]
    return {"convbench": __version__, "torch": torch.__version__, **packages.versions(*names)}


RUN = {
    "onnx": """\
import numpy, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
(out,) = session.run(["out"], {"x": x, "t": t, "y": y})""",
    "openvino": """\
import openvino
model = openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
out = model({"x": x, "t": t, "y": y})["out"]""",
    "aoti": """\
import torch
out = torch._inductor.aoti_load_package("model.pt2")(*map(torch.from_numpy, (x, t, y)))""",
    **dict.fromkeys(
        ("ncnn", "mnn"),
        """\
from convbench.export.runtimes import opened
with opened(pathlib.Path(".")) as step:
    out = step(*map(torch.from_numpy, (x, t, y)))""",
    ),
    "tensorrt": """\
from convbench.export.runtimes import opened
with opened(pathlib.Path(".")) as step:
    out = step(*(torch.from_numpy(v).cuda() for v in (x, t, y)))""",
}


def readme(manifest: Manifest, found: dict[str, Any]) -> str:
    """Write a readme for a reader who only has this folder."""
    ports = "\n".join(
        f"| {way} | {port.name} | {port.dtype} | {', '.join(map(str, port.shape))} |"
        for way, port in [*(("in", port) for port in manifest.inputs), *(("out", port) for port in manifest.outputs)]
    )
    ranges = "\n".join(f"* {name}: {low} to {high}" for name, (low, high) in manifest.dimensions.items())
    sizes = {"batch": manifest.batch[0], **{name: low for name, (low, _) in manifest.dimensions.items()}}
    made = "\n".join(
        f"{port.name} = numpy.{'random.standard_normal' if port.name == 'x' else 'full'}"
        f'({_size(port.shape, sizes)}{"" if port.name == "x" else ", 7"}).astype("{port.dtype}")'
        for port in manifest.inputs
    )
    beside = " Keep `model.onnx` and `model.onnx.data` together." if manifest.details.get("external_data") else ""
    target = ", ".join(f"{key} {value}" for key, value in manifest.target.items())
    return f"""# {manifest.model} at {manifest.res} pixels, {manifest.to}, {manifest.precision}

The noise-predicting network of a diffusion model, made by convbench on {manifest.created_utc} with

    {manifest.command or "convbench.export"}

Weights: {manifest.weights["source"]}. Runs on: {target}.{beside}

| | name | type | shape |
| --- | --- | --- | --- |
{ports}

{ranges}

x: the noisy latents. t: the timestep of each image. y: its class, or the number of classes for none.

    import numpy, pathlib, torch
{_indented(made)}
{_indented(RUN[manifest.to])}

Verification: {found["status"]}. {found["reason"]} Do it again with

    {_verify_again(manifest)}

which compares with the PyTorch network and says which layer differs first, should one. `manifest.json` holds the
hashes of all files, the versions they were made with and everything else that is known.
"""


def _verify_again(manifest: Manifest) -> str:
    """The command, with what convbench does not take from a manifest."""
    parts = ["convbench", "verify", "."]
    parts += ["--model", manifest.model] if ":" in manifest.model else []
    parts += ["--weights", manifest.weights["source"]] if not is_self_contained(manifest) else []
    parts += ["--trust-native"] if manifest.to in NATIVE else []
    return shlex.join(parts)


def is_self_contained(manifest: Manifest) -> bool:
    """True if the weights are random or part of convbench."""
    return manifest.weights["source"] in (RANDOM, SHIPPED)


def _size(shape: tuple[int | str, ...], sizes: dict[str, int]) -> str:
    def number(extent: int | str) -> int:
        if isinstance(extent, int):
            return extent
        factor, _, name = extent.rpartition("*")
        return int(factor or 1) * sizes[name]

    return f"({', '.join(map(str, map(number, shape)))},)"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
