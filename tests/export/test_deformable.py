"""FlowDCN's sampling as ONNX, run by another runtime: at every kind of place, at other batches and sizes."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn

from convbench.catalogue import Signature
from convbench.export import onnx
from convbench.export.shapes import Shapes
from convbench.models.deformable import sample_and_sum
from convbench.models.flowdcn import FlowDCN
from convbench.models.random_weights import fill

CLASSES = 10


class Sampling(nn.Module):
    """The operator alone behind a network's arguments: x holds the values, the offsets and the weights."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        values, offsets, weights = x.permute(0, 2, 3, 1).split((8, 36, 18), dim=3)
        grid = (*values.shape[:3], 2)
        sampled = sample_and_sum(
            values.reshape(*grid, 4), 3 * offsets.reshape(*grid, 9, 2), weights.reshape(*grid, 9)
        )  # places up to ten tokens outside of the grid
        return sampled.flatten(3).permute(0, 3, 1, 2) + (t + y)[:, None, None, None]


def flowdcn() -> nn.Module:
    network = FlowDCN(32, 1, 2, 2, num_classes=CLASSES)
    fill(network)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("name", ["operator", "network"])
def test_another_runtime_samples_the_same(name: str, tmp_path: Path) -> None:
    network = (Sampling() if name == "operator" else flowdcn()).eval().requires_grad_(False)
    takes = Signature(channels=62 if name == "operator" else 4, classes=CLASSES, t_end=1, predicts="velocity")
    shapes = Shapes(takes, (1, 4), 8, 2, (4, 16), 4)
    operators = onnx.write(network, shapes, tmp_path / "model.onnx")["operators"]
    assert operators["Gather"] >= 4 and "GridSample" not in operators  # a gather for each corner
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch, height, width in ((1, 4, 4), (3, 6, 16), (4, 12, 8)):
        inputs = shapes.inputs(batch, height, width)
        (found,) = session.run(["out"], {n: v.numpy() for n, v in zip("xty", inputs, strict=True)})
        assert_close(torch.from_numpy(found), network(*inputs), "fp32")
