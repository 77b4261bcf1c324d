"""Models with the weights of the goldens: a formula of each key and shape (fill.py), so nothing is downloaded."""

import gzip
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fill import fill_tensor, generator
from torch import Tensor, nn

from convbench import models
from convbench.weights.fixed_tables import fixed_tables

CORE = ("dic", "dico", "dig", "dit", "fcdm")  # the papers' own families; of the others: test_other_transformers.py
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
IDS = sorted(file.stem for file in GOLDEN.glob("*.npz") if not file.stem.startswith("sampler_"))
TRACED = sorted(file.stem.removesuffix("_trace") for file in GOLDEN.glob("*_trace.json"))


def golden(id: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{id}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@cache
def token_rivals() -> dict[str, dict[str, Any]]:
    """Keys and counts of the official FlowDCN, LightningDiT, DDT and MDTv2 by id."""
    return json.loads(gzip.decompress((GOLDEN.parent / "token_rivals.json.gz").read_bytes()))


@cache
def trace(id: str) -> list[dict[str, Any]]:
    """What each stage and each module of the first block gave, in the order of the calls."""
    return json.loads((GOLDEN / f"{id}_trace.json").read_text("utf-8"))["activations"]


def _reach(shape: tuple[int, ...]) -> np.ndarray:
    share = np.arange(1, shape[3] + 1) / shape[3] - 0.0001
    return np.log(share / (1 - share)).astype(np.float32).reshape(shape)


def _scale_shift(w: np.ndarray) -> np.ndarray:
    """Fill SANA's tables of 2 and 6 rows; DiM's, of the same name and 3 rows, is filled as any matrix."""
    return w * np.float32(1 / math.sqrt(w.shape[1]) if len(w) == 3 else 0.1)


# Keys whose weights another rule makes of the standard normal draw w: "fill" of the reference data of those models.
OTHER_RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    r"y_embedding$": lambda w: w / np.float32(math.sqrt(w.shape[-1])),
    r"logit_scale$": lambda w: np.float32(math.log(10)) + np.float32(0.1) * w,
    r"^(pos|additional)_embed$|^in_context_posemb$": lambda w: np.float32(0.02) * w,  # where it is learned
    r"(^|\.)A(_b)?_log$": lambda w: np.broadcast_to(torch.arange(1, w.shape[1] + 1).log().numpy(), w.shape).copy(),
    r"(^|\.)D(_b)?$": lambda w: np.float32(1) + np.float32(0.1) * w,
    # FlowDCN's windows: group i of G reaches (i + 1) / G - 0.0001 of the way, as its constructor has it.
    r"qk_(deformables|scales)\.weight$": lambda w: w * np.float32(0.1 / math.sqrt(w.shape[1])),
    r"deformables_scale$": lambda w: _reach(w.shape) + np.float32(0.1) * w,
    r"(^|\.)(emb|out)_gain$": lambda w: np.asarray(np.float32(1) + np.float32(0.1) * w),  # a single number
    r"\.(freqs|phases)$": lambda w: np.float32(2 * math.pi) * w,
    r"^(transformer_blocks\.\d+\.)?scale_shift_table$": _scale_shift,
    r"dt_proj(_b)?\.bias$": lambda w: np.float32(-4) + np.float32(0.5) * w,
}


def drawn(key: str, shape: Sequence[int]) -> Tensor:
    """The weight of a key that is no fixed table."""
    for pattern, rule in OTHER_RULES.items():
        if re.search(pattern, key):
            return torch.from_numpy(rule(generator(key).standard_normal(tuple(shape), dtype=np.float32)))
    return torch.from_numpy(fill_tensor(key, shape))


def formula_state(model: nn.Module, known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of every key but fixed tables. ``known`` ones of the same key and shape are not drawn again."""
    known, fixed = known or {}, fixed_tables(model)
    return {
        key: known[key] if key in known and known[key].shape == value.shape else drawn(key, value.shape)
        for key, value in model.state_dict().items()
        if key not in fixed
    }


def formula_model(id: str, res: int = 256, known: Mapping[str, Tensor] | None = None) -> nn.Module:
    """What ``models.create`` makes, without drawing the random weights that the formula replaces."""
    model = models.create(id, device="meta", res=res).to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "fill_tables"):
            module.fill_tables()
    missing, unexpected = model.load_state_dict(formula_state(model, known), strict=False, assign=True)
    assert unexpected == [] and set(missing) == fixed_tables(model)
    return model
