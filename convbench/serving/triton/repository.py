"""Writing a model repository for Triton: config.pbtxt, the artefact, and model.py where its Python backend runs it.

Field names: github.com/triton-inference-server/common, protobuf/model_config.proto.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from convbench.errors import UsageError

from ...export import folder
from ...export.folder import Manifest, Port
from ..served import extents, last_class, safe_name

BACKENDS = {  # that can run a target; the first is taken unless another is asked for
    "onnx": ("onnxruntime", "python"),
    "tensorrt": ("tensorrt",),
    "openvino": ("openvino", "python"),
    "aoti": ("python",),
    "ncnn": (),
    "mnn": (),
}
TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
ENTRIES = (".onnx", ".plan", ".xml", ".pt2")  # never a .py, which Triton's Python would import
NAME, FILE = re.compile(r"[A-Za-z0-9_]+"), re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")
PLACES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan", "openvino": "model.xml"}  # where Triton looks
GUIDED = "_guided"


@dataclass(frozen=True)
class Deployment:
    """Settings of Triton for an artefact."""

    backend: str | None = None  # one of BACKENDS; None for the first
    max_batch: int | None = None  # None for the artefact's most
    max_delay_s: float = 0.005
    queue: int = 256  # requests
    instances: int = 1
    threads: int = 0  # of an instance on a processor; 0 for what the runtime takes
    guidance: bool = False


def deploy(artefact: Path, out: Path, wanted: Deployment, force: bool = False) -> list[str]:
    """Write the repository ``out``, whole or not at all. Returns the names of its models.

    Raises UsageError for an artefact that Triton cannot run so, or that is damaged.
    """
    manifest = folder.read(artefact)
    if changed := folder.changed_files(artefact, manifest):
        raise UsageError(f"{artefact} is damaged: {'; '.join(changed)}: export it again")
    backend = chosen(manifest, wanted)
    name = safe_name(manifest.model)
    names = [name]
    with folder.making(out, force) as partial:
        _model(partial / name, artefact, manifest, backend, wanted)
        if wanted.guidance:
            names.append(name + GUIDED)
            _guided(partial / names[1], name, manifest, wanted)
        (partial / folder.README).write_text(readme(manifest, names, backend), "utf-8")
        (partial / folder.MANIFEST).write_text(folder.text_of(manifest), "utf-8")
    return names


def chosen(manifest: Manifest, wanted: Deployment) -> str:
    """The backend. Raises UsageError where what is wanted cannot be."""
    able = BACKENDS[manifest.to]
    if not able or "kernels" in manifest.target:
        what = f"{manifest.to} files" if not able else "files with --conv winograd"
        raise UsageError(f"Triton runs no {what}: export with --to onnx, or serve it with `convbench serve`")
    backend = wanted.backend or able[0]
    if backend not in able:
        raise UsageError(f"--backend {backend} does not run {manifest.to}: {', '.join(able)} can")
    if manifest.to == "tensorrt" and "RTX" in manifest.target["library"]:
        raise UsageError("Triton runs no engines of TensorRT-RTX: export with --to onnx, or with TensorRT on a GPU")
    if manifest.batch[0] > 1:
        raise UsageError(
            f"this artefact takes at least {manifest.batch[0]} images, and Triton's batches may be smaller: "
            f"export with --batch 1..{manifest.batch[1]}"
        )
    if wanted.max_batch and wanted.max_batch > manifest.batch[1]:
        raise UsageError(
            f"--max-batch {wanted.max_batch} is too large: this artefact takes at most {manifest.batch[1]} images"
        )
    entry = manifest.entry
    if entry not in manifest.files or not FILE.fullmatch(entry) or not entry.endswith(ENTRIES):
        raise UsageError(f"{ascii(entry)[:80]} is not a listed file that Triton can run: export the artefact again")
    takes = manifest.signature
    if wanted.guidance and (takes.caption or not takes.null_class):
        raise UsageError(f"--guidance is not possible for {manifest.model}: it has no index for the null class")
    if wanted.guidance and takes.guidance_interval:
        raise UsageError(f"--guidance is not possible for {manifest.model}: it is guided only within an interval of t")
    return backend


def _model(into: Path, artefact: Path, manifest: Manifest, backend: str, wanted: Deployment) -> None:
    version = into / "1"
    version.mkdir(parents=True)
    facts: dict[str, str] = {}
    entry = Path(manifest.entry)
    weights = (entry.with_suffix(".bin").name, f"{entry.name}.data")  # as OpenVINO and ONNX name them
    places = {entry.name: PLACES.get(backend, entry.name)} | {name: name for name in weights if name in manifest.files}
    for name, place in places.items():  # hashed once more: somebody may write into the artefact's folder meanwhile
        if changed := folder.copied(artefact / name, version / place, manifest.files[name]):
            raise folder.Damaged(artefact, [changed])
    if backend == "python":
        shutil.copyfile(Path(__file__).with_name("step.py"), version / "model.py")
        facts = {"artefact": manifest.to, "entry": manifest.entry, "threads": str(wanted.threads)}
        last = last_class(manifest.signature)
        facts |= {} if last is None else {"last_class": str(last)}
    elif backend == "onnxruntime" and wanted.threads:
        facts = {"intra_op_thread_count": str(wanted.threads)}
    kind = "KIND_CPU" if manifest.target["device"] == "cpu" else "KIND_GPU"
    inputs = [*manifest.inputs]
    config = _config(into.name, backend, inputs, manifest, wanted, kind, facts)
    (into / "config.pbtxt").write_text(config, "utf-8")


def _guided(into: Path, model: str, manifest: Manifest, wanted: Deployment) -> None:
    from convbench.sampling.guidance import PAPER_CHANNELS

    takes = manifest.signature
    (into / "1").mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("guidance.py"), into / "1" / "model.py")
    channels = takes.guided_channels or min(PAPER_CHANNELS, takes.channels)
    facts = {"model": model, "null_class": str(takes.classes), "channels": str(channels)}
    inputs = [*manifest.inputs, Port("cfg_scale", "float32", (manifest.inputs[1].shape[0],))]
    (into / "config.pbtxt").write_text(
        _config(into.name, "python", inputs, manifest, wanted, "KIND_CPU", facts, warm_up=False), "utf-8"
    )


def _quoted(text: str) -> str:
    """Quote a text for config.pbtxt. Raises UsageError unless it is letters, digits, underscores and single dots."""
    if not (NAME.fullmatch(text) or FILE.fullmatch(text)):
        raise UsageError(f"{ascii(text)[:80]} is not a name that Triton's configuration can hold: export it again")
    return f'"{text}"'


def _config(
    name: str,
    backend: str,
    inputs: list[Port],
    manifest: Manifest,
    wanted: Deployment,
    kind: str,
    facts: dict[str, str],
    warm_up: bool = True,
) -> str:
    """The text of a config.pbtxt."""
    batch = wanted.max_batch or manifest.batch[1]
    lines = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        f"max_batch_size: {batch}",
        *(line for port in inputs for line in _port("input", port)),
        *(line for port in manifest.outputs for line in _port("output", port)),
        "dynamic_batching {",
        f"  max_queue_delay_microseconds: {round(1e6 * wanted.max_delay_s)}",
        f"  default_queue_policy {{ max_queue_size: {wanted.queue} }}",
        "}",
        f"instance_group [ {{ count: {wanted.instances} kind: {kind} }} ]",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if warm_up:
        lines += [
            "model_warmup [",
            *(f"  {line}" for size in sorted({1, batch}) for line in _warm_up(size, inputs, manifest)),
            "]",
        ]
        last = max(i for i, line in enumerate(lines) if line == "  },")
        lines[last] = "  }"
    for key, value in facts.items():
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    return "\n".join(lines) + "\n"


def _port(way: str, port: Port) -> list[str]:
    """1-D inputs: Triton wants at least one extent behind the batch, so clients send (N, 1)."""
    extents = [extent if isinstance(extent, int) else -1 for extent in port.shape[1:]]
    shape = f"dims: [ {', '.join(map(str, extents))} ]" if extents else "dims: [ 1 ] reshape { shape: [ ] }"
    return [f"{way} {{", f"  name: {_quoted(port.name)}", f"  data_type: {TYPES[port.dtype]}", f"  {shape}", "}"]


def _warm_up(batch: int, inputs: list[Port], manifest: Manifest) -> list[str]:
    """Before the model counts as ready: an image, and a full batch of the smallest size."""
    lines = ["{", f'  name: "{batch} of the smallest"', f"  batch_size: {batch}"]
    for port in inputs:
        dims = [
            extent if isinstance(extent, int) else extents(manifest, axis)[0]
            for axis, extent in enumerate(port.shape[1:], start=1)
        ] or [1]
        data = "random_data" if port.name == "x" else "zero_data"
        value = f"data_type: {TYPES[port.dtype]} dims: [ {', '.join(map(str, dims))} ] {data}: true"
        lines.append(f"  inputs {{ key: {_quoted(port.name)} value {{ {value} }} }}")
    return [*lines, "},"]


def readme(manifest: Manifest, names: list[str], backend: str) -> str:
    """Write a readme for the operator of the server."""
    inputs = "\n".join(
        f"    {port.name}: {port.dtype} ({', '.join(map(str, ('N', *(port.shape[1:] or ['1']))))})"
        for port in manifest.inputs
    )
    guided = (
        f"\n`{names[1]}` takes cfg_scale: float32 (N, 1) besides and guides: it asks `{names[0]}` for every\n"
        "image with and without its class.\n"
        if len(names) > 1
        else ""
    )
    limits = json.dumps(manifest.dimensions)
    return f"""# A model repository for NVIDIA Triton Inference Server

`{names[0]}`: {manifest.model} at {manifest.res} pixels, {manifest.to}, {manifest.precision}. Backend: {backend}.

    tritonserver --model-repository .

{inputs}
    out: float32 ({", ".join(map(str, ("N", *manifest.outputs[0].shape[1:])))})

Limits: {limits}. t and y have a second extent of 1, which Triton needs.
{guided}
manifest.json is that of the artefact: its versions, weights and hashes.
"""
