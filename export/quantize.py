"""INT8 for ONNX files: QDQ by ONNX Runtime's static quantiser, its ranges taken from trajectories of a sampler."""

import logging
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from convbench.clock import Inputs

from . import packages, trajectories
from .shapes import Shapes

STEPS, IMAGES = 16, 2  # of the trajectories
OPERATORS = ("Conv", "Gemm", "MatMul")


def write(source: Path, out: Path, model: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """Quantise an ONNX file of opset 20 (from 21 on the quantiser writes what runtimes refuse).

    Weights per channel, activations per tensor, both symmetric. Biases stay float32, as TensorRT refuses int32 ones.
    """
    quantization = packages.require("onnxruntime.quantization")
    steps: list[Inputs] = []
    images = min(IMAGES, shapes.batch[1])
    trajectories.sample(model, shapes, STEPS, images, lambda x, t, y: steps.append((x, t, y)))
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
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"QuantizeBias": False, "ActivationSymmetric": True, "WeightSymmetric": True},
            )
        finally:
            logging.disable(logging.NOTSET)
    return {"calibration": f"{len(steps)} steps of {trajectories.sampler(shapes, STEPS).name}, {images} images"}


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
