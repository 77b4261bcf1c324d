"""Models with the weights of the goldens: a formula of each key and shape (fill.py), so nothing is downloaded."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fill import fill_tensor
from torch import Tensor, nn

from convbench import models

GOLDEN = Path(__file__).parent / "data" / "golden"
IDS = sorted(file.stem for file in GOLDEN.glob("*.npz") if not file.stem.startswith("sampler_"))
TRACED = sorted(file.stem.removesuffix("_trace") for file in GOLDEN.glob("*_trace.json"))


def golden(id: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{id}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@cache
def trace(id: str) -> list[dict[str, Any]]:
    """What each stage and each module of the first block gave, in the order of the calls."""
    return json.loads((GOLDEN / f"{id}_trace.json").read_text("utf-8"))["activations"]


def formula_state(model: nn.Module, known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of every key but fixed tables. ``known`` ones of the same key and shape are not drawn again."""
    known = known or {}
    state = {}
    for key, value in model.state_dict().items():
        if key in known and known[key].shape == value.shape and key != "pos_embed":
            state[key] = known[key]
        elif (drawn := fill_tensor(key, value.shape)) is not None:
            state[key] = torch.from_numpy(drawn)
    return state


def formula_model(id: str, res: int = 256, known: Mapping[str, Tensor] | None = None) -> nn.Module:
    """What ``models.create`` makes, without drawing the random weights that the formula replaces."""
    model = models.create(id, device="meta", res=res).to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "fill_tables"):
            module.fill_tables()
    missing, unexpected = model.load_state_dict(formula_state(model, known), strict=False, assign=True)
    assert unexpected == [] and set(missing) <= {"pos_embed"}
    return model
