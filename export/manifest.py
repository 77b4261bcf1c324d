"""The manifest of an artefact, and the check of its fields: it may come from anybody."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from convbench.catalogue import Signature
from convbench.errors import printable
from convbench.schema.typecheck import record_problem, shown

from .targets import PRECISIONS, TARGETS

SCHEMA = 2
MOST_BYTES = 2**20  # of a manifest; a real one has some thousand
ENTRIES = {"onnx": "model.onnx", "openvino": "model.xml", "aoti": "model.pt2", "tensorrt": "engine.plan"}
ENTRIES |= {"ncnn": "model.ncnn.param", "mnn": "model.mnn"}
NATIVE = ("aoti", "tensorrt", "ncnn", "mnn")  # machine code, or what a runtime reads without checking it
MOST_FILES, MOST_DIMENSIONS = 32, 8
MOST_RES, MOST_EXTENT, MOST_BATCH, MOST_ELEMENTS = 8192, 2**16, 2**16, 2**32
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
EXTENT = re.compile(r"(?:([1-9][0-9]{0,3})\*)?([a-z][a-z0-9_]{0,31})")
SHA256 = re.compile(r"[0-9a-f]{64}")
AXES = {"x": (4,), "t": (1,), "y": (1, 3), "out": (4,)}
TYPES = {"x": ("float32",), "t": ("float32",), "y": ("int64", "float32"), "out": ("float32",)}
NEEDED = {  # of "target", by what reads it
    ("onnx", "cpu"): (),
    ("onnx", "cuda"): (),
    ("openvino", "cpu"): (),
    ("ncnn", "cpu"): (),
    ("mnn", "cpu"): (),
    ("aoti", "cpu"): ("torch", "capability"),
    ("aoti", "cuda"): ("torch", "gpu"),
    ("tensorrt", "cuda"): ("library", "gpu", "capability"),
}
LENGTHS = {"model": 400, "command": 2**16, "created_utc": 64}  # of texts


@dataclass(frozen=True)
class Port:
    """An input or output. ``shape``: numbers, and for what may vary a name or a multiple of one, such as "4*h4"."""

    name: str
    dtype: str  # float32 or int64
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Manifest:
    """Description of an artefact."""

    model: str  # an id of `convbench models`, or the class of a network of one's own
    res: int  # side of the decoded image, pixels
    to: str  # one of TARGETS
    precision: str  # one of PRECISIONS
    batch: tuple[int, int]  # the fewest and most images of a call
    dimensions: dict[str, tuple[int, int]]  # the smallest and largest value of each name in the shapes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    signature: Signature  # of the model when it was exported: serving reads it here and imports nothing of the model
    entry: str  # the file that a runtime opens
    weights: dict[str, str]  # "source" in words or a path, "sha256" of the parameters
    versions: dict[str, str]
    target: dict[str, str]  # where it runs: "device", and for compiled code what that must be
    command: str
    created_utc: str
    build_s: float
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # "sha256" and "bytes" of each
    details: dict[str, Any] = field(default_factory=dict)  # of one target: opset, packed operators, profiles

    @property
    def dynamic(self) -> bool:
        """True if height and width may vary."""
        return any(name != "batch" for name in self.dimensions)


def parsed(content: Any) -> Manifest:
    """The manifest of a JSON object without its "schema". Raises ValueError that says what is wrong with it."""
    if found := record_problem(content, Manifest):
        raise ValueError(found)
    known = {key: content[key] for key in (each.name for each in fields(Manifest)) if key in content}
    known["batch"] = tuple(content["batch"])
    known["dimensions"] = {name: (low, high) for name, (low, high) in content["dimensions"].items()}
    for key in ("inputs", "outputs"):
        known[key] = tuple(Port(port["name"], port["dtype"], tuple(port["shape"])) for port in content[key])
    takes = content["signature"]
    if missing := [each.name for each in fields(Signature) if each.name not in takes]:
        raise ValueError(f"signature: no {missing[0]}")
    lists = {key: tuple(value) for key, value in takes.items() if isinstance(value, list)}
    known["signature"] = Signature(**{**takes, **lists})
    manifest = Manifest(**known)
    for problems in (_of_files, _of_sizes, _of_ports, _of_signature, _of_the_rest):
        for problem in problems(manifest):
            raise ValueError(problem)
    return manifest


def _of_files(manifest: Manifest) -> Iterator[str]:
    for name in (manifest.entry, *manifest.files):
        if re.search(r"[/\\]|^\.*$", name):
            yield f"it names a file outside its folder: {shown(name)}"
        if len(name) > 100 or not FILE.fullmatch(name):
            yield f"{shown(name)} is not the name of a file of an artefact"
    if len({name.lower() for name in manifest.files}) < len(manifest.files):  # one file, where case does not count
        yield "two of its files have the same name but for case"
    if not 1 <= len(manifest.files) <= MOST_FILES:
        yield f"files: {len(manifest.files)} of them, where 1 to {MOST_FILES} can be"
    for name, facts in manifest.files.items():
        size, digest = facts.get("bytes"), facts.get("sha256")
        if set(facts) != {"bytes", "sha256"} or not isinstance(digest, str) or not SHA256.fullmatch(digest):
            yield f"{name} has no SHA-256 and number of bytes"
        if type(size) is not int or not 0 <= size < 2**40:
            yield f"{name} has bytes {shown(size)}"
    if manifest.to not in TARGETS:
        yield f"to {shown(manifest.to)}, which is not one of {', '.join(TARGETS)}"
    elif manifest.entry != ENTRIES[manifest.to]:
        yield f"entry {shown(manifest.entry)}, not {ENTRIES[manifest.to]}"
    elif manifest.entry not in manifest.files:
        yield f"its entry {manifest.entry} is not among its files, so nothing says what it should hold"


def _of_sizes(manifest: Manifest) -> Iterator[str]:
    low, high = manifest.batch
    if not 1 <= low <= high <= MOST_BATCH:
        yield f"batch {low} to {high}"
    if not 1 <= manifest.res <= MOST_RES:
        yield f"res {manifest.res}, where 1 to {MOST_RES} can be"
    if len(manifest.dimensions) > MOST_DIMENSIONS:
        yield f"{len(manifest.dimensions)} dimensions"
    for name, (least, most) in manifest.dimensions.items():
        if not NAME.fullmatch(name) or not 1 <= least <= most <= MOST_EXTENT:
            yield f"a dimension {shown(name)} from {least} to {most}"
    if manifest.dimensions.get("batch", (low, low)) != (low, high):
        yield "batch and dimensions that say different numbers of images"


def _of_ports(manifest: Manifest) -> Iterator[str]:
    names = [port.name for port in (*manifest.inputs, *manifest.outputs)]
    if names != list(AXES) or len(manifest.inputs) != 3:
        yield f"inputs and outputs other than {', '.join(AXES)}"
        return
    first = "batch" if manifest.batch[0] < manifest.batch[1] else manifest.batch[0]
    for port in (*manifest.inputs, *manifest.outputs):
        if port.dtype not in TYPES[port.name] or len(port.shape) not in AXES[port.name] or port.shape[0] != first:
            yield f"{port.name} of another type or shape than such an input or output has"
            return
        for extent in port.shape:
            if not _is_extent(extent, manifest):
                yield f"{port.name} with the extent {shown(extent)}"
                return
    x, _, y = manifest.inputs
    (out,) = manifest.outputs
    fixed = [x.shape[1], out.shape[1], *y.shape[1:]]
    if not all(isinstance(extent, int) for extent in fixed) or x.shape[2:] != out.shape[2:]:
        yield "channels or captions that vary, or an output of another size than x"
    if isinstance(x.shape[2], int) != isinstance(x.shape[3], int):
        yield "a height that varies beside a width that does not, or the reverse"
    if math.prod(_largest(extent, manifest) for extent in x.shape) > MOST_ELEMENTS:
        yield f"inputs of over {MOST_ELEMENTS} numbers"


def _is_extent(extent: int | str, manifest: Manifest) -> bool:
    if isinstance(extent, int):
        return 1 <= extent <= MOST_EXTENT
    found = EXTENT.fullmatch(extent)
    return found is not None and found[2] in manifest.dimensions


def _largest(extent: int | str, manifest: Manifest) -> int:
    if isinstance(extent, int):
        return extent
    factor, _, name = extent.rpartition("*")
    return int(factor or 1) * manifest.dimensions[name][1]


def _of_signature(manifest: Manifest) -> Iterator[str]:
    takes = manifest.signature
    numbers = (takes.channels, takes.factor, takes.classes, *(takes.caption or ()))
    if not all(1 <= number < 2**31 for number in numbers) or not 0 < takes.t_end <= 1e9:
        yield "a signature whose numbers are not above 0, or beyond all reason"
    if len(takes.predicts) > 100 or not set(takes.takes) <= set("xty") or len(takes.takes) > 3:
        yield "a signature that takes something else than x, t and y"
    x, _, y = manifest.inputs
    caption = takes.caption or ()
    if (x.shape[1], y.shape[1:], y.dtype) != (takes.channels, caption, "float32" if caption else "int64"):
        yield "inputs that its signature does not have"
    if manifest.res % takes.factor or any(
        side * takes.factor != manifest.res for side in x.shape[2:] if isinstance(side, int)
    ):
        yield f"x of other sides than {manifest.res} pixels have"


def _of_the_rest(manifest: Manifest) -> Iterator[str]:
    if manifest.precision not in PRECISIONS:
        yield f"precision {shown(manifest.precision)}, which is not one of {', '.join(PRECISIONS)}"
    device = manifest.target.get("device")
    needed = NEEDED.get((manifest.to, str(device)))
    if needed is None:
        yield f"target: device {shown(device)}, where no {manifest.to} file runs"
    elif missing := [key for key in needed if key not in manifest.target]:
        yield f"target: no {missing[0]}"
    if set(manifest.weights) != {"source", "sha256"} or not SHA256.fullmatch(manifest.weights["sha256"]):
        yield "weights without a source and a SHA-256"
    for key, most in LENGTHS.items():
        if len(getattr(manifest, key)) > most:
            yield f"{key} of over {most} characters"
    if not manifest.model or printable(manifest.model) != manifest.model or len(manifest.model.split("\n")) > 1:
        yield f"model {shown(manifest.model)}, which is not an id"
    if not 0 <= manifest.build_s <= 1e9:
        yield f"build_s {shown(manifest.build_s)}"
