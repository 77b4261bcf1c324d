"""The KServe v2 protocol: a request's JSON and its binary tensors become arrays, checked; arrays become an answer.

Protocol: github.com/kserve/open-inference-protocol, and its binary tensor extension as Triton clients speak it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..export.folder import Port
from . import json_tensors
from .served import MOST_JSON_BYTES, Served, extents

Array = NDArray[Any]
DATATYPES = {"float32": "FP32", "int64": "INT64"}
ID_CHARACTERS = 256  # of a request
FIELDS = {
    "the request": ("id", "parameters", "inputs", "outputs"),
    "an input": ("name", "shape", "datatype", "parameters", "data"),
    "an output": ("name", "parameters"),
}
PARAMETERS = {
    "the request": ("binary_data_output",),
    "an input": ("binary_data_size",),
    "an output": ("binary_data",),
}


class Refused(Exception):
    """A request that gets an error instead of a result."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class InferenceRequest:
    """One request that was found right. x (N, C, H, W), t (N,), y (N,) or (N, tokens, width)."""

    id: str | None
    x: Array
    t: Array
    y: Array
    binary: bool  # whether the output goes back as bytes


def shown(given: Any) -> str:
    """Short ASCII form of a client's value for a message; of lists and objects only the kind."""
    if isinstance(given, str):
        return ascii(given[:80])[1:-1][:80]
    if isinstance(given, list | dict):
        return "a list" if isinstance(given, list) else "an object"
    return str(given)[:80]


def metadata(served: Served) -> dict[str, Any]:
    """Metadata of the model. -1 stands for an extent that may vary; "parameters" states its limits."""
    manifest = served.manifest

    def tensors(ports: Sequence[Port]) -> list[dict[str, Any]]:
        return [
            {
                "name": port.name,
                "datatype": DATATYPES[port.dtype],
                "shape": [-1, *(extent if isinstance(extent, int) else -1 for extent in port.shape[1:])],
            }
            for port in ports
        ]

    return {
        "name": served.name,
        "versions": ["1"],
        "platform": f"convbench_{manifest.to}",
        "inputs": tensors(manifest.inputs),
        "outputs": tensors(manifest.outputs),
        "parameters": {
            "max_batch": served.max_batch,
            "height": list(extents(manifest, 2)),
            "width": list(extents(manifest, 3)),
            "classes": served.last_class,
            "t_end": manifest.signature.t_end,
            "precision": manifest.precision,
            "weights_sha256": manifest.weights["sha256"],
        },
    }


def parse(body: bytes | bytearray, json_length: str | None, served: Served) -> InferenceRequest:
    """Read and check a request.

    Args:
        json_length: the header Inference-Header-Content-Length, where binary tensors follow the JSON.

    Raises Refused, status 400, or 413 for JSON that is too long, naming what is wrong and what would be right.
    """
    length = len(body)
    if json_length is not None:
        if not json_length.isdecimal() or len(json_length) > 12 or int(json_length) > len(body):
            raise Refused(400, "Inference-Header-Content-Length is not the length of the JSON in the body")
        length = int(json_length)
    if length > MOST_JSON_BYTES:
        raise Refused(
            413,
            f"the JSON has {length} bytes, at most {MOST_JSON_BYTES} are read: send the tensors in binary, with "
            "binary_data_size and the header Inference-Header-Content-Length",
        )
    text = body if length == len(body) else body[:length]
    if excess := json_tensors.excess(text, served.numbers, served.lists):
        raise Refused(400, f"the body is not a valid request: {excess}")
    try:
        content = json.loads(text.decode(), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {str(error)[:200]}") from None
    _require_fields(content, "the request")
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(entry, dict) for entry in inputs):
        raise Refused(400, "inputs must be a list of tensors")
    name = content.get("id")
    if name is not None and not (isinstance(name, str) and len(name) <= ID_CHARACTERS):
        raise Refused(400, f"id must be a text of at most {ID_CHARACTERS} characters")
    binary = _binary_output(content, served)
    found: dict[str, Array] = {}
    ports = {port.name: port for port in served.manifest.inputs}
    at = length
    for entry in inputs:
        _require_fields(entry, "an input")
        port = ports.get(entry.get("name")) if isinstance(entry.get("name"), str) else None
        if port is None or port.name in found:
            what = "is given twice" if port else "is not an input"
            raise Refused(400, f"'{shown(entry.get('name'))}' {what}: the inputs are {', '.join(ports)}")
        found[port.name], at = _tensor(entry, port, body, at)
    if missing := [name for name in ports if name not in found]:
        raise Refused(400, f"{', '.join(missing)} missing: the inputs are {', '.join(ports)}")
    if at != len(body):
        raise Refused(400, f"{len(body) - at} bytes follow the last binary tensor")
    request = _shaped(InferenceRequest(name, found["x"], found["t"], found["y"], binary), served)
    _require_values(request, served)
    return request


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, unless a key stands in it twice: a gateway may have looked at the other value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _require_fields(given: Any, what: str) -> None:
    """A misspelt field is named instead of being ignored."""
    if not isinstance(given, dict):
        raise Refused(400, f"{what} must be a JSON object")
    for allowed, fields in ((FIELDS[what], given), (PARAMETERS[what], given.get("parameters", {}))):
        if not isinstance(fields, dict):
            raise Refused(400, f"parameters of {what} must be a JSON object")
        if unknown := [key for key in fields if key not in allowed]:
            kind = "field" if fields is given else "parameter"
            raise Refused(400, f"unknown {kind} '{shown(unknown[0])}' of {what}; choose from {', '.join(allowed)}")


