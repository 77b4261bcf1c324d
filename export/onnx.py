"""ONNX: written by PyTorch's dynamo exporter, run by ONNX Runtime."""

import ast
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convbench import packages
from convbench.checks.operators import operators_seen
from convbench.errors import UsageError

from .manifest import ENTRIES
from .shapes import Shapes

ENTRY = ENTRIES["onnx"]
OPSET = 21  # the first with a GroupNormalization that runtimes know as one operator
OPSET_ATTENTION = 23  # the first with Attention
OPSET_INT8 = 20  # what ONNX Runtime's quantiser can read
PROTOBUF_LIMIT = 2**31  # a file of more bytes cannot be read: weights then lie beside it
Layer = dict[str, str]
"""``layer``: the name of a module; ``side``: in or out; ``value``: what its first input or its output is called."""


def write(model: nn.Module, shapes: Shapes, file: Path, opset: int = OPSET) -> dict[str, Any]:
    """Write a network in float32 and say what was written: opset, operators, layers."""
    ir = packages.require("onnx_ir")
    packages.require("onnxscript")
    with quietly(), torch.no_grad():
        program: Any = torch.onnx.export(
            model,
            shapes.example(),
            dynamo=True,
            opset_version=opset,
            input_names=["x", "t", "y"],
            output_names=["out"],
            dynamic_shapes=shapes.dynamic(),
            verbose=False,
        )
    graph = program.model
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    beside = size > 0.9 * PROTOBUF_LIMIT
    ir.save(graph, file, external_data=f"{file.name}.data" if beside else None)
    return {
        "opset": graph.opset_imports[""],
        "external_data": beside,
        "operators": _count(node.op_type for node in graph.graph),
        "layers": layers(graph, model),
    }


def tried(model: nn.Module, shapes: Shapes) -> tuple[int, int]:
    """Run the network once. Returns the channels of its output and the opset that suits it.

    Raises UsageError for a network in training mode, one that returns no images, and one whose output is zero or not
    finite: any file made from it would look right.
    """
    if any(module.training for module in model.modules()):
        raise UsageError("the network is in training mode: call model.eval() first, or dropout would be exported")
    device = next(model.parameters()).device
    with torch.inference_mode(), operators_seen() as served:
        out = model(*(v.to(device) for v in shapes.inputs(shapes.batch[0])))
    if out.dim() != 4:
        raise UsageError(f"the network returns {tuple(out.shape)}: only networks that return images can be exported")
    if not out.isfinite().all():
        raise UsageError("the output of the network is not finite: a file exported from it could not be verified")
    if not out.any():
        raise UsageError(
            "the output of the network is zero for random inputs: its gates still have their initial values, so any "
            "exported file would look right; load weights, or use convbench.create"
        )
    return out.shape[1], OPSET_ATTENTION if "attention" in served else OPSET


def layers(graph: Any, model: nn.Module) -> list[Layer]:
    """Values of the graph that are outputs of modules, and inputs of modules without modules inside.

    In the order in which they are computed. From the names of modules that the exporter notes on each node.
    """
    inner = {name for name, module in model.named_modules() if name}
    leaves = {name for name, module in model.named_modules() if name and not any(True for _ in module.children())}
    scopes = [_scopes(node) & inner for node in graph.graph]
    place = {id(node): index for index, node in enumerate(graph.graph)}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, (node, names) in enumerate(zip(graph.graph, scopes, strict=True)):
        for name in names:
            if node.inputs and node.inputs[0] is not None and not node.inputs[0].is_initializer():
                first.setdefault(name, index)
            used = [place[id(use.node)] for output in node.outputs for use in output.uses()]
            if len(node.outputs) == 1 and (not used or any(name not in scopes[user] for user in used)):
                last[name] = index
    found = [(first[name], 0, name) for name in first if name in leaves]
    found += [(index, 1, name) for name, index in last.items()]
    nodes = list(graph.graph)
    return [
        {
            "layer": name,
            "side": "out" if out else "in",
            "value": nodes[index].outputs[0].name if out else nodes[index].inputs[0].name,
        }
        for index, out, name in sorted(found)
    ]


def _scopes(node: Any) -> set[str]:
    noted = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    return set(ast.literal_eval(noted)) if noted else set()


def _count(kinds: Iterator[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for kind in kinds:
        counted[kind] = counted.get(kind, 0) + 1
    return dict(sorted(counted.items()))


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress messages of the exporter about torchvision, deprecation and names of dimensions."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
