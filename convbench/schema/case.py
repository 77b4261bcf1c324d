"""Cases and their vocabulary. Base units throughout: seconds, bytes, counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Second = float
Step = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""One forward pass as a caller sees it: x (B, C, H, W), t (B,), y (B,) -> output. The least that is timed."""

PRECISIONS = ("fp32", "tf32", "torch-default", "bf16", "fp16")
"""fp32 and tf32: convolutions and matrix products alike; torch-default: TF32 convolutions, FP32 products."""

MODES = ("forward", "train")
"""What a step is. Behind train may stand +ema, a running average of the weights, and +checkpointing, of activations."""

STATUSES = ("ok", "skipped", "out_of_memory", "wrong", "failed", "timeout")
VERDICTS = ("VALID", "NOISY", "SUSPECT", "INVALID")
"""From best to worst. NOISY: right within its interval, which is wider than asked. SUSPECT: a sign of bias. INVALID: do
not use the number."""


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    model: str
    res: int  # side of the decoded image, pixels
    batch: int
    backend: str = "eager"
    precision: str = "fp32"
    device: str = "cpu"
    threads: int | None = None  # of a CPU; None on a GPU
    weights: str | None = None  # a checkpoint; None for random weights
    repeat: int = 1  # 2, 3 … where the same case is asked for more than once: an A/A comparison
    mode: str = "forward"  # one of MODES, with what stands behind it
    sampling: str | None = None  # a plan such as "steps=50,cfg=1.5,…": whole images; None for single passes
    world: int = 1  # processes that run the same case at once, each on a device of its own
    on: str | None = None  # kind of node of a cluster, such as "h100"; None for whichever

    @property
    def id(self) -> str:
        """Names the case in a result file; resuming goes by it."""
        parts = [self.model, f"{self.res}px", f"b{self.batch}", self.backend, self.precision, self.device]
        parts += [f"{self.threads}threads"] if self.threads else []
        parts += [f"world{self.world}"] if self.world > 1 else []
        parts += [f"on={self.on}"] if self.on else []
        parts += [f"weights={self.weights}"] if self.weights else []
        parts += [self.mode] if self.mode != "forward" else []
        parts += [f"repeat{self.repeat}"] if self.repeat > 1 else []
        parts += [self.sampling] if self.sampling else []
        return "/".join(parts)