def _binary_output(content: dict[str, Any], served: Served) -> bool:
    binary = content.get("parameters", {}).get("binary_data_output", False)
    outputs = content.get("outputs") or []
    if not isinstance(outputs, list) or len(outputs) > 1:
        raise Refused(400, "outputs must be a list with the single entry out")
    for output in outputs:
        _require_fields(output, "an output")
        if output.get("name") != served.manifest.outputs[0].name:
            raise Refused(400, f"'{shown(output.get('name'))}' is not an output; the only output is out")
        binary = output.get("parameters", {}).get("binary_data", binary)
    if not isinstance(binary, bool):
        raise Refused(400, "binary_data and binary_data_output must be true or false")
    return binary


def _tensor(entry: dict[str, Any], port: Port, body: bytes | bytearray, at: int) -> tuple[Array, int]:
    """One input, and where in the body the next one's bytes begin."""
    wanted = DATATYPES[port.dtype]
    if entry.get("datatype") != wanted:
        raise Refused(400, f"{port.name} must be {wanted}, not {shown(entry.get('datatype'))}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 2**31 for n in shape) or len(shape) > 8:
        raise Refused(400, f"the shape of {port.name} must be a list of positive whole numbers")
    size = entry.get("parameters", {}).get("binary_data_size")
    if (size is None) == ("data" not in entry):
        raise Refused(400, f"{port.name} needs either data or the parameter binary_data_size")
    if size is None:
        try:
            return json_tensors.array(port.name, entry["data"], shape, port.dtype), at
        except ValueError as error:
            raise Refused(400, str(error)) from None
    expected = math.prod(shape) * np.dtype(port.dtype).itemsize
    if size != expected or isinstance(size, bool):
        raise Refused(400, f"{port.name} of shape {shape} has {expected} bytes, not {shown(size)}")
    if at + expected > len(body):
        raise Refused(400, f"{port.name} has {expected} bytes, of which {max(0, len(body) - at)} arrived")
    values = np.frombuffer(body, np.dtype(port.dtype).newbyteorder("<"), math.prod(shape), at)
    return values.reshape(shape), at + expected


def _shaped(request: InferenceRequest, served: Served) -> InferenceRequest:
    """The request, where its shapes are right: t and y of one extent may come as (N, 1), as Triton's clients send."""
    manifest = served.manifest
    changes = {}
    for port in manifest.inputs:
        value = getattr(request, port.name)
        said = f"{port.name} must have the shape [{', '.join(map(str, ('N', *port.shape[1:])))}]"
        if len(port.shape) == 1 and value.ndim == 2 and value.shape[1] == 1:
            value = changes[port.name] = value[:, 0]
        if value.ndim != len(port.shape):
            raise Refused(400, f"{said}, not {list(value.shape)}")
        if port.name == "x" and not 1 <= len(value) <= served.max_batch:
            raise Refused(400, f"x has {len(value)} images; a request may contain 1 to {served.max_batch}")
        if len(value) != len(request.x):
            raise Refused(400, f"{port.name} holds {len(value)} images, x {len(request.x)}")
        for axis, extent in enumerate(port.shape[1:], start=1):
            have = value.shape[axis]
            if isinstance(extent, int):
                if have != extent:
                    raise Refused(400, f"{said}, not {list(value.shape)}")
                continue
            low, high, multiple = extents(manifest, axis)
            if not low <= have <= high or have % multiple:
                side = {2: "height", 3: "width"}[axis]
                raise Refused(400, f"x has the {side} {have}: {low} to {high} in steps of {multiple} are possible")
    return replace(request, **changes) if changes else request


def _require_values(request: InferenceRequest, served: Served) -> None:
    for name, value in (("x", request.x), ("t", request.t), ("y", request.y)):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise Refused(400, f"{name} contains values that are not finite")
    last = served.last_class
    if last is not None and not ((request.y >= 0) & (request.y <= last)).all():
        raise Refused(400, f"y must lie between 0 and {last}")


def answer(request: InferenceRequest, out: Array, served: Served) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a result. JSON has no infinity: such an output goes back as bytes or not at all."""
    described: dict[str, Any] = {"name": "out", "datatype": "FP32", "shape": list(out.shape)}
    content: dict[str, Any] = {"model_name": served.name, "model_version": "1"}
    content |= {} if request.id is None else {"id": request.id}
    content |= {"outputs": [described]}
    if not request.binary:
        if not np.isfinite(out).all():
            raise Refused(500, "the output contains values that are not finite")
        beginning = json.dumps(content).removesuffix("}]}")
        text = f'{beginning}, "data": {json_tensors.text(out)}}}]}}'
        return text.encode(), {"content-type": "application/json"}
    raw = np.ascontiguousarray(out, "<f4").tobytes()
    described["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(content).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return head + raw, headers
