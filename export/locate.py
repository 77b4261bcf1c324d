"""First layer of a wrong artefact that differs from the network, by bisection over values of its graph.

Only values that lie one behind the other can be bisected: what depends on a wrong value is wrong, what does not may
be right though it is computed later. So a longest chain of layers is searched first, and then what leads to its first
wrong member but not to the last right one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convbench import packages
from convbench.checks.output import relative_error
from convbench.errors import UsageError
from convbench.files import read_json
from convbench.schema.typecheck import problem
from convbench.timing.clock import Inputs
from convbench.tolerances import RELATIVE_L2

from . import folder, onnxruntime, openvino
from .manifest import Manifest
from .onnx import Layer

Found = dict[str, Any]
Tap = tuple[str, str]
"""Name of a module, and "in" or "out"."""
Graph = dict[str, tuple[str, list[str]]]
"""Each value: the kind of operator that makes it, and what from. In order of computation."""
PLUMBING = ("Constant", "Convert", "Parameter", "Shape", "ShapeOf")


def first_difference(artefact: Path, manifest: Manifest, network: nn.Module, inputs: Inputs) -> Found | None:
    """The first layer that differs, for inputs on which the output does: ``layer``, ``relative_l2`` and ``text``.

    None where the runtime shows nothing of its inside (AOTInductor, TensorRT).
    """
    if not (artefact / folder.LAYERS).is_file():
        return None
    layers: list[Layer] = read_json(artefact / folder.LAYERS)
    if misfit := problem(layers, list[dict[str, str]]):
        raise UsageError(f"{folder.LAYERS} holds {misfit}")
    graph = (
        _onnx_graph(artefact / manifest.entry) if manifest.to == "onnx" else _openvino_graph(artefact / manifest.entry)
    )
    expected = captured(network, inputs)
    places = [(layer["value"], (layer["layer"], layer["side"])) for layer in layers]
    places = [(value, tap) for value, tap in places if tap in expected]
    # A value is the output of one layer and the input of the next; of nested layers the innermost comes last.
    taps = dict(sorted(places, key=lambda place: place[1][1] == "out"))
    lost = next((name for value, (name, side) in places if value not in graph and side == "out"), None)
    if lost:
        return {"layer": lost, "relative_l2": None, "text": f"the layer {lost} is missing from the file"}
    order = {value: index for index, value in enumerate(graph)}
    taps = {value: taps[value] for value in sorted(taps, key=lambda value: order.get(value, -1)) if value in graph}
    given = {name: value for value, (name, side) in places if side == "in" and value in taps}
    limit = RELATIVE_L2[manifest.precision]
    errors: dict[str, float] = {}

    def wrong(values: Sequence[str]) -> list[str]:
        """Those of the values that differ."""
        asked = [value for value in values if value not in errors]
        if asked:
            for value, out in zip(asked, _values(artefact, manifest, inputs, asked), strict=True):
                errors[value] = worst_image(out.float(), expected[taps[value]].float())
        return [value for value in values if not errors[value] <= limit]

    chain = longest_chain(graph, set(taps))
    position = bisect(chain, lambda value: bool(wrong([value])))
    behind = ancestors(graph, chain[position]) if position < len(chain) else set(graph)
    known = ancestors(graph, chain[position - 1]) if position else set()
    suspects = [value for value in taps if value in behind - known]
    found = wrong(suspects)
    first = next((value for value in found if not ancestors(graph, value) & (set(found) - {value})), None)
    if first is None:
        text = "no layer differs once its values are looked at: the runtime's own optimisation changes the result"
        return {"layer": None, "relative_l2": None, "text": text}
    name, _ = taps[first]
    return {"layer": name, "relative_l2": errors[first], "text": _text(graph, taps, first, given, errors, wrong)}


def _text(
    graph: Graph,
    taps: dict[str, Tap],
    first: str,
    given: dict[str, str],
    errors: dict[str, float],
    wrong: Callable[[Sequence[str]], list[str]],
) -> str:
    """Place of the difference, in words: the layer itself, or the operators before it that belong to no layer."""
    name, side = taps[first]
    told = f"the first layer to differ is {name} (relative error {errors[first]:.1e})"
    between = _operators_before(graph, set(taps), first)
    agrees = side == "out" and name in given and not wrong([given[name]])
    if agrees or (side == "out" and len(between) == 1):
        return f"{told}: what it is given agrees, so its own weights or its operator do not"
    where = "what it is given" if side == "in" else "its output"
    return f"{told}: {where} differs, behind the operators {', '.join(dict.fromkeys(between))}"


def _operators_before(graph: Graph, known: set[str], value: str) -> list[str]:
    """The kinds of operators between a value and the known ones that it is made from."""
    todo, seen, kinds = [value], set(), []
    while todo:
        at = todo.pop()
        if at in seen or at not in graph or (at in known and at != value):
            continue
        seen.add(at)
        kind, needs = graph[at]
        if kind not in PLUMBING:
            kinds.append(kind)
        todo += needs
    return kinds


def worst_image(out: Tensor, reference: Tensor) -> float:
    """Largest relative L2 error of an image in (B, ...) outputs; infinite for another shape or non-finite values."""
    if out.shape != reference.shape:
        return float("inf")
    return max(relative_error(mine, theirs) for mine, theirs in zip(out, reference, strict=True))


def captured(network: nn.Module, inputs: Inputs) -> dict[Tap, Tensor]:
    """Record outputs of all modules, and first inputs of leaf modules, that are called once.

    Args:
        inputs: x (B, C, H, W), t (B,) and y (B,) or (B, tokens, width).
    """
    calls: dict[str, int] = {}
    found: dict[Tap, Tensor] = {}

    def watch(name: str, leaf: bool) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if leaf and given and isinstance(given[0], Tensor):
                found[name, "in"] = given[0].clone()
            if isinstance(out, Tensor):
                found[name, "out"] = out.clone()

        return hook

    hooks = [
        module.register_forward_hook(watch(name, not any(True for _ in module.children())))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.inference_mode():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {tap: value for tap, value in found.items() if calls[tap[0]] == 1}


def bisect(chain: Sequence[str], wrong: Callable[[str], bool]) -> int:
    """Index of the first wrong member, if all behind a wrong one are wrong; the length of the chain if none is."""
    low, high = 0, len(chain)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wrong(chain[middle]) else (middle + 1, high)
    return low


def longest_chain(graph: Graph, marked: set[str]) -> list[str]:
    """The most marked values of which each depends on the one before. ``graph`` is in order of computation."""
    length: dict[str, int] = {}
    before: dict[str, str | None] = {}
    for value, (_, needs) in graph.items():
        best = max((need for need in needs if need in length), key=lambda need: length[need], default=None)
        length[value] = (length[best] if best else 0) + (value in marked)
        before[value] = best
    at = max(length, key=lambda value: length[value], default=None)
    chain = []
    while at is not None:
        if at in marked:
            chain.append(at)
        at = before[at]
    return chain[::-1]


def ancestors(graph: Graph, value: str) -> set[str]:
    """The value and everything it depends on."""
    found: set[str] = set()
    todo = [value]
    while todo:
        at = todo.pop()
        if at in graph and at not in found:
            found.add(at)
            todo += graph[at][1]
    return found


def _onnx_graph(file: Path) -> Graph:
    nodes = packages.require("onnx").load(str(file), load_external_data=False).graph.node
    return {value: (node.op_type, list(node.input)) for node in nodes for value in node.output}


def _openvino_graph(file: Path) -> Graph:
    model = packages.require("openvino").Core().read_model(str(file))
    graph: Graph = {}
    for node in model.get_ordered_ops():
        needs = [_name(node.input_value(index)) for index in range(node.get_input_size())]
        for output in node.outputs():
            kind = (node.get_type_name(), needs)
            graph[_name(output)] = kind
            for name in output.get_names():
                graph[name] = kind
    return graph


def _name(output: Any) -> str:
    return min(output.get_names(), default=f"{output.get_node().get_friendly_name()}:{output.get_index()}")


def _values(artefact: Path, manifest: Manifest, inputs: Inputs, names: Sequence[str]) -> list[Tensor]:
    """Values of the artefact at these places."""
    given = dict(zip(("x", "t", "y"), (v.numpy() for v in inputs), strict=True))
    file = artefact / manifest.entry
    if manifest.to == "onnx":
        found = onnxruntime.session(file, taps=names).run(list(names), given)
        return [torch.from_numpy(value) for value in found]
    compiled = openvino.session(file, taps=tuple(names))
    request = compiled.create_infer_request()
    request.infer(given)
    return [torch.from_numpy(request.get_tensor(name).data.copy()) for name in names]
