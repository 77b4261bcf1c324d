"""The words of a measurement: what is asked for, what is measured, what a backend is. Imports nothing of ours.

Base units throughout: seconds, bytes, counts. Scaling is for printing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Second = float
Step = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""One forward pass as a caller sees it: x (B, C, H, W), t (B,), y (B,) -> output. The least that is timed."""

PRECISIONS = ("fp32", "tf32", "torch-default", "bf16", "fp16")
"""fp32 and tf32: convolutions and matrix products alike; torch-default: TF32 convolutions, FP32 products."""

MODES = ("forward", "train")
"""What a step is. Behind train may stand +ema, a running average of the weights, and +checkpointing, of activations."""

STATUSES = ("ok", "skipped", "out_of_memory", "wrong", "failed", "timeout")
VERDICTS = ("VALID", "SUSPECT", "INVALID")


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

    @property
    def id(self) -> str:
        """Names the case in a result file; resuming goes by it."""
        parts = [self.model, f"{self.res}px", f"b{self.batch}", self.backend, self.precision, self.device]
        parts += [f"{self.threads}threads"] if self.threads else []
        parts += [f"weights={self.weights}"] if self.weights else []
        parts += [self.mode] if self.mode != "forward" else []
        parts += [f"repeat{self.repeat}"] if self.repeat > 1 else []
        return "/".join(parts)


@dataclass
class Measurement:
    """What came of a case: one line of a result file, one row of a table. None where a number is not known."""

    case: str  # the id of the case
    model: str
    res: int
    batch: int
    backend: str
    precision: str
    device: str
    threads: int | None = None
    weights: str | None = None
    repeat: int = 1
    mode: str = "forward"

    status: str = "failed"  # one of STATUSES
    verdict: str | None = None  # one of VERDICTS; None where nothing was timed
    reason: str = ""  # in words: why not ok, or the reason codes of the verdict
    unranked: str | None = None  # why the row may be listed, never ranked, such as a reference path

    images_per_s: float | None = None  # batch / median seconds of a step
    images_per_s_low: float | None = None  # 95 % interval
    images_per_s_high: float | None = None
    latency_s_p50: Second | None = None  # of single steps, the device waited for
    latency_s_p90: Second | None = None  # from 10 steps on
    latency_s_p99: Second | None = None  # from 100 steps on
    blocks: int | None = None  # how many blocks of steps were timed
    steps_per_block: int | None = None
    block_s: list[Second] = field(default_factory=list)  # seconds of a step, mean of each block: the raw samples
    processes: int = 1  # fresh processes that the samples come from
    process_s: list[Second] = field(default_factory=list)  # median seconds of a step of each
    prepare_s: Second | None = None  # from the model to the end of the first step: compilation and the like
    build_s: Second | None = None  # making the file that the backend opens, whenever that was; not part of prepare_s
    load_s: Second | None = None  # making the model and its weights
    peak_bytes: int | None = None  # device memory while timing; on a CPU, resident memory of the process

    params: int | None = None
    macs: int | None = None  # of one image, torchprofile's convention
    macs_full: int | None = None  # the same with what tracers cannot see, without elementwise work
    winograd_macs: int | None = None
    flops_per_s: float | None = None  # 2 * macs_full * images_per_s, and three times as many for a training step
    peak_flops_per_s: float | None = None  # best of this machine's measured rates at this precision
    mfu: float | None = None  # flops_per_s / peak_flops_per_s
    limit_images_per_s: float | None = None  # what measured rates allow
    limit_fraction: float | None = None  # images_per_s / limit_images_per_s
    limit_wall: str | None = None  # compute, memory or launch: the nearest wall
    error_vs_fp32: float | None = None  # relative L2 error of the output against fp32 eager with the same inputs

    zeros_ratio: float | None = None  # speed on zeros over speed on the random inputs

    compared_with: str | None = None  # the case it was timed in turns with
    ratio: float | None = None  # images_per_s over that case's, from pairs of blocks
    ratio_low: float | None = None  # 95 % interval
    ratio_high: float | None = None
    difference: str | None = None  # faster, slower, same or unclear
    smallest_difference: float | None = None  # that this run may claim, as a share, from its A/A comparison

    kernels: dict[str, str] = field(default_factory=dict)  # what served attention and the like, where torch can tell
    flags: dict[str, str] = field(default_factory=dict)  # precision switches as read back around the case
    rates: dict[str, float] = field(default_factory=dict)  # measured in the same process: FLOP/s, bytes/s
    load: dict[str, float | None] = field(default_factory=dict)  # telemetry of the timed part, from another process
    joules_per_image: float | None = None  # from an energy counter, over 10 s or more
    environment: dict[str, Any] = field(default_factory=dict)
    measured_at: str = ""  # UTC

    @classmethod
    def of(cls, case: Case, **known: Any) -> Measurement:
        return cls(case=case.id, **asdict(case), **known)

    @classmethod
    def keys(cls) -> list[str]:
        return [f.name for f in fields(cls)]


@dataclass(frozen=True)
class Backend:
    """One runtime. A value, not a class to derive from.

    ``open(model, case, inputs)`` is a context manager: entering prepares (compiles, builds, allocates), the Step it
    yields is what is timed, leaving frees. The model arrives in the precision of the case.
    """

    name: str
    summary: str
    open: Callable[[nn.Module, Case, tuple[Tensor, Tensor, Tensor]], AbstractContextManager[Step]]
    unsupported: Callable[[Case], str | None] = lambda case: None  # why this case cannot run; None if it can
    eager: bool = False  # launches one kernel an operator, so the launch rate limits it
    unranked: Callable[[Case], str | None] = lambda case: None  # why its rows may be listed and never ranked
