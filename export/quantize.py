"""INT8 for ONNX files: QDQ by ONNX Runtime's static quantiser, its ranges taken from trajectories of a sampler."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convbench.clock import Inputs
from convbench.sampling import samplers
from convbench.sampling.noise import PerImage, classes

from . import packages
from .shapes import Shapes

STEPS, IMAGES = 16, 2  # of the trajectories
OPERATORS = ("Conv", "Gemm", "MatMul")


def write(source: Path, out: Path, model: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """Quantise an ONNX file of opset 20 (from 21 on the quantiser writes what runtimes refuse).

    Weights per channel, activations per tensor, both symmetric. Biases stay float32, as TensorRT refuses int32 ones.
    """
    quantization = packages.require("onnxruntime.quantization")
    steps = list(trajectory(model, shapes))
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
    return {"calibration": f"{len(steps)} steps of {IMAGES} images, {_sampler(shapes).name}"}


def _sampler(shapes: Shapes) -> Any:
    return samplers.create("euler" if shapes.takes.predicts == "velocity" else "ddim", steps=STEPS)


def trajectory(model: nn.Module, shapes: Shapes) -> Iterator[Inputs]:
    """What a network is given while it samples: (x, t, y) of every step of a deterministic sampler."""
    seen: list[Inputs] = []
    batch = min(IMAGES, shapes.batch[1])
    images = range(batch)
    noise = PerImage(0, images, (shapes.takes.channels, shapes.side, shapes.side))
    y = shapes.inputs(batch)[2] if shapes.takes.caption else torch.tensor(classes(0, images, shapes.takes.classes))

    def watched(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t, y))
        return model(x, t, y)

    with torch.inference_mode():
        for _ in _sampler(shapes).trajectory(watched, noise.start(), noise):
            yield seen.pop()


class _Reader:
    """Hands the quantiser one step after the other."""

    def __init__(self, steps: list[Inputs]) -> None:
        self.left = iter(steps)

    def get_next(self) -> dict[str, Any] | None:
        found = next(self.left, None)
        if found is None:
            return None
        x, t, y = found
        return {"x": x.numpy(), "t": t.contiguous().numpy(), "y": y.numpy()}
