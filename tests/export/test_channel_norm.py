"""Norms over the channels of a map are rewritten for OpenVINO, compute the same, and nothing else is touched."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tolerances import RELATIVE_L2
from torch import Tensor, nn

from convbench.export import channel_norm

ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")

pytestmark = [  # of PyTorch's exporter, about itself
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Norms(nn.Module):
    """A norm over channels without and with a scale, and one over the columns of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(-1, 2, 12))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 12, H, 5) -> the same shape."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), (12,), eps=3e-2).permute(0, 3, 1, 2)
        z = F.layer_norm((2 * x).permute(0, 2, 3, 1), (12,), weight=self.scale, eps=1e-6).permute(0, 3, 1, 2)
        return y * 2 + z + F.layer_norm(x, (5,), eps=1e-6)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("norms") / "norms.onnx"
    with torch.no_grad():
        torch.onnx.export(Norms().eval(), (torch.randn(2, 12, 4, 5),), path, dynamo=True, opset_version=21)
    return path


def computed(file: Path, x: Tensor) -> Tensor:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x)})[0])


def test_it_computes_the_same_without_transposes(file: Path, tmp_path: Path) -> None:
    graph = ir.load(file)
    assert channel_norm.rewrite(graph) == 2
    kinds = [node.op_type for node in graph.graph]
    assert "Transpose" not in kinds and kinds.count("LayerNormalization") == 1
    ir.save(graph, tmp_path / "rewritten.onnx")
    x = torch.randn(2, 12, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 5
    with torch.no_grad():
        right = Norms().double()(x.double())
    for each in (file, tmp_path / "rewritten.onnx"):
        error = (computed(each, x).double() - right).norm() / right.norm()
        assert error < RELATIVE_L2["fp32"]


def test_a_norm_whose_transposed_map_is_used_elsewhere_stays(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            normed = F.layer_norm(x.permute(0, 2, 3, 1), (12,))
            return normed.permute(0, 3, 1, 2), normed

    path = tmp_path / "shared.onnx"
    torch.onnx.export(Shared().eval(), (torch.randn(1, 12, 2, 2),), path, dynamo=True, opset_version=21)
    assert channel_norm.rewrite(ir.load(path)) == 0
