"""INT8 for ONNX files: QDQ by ONNX Runtime's static quantiser, its ranges taken from trajectories of a sampler."""

import logging
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from convbench import packages
from convbench.timing.clock import Inputs

from . import trajectories
from .shapes import Shapes

STEPS, IMAGES = 16, 2  # of the trajectories
OPERATORS = ("Conv", "MatMul")  # Gemm holds the conditioning: nothing to gain in it, and most of the error


def write(source: Path, out: Path, model: nn.Module, shapes: Shapes, trained: bool) -> dict[str, Any]:
    """Quantise an ONNX file of opset 20 (from 21 on the quantiser writes what runtimes refuse).

    Weights per channel, activations per tensor, both symmetric. Biases stay float32, as TensorRT refuses int32 ones;
    so do the first and the last convolution.

    Args:
        trained: whether the weights are more than random.
    """
    quantization = packages.require("onnxruntime.quantization")
    steps: list[Inputs] = []
    images = min(IMAGES, shapes.batch[1])
    trajectories.sample(model, shapes, STEPS, images, trained, lambda x, t, y: steps.append((x, t, y)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            quantization.quantize_static(
                str(source),
                str(out),
                _Reader(steps),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=ends(source),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"QuantizeBias": False, "ActivationSymmetric": True, "WeightSymmetric": True},
            )
        finally:
            logging.disable(logging.NOTSET)
    return {
        "calibration": f"{len(steps)} steps of {trajectories.sampler(shapes, STEPS, trained).name}, {images} images"
    }


def ends(source: Path) -> list[str]:
    """Names of the convolutions that read x and that write the output: everything passes through their few channels."""
    nodes = packages.require("onnx").load(str(source), load_external_data=False).graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    first = [node.name for node in convolutions if "x" in node.input]
    return first + [node.name for node in convolutions if "out" in node.output]


class _Reader:
    """Hands the quantiser one step after the other."""

    def __init__(self, steps: list[Inputs]) -> None:
        self.left = iter(steps)

    def get_next(self) -> dict[str, Any] | None:
        found = next(self.left, None)
        if found is None:
            return None
        x, t, y = found
        return {"x": x.numpy(), "t": t.numpy(), "y": y.numpy()}
