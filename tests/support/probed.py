"""What a step sees while it is measured: the check of our own protocol cards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convbench import environment
from convbench.measure import forward, opening
from convbench.papers import cards
from convbench.schema import Backend, Case, Step
from convbench.timing.clock import Rules


def check_card(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare our protocol card of a device with what a step sees while it is measured."""
    card, seen = cards.cards()[f"convbench_{device}"], []

    def watched(model: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append((x.data_ptr(), t.data_ptr(), y.data_ptr()))
        facts.update(
            latent=f"{x.shape[1]} x res/{64 // x.shape[2]} x res/{64 // x.shape[3]}",
            t_shape="[batch]" if t.shape == x.shape[:1] else str(list(t.shape)),
            y_shape="[batch]" if y.shape == x.shape[:1] else str(list(y.shape)),
            weights={torch.float32: "fp32"}[next(model.parameters()).dtype],
            layout="nchw" if x.is_contiguous() else "channels_last",
            autograd="inference_mode" if torch.is_inference_mode_enabled() else "no_grad",
            autocast="on" if torch.is_autocast_enabled(device) else "off",
            conv_tf32="on" if torch.backends.cudnn.allow_tf32 else "off",
            matmul_tf32="on" if torch.backends.cuda.matmul.allow_tf32 else "off",
            cudnn_benchmark="none" if device == "cpu" else "on" if torch.backends.cudnn.benchmark else "off",
        )
        out: Tensor = model(x, t, y)
        return out

    @contextmanager
    def opened(model: nn.Module, case: Case, inputs: Any) -> Iterator[Step]:
        yield lambda x, t, y: watched(model, x, t, y)

    facts: dict[str, str] = {}
    probe = Backend(name="eager", summary="", open=opened, eager=True)
    monkeypatch.setattr(opening.backends, "find", lambda name: probe)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    rules = Rules(block_s=0.01, warmup_s=0.01, min_s=0, cap_s=0.01, min_blocks=6, half_width=1)
    case = Case("dico_s", 64, 2, device=device, threads=1 if device == "cpu" else None)
    (row,) = forward.measure([case], rules)
    assert row.status == "ok", row.reason
    assert facts == {field: cards.value(card, field) for field in facts}
    assert len(facts) == 10
    described = environment.describe()
    for field in ("torch", "cudnn", "gpu"):
        if cards.value(card, field) == "named in each result":
            assert described["gpus" if field == "gpu" else field]
