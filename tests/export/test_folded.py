"""A small EDM2 with folded weights as ONNX, run by another runtime. The families themselves: test_export.py."""

from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from tolerances import assert_close

from convbench.catalogue import find
from convbench.export import onnx
from convbench.export.shapes import Shapes
from convbench.models.edm2_ablations import FoldedEDM2
from convbench.models.random_weights import fill

CLASSES = 10
EDM2_SIZE = {"width": 16, "multipliers": [1, 2], "depth": 1, "attention_at": [8], "head_width": 16, "res": 128}


@pytest.mark.slow
def test_another_runtime_computes_the_same(tmp_path: Path) -> None:
    network = FoldedEDM2(**EDM2_SIZE, num_classes=CLASSES)
    fill(network)
    network.eval().requires_grad_(False)
    takes = replace(find("edm2_xs").signature, classes=CLASSES)
    shapes = Shapes(takes, (1, 4), 16, out_channels=takes.channels)
    onnx.write(network, shapes, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        inputs = shapes.inputs(batch)
        with torch.inference_mode():
            expected = network(*inputs)
        assert 0.05 < expected.std() < 20
        (found,) = session.run(["out"], {n: v.numpy() for n, v in zip("xty", inputs, strict=True)})
        assert_close(torch.from_numpy(found), expected, "fp32", scale=max(1.0, expected.std().item()))
