"""A small network of each rival as ONNX, run by another runtime at several batches: pixels, captions, noise levels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from tolerances import assert_close
from torch import nn

from convbench.catalogue import find
from convbench.export import onnx
from convbench.export.shapes import Shapes
from convbench.models.ddt import DDT
from convbench.models.edm2 import EDM2
from convbench.models.edm2_ablations import FoldedEDM2
from convbench.models.jit import JiT
from convbench.models.lightningdit import LightningDiT
from convbench.models.mdtv2 import MDTv2
from convbench.models.random_weights import fill
from convbench.models.sana import SANA

CLASSES = 10
EDM2_SIZE = {"width": 16, "multipliers": [1, 2], "depth": 1, "attention_at": [8], "head_width": 16, "res": 128}
SMALL: dict[str, tuple[str, int, Callable[[], nn.Module]]] = {  # -> an id with its signature, the side of x
    "lightningdit": ("lightningdit_b_1", 4, lambda: LightningDiT(32, 1, 2, 1, res=64, num_classes=CLASSES)),
    "ddt": ("ddt_b_2", 8, lambda: DDT(32, 2, 1, 2, 2, res=64, num_classes=CLASSES)),
    "mdtv2": ("mdtv2_s_2", 8, lambda: MDTv2(32, 2, 1, 2, 2, res=64, num_classes=CLASSES)),
    "edm2": ("edm2_xs", 16, lambda: EDM2(**EDM2_SIZE, num_classes=CLASSES)),
    "edm2 folded": ("edm2_xs", 16, lambda: FoldedEDM2(**EDM2_SIZE, num_classes=CLASSES)),
    "jit": ("jit_b_16", 16, lambda: JiT(32, 2, 2, 4, 8, 1, res=16, num_classes=CLASSES)),
    "sana": ("sana_600m", 4, lambda: SANA(64, 1, 4, caption_width=24)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_another_runtime_computes_the_same(name: str, tmp_path: Path) -> None:
    """FlowDCN: test_deformable.py."""
    id, side, make = SMALL[name]
    network = make()
    fill(network)
    network.eval().requires_grad_(False)
    takes = replace(find(id).signature, classes=CLASSES)
    takes = replace(takes, caption=(7, 24)) if takes.caption else takes
    shapes = Shapes(takes, (1, 4), side, out_channels=8 if name == "mdtv2" else takes.channels)
    onnx.write(network, shapes, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        inputs = shapes.inputs(batch)
        with torch.inference_mode():
            expected = network(*inputs)
        assert 0.05 < expected.std() < 20
        (found,) = session.run(["out"], {n: v.numpy() for n, v in zip("xty", inputs, strict=True)})
        assert_close(torch.from_numpy(found), expected, "fp32", scale=max(1.0, expected.std().item()))
