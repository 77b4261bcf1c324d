"""Half precision for ONNX files, by NVIDIA's AutoCast: products in fp16 or bf16, what would overflow in fp32."""

import ast
import logging
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from convbench import packages
from convbench.models.fcdm import GlobalResponseNorm
from convbench.models.gla import GLA

from .shapes import Shapes

POOLS = ("ReduceL2", "ReduceMean", "GlobalAveragePool")  # sums over a whole image
PRODUCTS = ("Gemm", "MatMul", "Conv", "Attention")


def write(source: Path, out: Path, precision: str, model: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """Convert an ONNX file to "fp16" or "bf16"; its inputs and its output stay float32."""
    import numpy as np

    autocast = packages.require("modelopt.onnx.autocast")
    onnx = packages.require("onnx")
    graph = onnx.load(str(source), load_external_data=False).graph
    wide = sensitive(graph, model)
    # Without data it makes up inputs, and for dimensions that vary too small ones.
    example = dict(zip(("x", "t", "y"), (v.numpy() for v in shapes.example()), strict=True))
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        np.savez(Path(scratch) / "example.npz", allow_pickle=False, **example)
        try:
            converted = autocast.convert_to_mixed_precision(
                str(source),
                low_precision_type=precision,
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in sorted(wide)],
                op_types_to_exclude=list(POOLS),
                keep_io_types=True,
                calibration_data=str(Path(scratch) / "example.npz"),
            )
        finally:
            logging.disable(logging.NOTSET)
    beside = converted.ByteSize() > 0.9 * 2**31
    onnx.save(converted, str(out), save_as_external_data=beside, location=f"{out.name}.data")
    kinds = {value.name: value.data_type for value in converted.graph.initializer}
    half = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
    return {
        "opset": next(entry.version for entry in converted.opset_import if not entry.domain),
        "external_data": beside,
        "half_weights": sum(kind == half for kind in kinds.values()),
        "kept_fp32": len(wide),
    }


def sensitive(graph: Any, model: nn.Module) -> set[str]:
    """Names of the nodes that must stay float32.

    The timestep code, as steps up to 999 have no room in half precision; the response of the global response norm, a
    sum of squares; the decays of linear attention, which are exponentials.
    """
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for value in node.input:
            users.setdefault(value, []).append(node)

    def until(values: list[str], last: tuple[str, ...], included: bool) -> set[str]:
        """The nodes behind these values up to the next of those kinds."""
        found: set[str] = set()
        while values:
            for node in users.get(values.pop(), []):
                if node.name in found or (node.op_type in last and not included):
                    continue
                found.add(node.name)
                if node.op_type not in last:
                    values.extend(node.output)
        return found

    wide = until(["t"], PRODUCTS, included=False)
    for node in graph.node:
        if node.op_type == "ReduceL2":
            wide |= {node.name} | until(list(node.output), ("Div",), included=True)
    whole = {name for name, module in model.named_modules() if isinstance(module, GLA)}
    if any(isinstance(module, GlobalResponseNorm) for module in model.modules()) and not any(
        node.op_type == "ReduceL2" for node in graph.node
    ):
        raise AssertionError("the exporter no longer writes the response norm as ReduceL2: adapt the pattern")
    return wide | {node.name for node in graph.node if scopes(node) & whole}


def scopes(node: Any) -> set[str]:
    """The modules that a node of an ONNX file belongs to, as the exporter noted them."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
    return set(ast.literal_eval(noted))
