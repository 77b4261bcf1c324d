"""Results by kind: one line of a result file, one row of a table. None where a number is not known.

A row keeps its type until it is printed; ``kind`` says which class it is. Base units throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

from .case import Case, Second


@dataclass(frozen=True, kw_only=True)
class Row:
    """Fields that every kind has."""

    kind: ClassVar[str]

    case: str  # names the row in a result file; resuming goes by it
    status: str = "ok"  # one of STATUSES
    verdict: str | None = None  # one of VERDICTS; None where nothing was timed
    reason: str = ""  # in words: why not ok, or the reason codes of the verdict
    environment: dict[str, Any] = field(default_factory=dict)
    measured_at: str = ""  # UTC
    on: str | None = None  # the kind of node that was asked for
    place: dict[str, Any] = field(default_factory=dict)  # of a job: launcher, job, host, node, cores, gpu

    def to_json(self) -> dict[str, Any]:
        """Every key with its value, ``kind`` first."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The row of a line of this schema. Keys of another convbench are dropped, missing ones take their default."""
        names = cls.keys()
        return cls(**{key: values[key] for key in names if key in values})

    @classmethod
    def keys(cls) -> list[str]:
        """Names of the fields."""
        return [f.name for f in fields(cls)]


@dataclass(frozen=True, kw_only=True)
class CaseRow(Row):
    """A case of ``convbench throughput``, with and without --sampling."""

    model: str
    res: int
    batch: int
    backend: str = "eager"
    precision: str = "fp32"
    device: str = "cpu"
    threads: int | None = None
    weights: str | None = None
    repeat: int = 1
    mode: str = "forward"
    world: int = 1  # processes at once, each on a device of its own

    unranked: str | None = None  # why the row may be listed, never ranked, such as a reference path
    prepare_s: Second | None = None  # from the model to the end of the first step: compilation and the like
    error_vs_fp32: float | None = None  # relative L2 error of the output against fp32 eager with the same inputs
    processes: int = 1  # fresh processes that the samples come from
    compared_with: str | None = None  # the case it was timed interleaved with
    ratio: float | None = None  # speed over that case's, from pairs of blocks
    ratio_low: float | None = None  # 95 % interval
    ratio_high: float | None = None
    difference: str | None = None  # faster, slower, same or unclear
    smallest_difference: float | None = None  # that this run may claim, as a share, from its A/A comparison
    flags: dict[str, str] = field(default_factory=dict)  # precision switches as read back around the case
    load: dict[str, float | None] = field(default_factory=dict)  # telemetry of the timed part, from another process

    @classmethod
    def of(cls, case: Case, **known: Any) -> Self:
        """The row of a case with what is known of it."""
        names = cls.keys()
        asked = {key: value for key, value in asdict(case).items() if key in names}
        return cls(case=case.id, **asked, **known)

    @property
    def speed(self) -> float | None:
        """Images/s by which rows of this kind are ranked."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Measurement(CaseRow):
    """Forward passes or training steps."""

    kind = "throughput"

    images_per_s: float | None = None  # batch / median seconds of a step
    images_per_s_low: float | None = None  # 95 % interval
    images_per_s_high: float | None = None
    latency_s_p50: Second | None = None  # of single steps, the device waited for
    latency_s_p90: Second | None = None  # from 10 steps on
    latency_s_p99: Second | None = None  # from 100 steps on
    blocks: int | None = None  # how many blocks of steps were timed
    steps_per_block: int | None = None
    block_s: list[Second] = field(default_factory=list)  # seconds of a step, mean of each block: the raw samples
    process_s: list[Second] = field(default_factory=list)  # median seconds of a step of each
    build_s: Second | None = None  # making the file that the backend opens, whenever that was; not part of prepare_s
    load_s: Second | None = None  # making the model and its weights
    peak_bytes: int | None = None  # device memory while timing; on a CPU, resident memory of the process

    params: int | None = None
    macs: int | None = None  # of one image, torchprofile's convention
    macs_full: int | None = None  # the same with what tracers cannot see, without elementwise work
    winograd_macs: int | None = None
    executed_macs: int | None = None  # the fewest that its algorithm may have executed, where that is below macs_full
    flops_per_s: float | None = None  # 2 * macs_full * images_per_s, and three times as many for a training step
    peak_flops_per_s: float | None = None  # best of this machine's measured rates at this precision
    mfu: float | None = None  # flops_per_s / peak_flops_per_s
    limit_images_per_s: float | None = None  # what measured rates allow
    limit_fraction: float | None = None  # images_per_s / limit_images_per_s
    limit_wall: str | None = None  # compute, memory or launch: the nearest wall

    launches: int | None = None  # kernels that ran in one step, counted by a profiler
    zeros_ratio: float | None = None  # speed on zeros over speed on the random inputs

    kernels: dict[str, str] = field(default_factory=dict)  # what served attention and the like, where torch can tell
    rates: dict[str, float] = field(default_factory=dict)  # measured in the same process: FLOP/s, bytes/s
    joules_per_image: float | None = None  # from an energy counter, over 10 s or more

    rank_images_per_s: list[float] = field(default_factory=list)  # of each process of a world; their sum is the speed
    efficiency: float | None = None  # of a world: its speed / (processes * the speed of one alone), in paired blocks
    efficiency_low: float | None = None  # 95 % interval
    efficiency_high: float | None = None
    straggler: str | None = None  # the process that is slower than the others by more than the interval

    @property
    def speed(self) -> float | None:
        """Images/s, one pass an image."""
        return self.images_per_s


@dataclass(frozen=True, kw_only=True)
class SamplingMeasurement(CaseRow):
    """Whole images, through all steps of a sampler. All parts are seconds of one finished image."""

    kind = "sampling"

    sampling: str  # the plan in its one spelling
    sampler: str
    steps: int
    cfg_scale: float
    decode: bool
    evaluations: int | None = None  # of the network for one image; those of Heun's method are two a step

    finished_images_per_s: float | None = None  # batch / seconds of a whole batch: all steps, and the decoder if any
    finished_images_per_s_low: float | None = None  # 95 % interval: the ends of its parts' intervals, added up
    finished_images_per_s_high: float | None = None
    backbone_s: Second | None = None  # forwards without guidance
    guidance_s: Second | None = None  # what the forward of twice the batch takes beyond that; None without guidance
    sampler_s: Second | None = None  # the update of the state, its noise included
    decoder_s: Second | None = None  # None where nothing is decoded
    decoder: str | None = None  # its name, where it has random weights; None for one with given weights, or none
    decoder_macs: int | None = None  # of one image; None as above
    unattributed_s: Second | None = None  # a whole step beyond the sum of its parts; below zero where they overlap
    step_s: Second | None = None  # of the whole batch
    whole_s: Second | None = None  # of a trajectory run from end to end; None where that would have taken too long
    blocks: dict[str, list[Second]] = field(default_factory=dict)  # seconds of each part, mean of each block

    @property
    def speed(self) -> float | None:
        """Finished images/s."""
        return self.finished_images_per_s


@dataclass(frozen=True, kw_only=True)
class QualityRow(Row):
    """One way to sample: its images and their time, beside those of the full sampler with the same noise."""

    kind = "quality"

    model: str
    res: int
    batch: int
    backend: str = "eager"
    precision: str = "fp32"
    device: str = "cpu"
    threads: int | None = None
    weights: str | None = None
    weights_sha256: str | None = None  # of the checkpoint; of an artefact, that of its manifest
    sampling: str  # the plan in its one spelling
    role: str  # reference, fewer steps or method
    evaluations: int  # of the network for one image
    seed: int
    images: int
    planned: int  # images; fewer were sampled where it was dominated, or the budget ended
    image_set: str  # whose classifier judged: digits or glyphs; or reference, a feature network and statistics
    reference_sha256: str | None = None  # of the statistics of real images, where those of the user judged
    features_sha256: str | None = None  # of the feature network

    images_per_s: float | None = None  # finished; batches of all ways interleaved
    images_per_s_low: float | None = None  # 95 % interval
    images_per_s_high: float | None = None
    batch_s: list[Second] = field(default_factory=list)  # seconds of each batch
    ratio: float | None = None  # speed over that of the reference, from pairs of batches
    ratio_low: float | None = None  # 95 % interval
    ratio_high: float | None = None

    recognised: float | None = None  # share of the images that show the class asked for; None without a classifier
    recognised_low: float | None = None  # 95 % interval, as of all figures
    recognised_high: float | None = None
    frechet: float | None = None  # from real images; 0 is best
    frechet_low: float | None = None
    frechet_high: float | None = None
    frechet_floor: float | None = None  # of as many images of the reference itself; taken off for frechet_ratio

    compared_with: str | None = None  # the plan of the reference
    recognised_difference: float | None = None
    recognised_difference_low: float | None = None
    recognised_difference_high: float | None = None
    frechet_ratio: float | None = None  # of what exceeds the floor; None also where that of the reference is none
    frechet_ratio_low: float | None = None
    frechet_ratio_high: float | None = None
    shift: float | None = None  # of the mean features from the reference
    drift: float | None = None  # of the features of each image from the reference
    recognised_margin: float | None = None
    frechet_margin: float | None = None
    quality: str | None = None  # better, same, worse or inconclusive, within the margins
    quality_reason: str = ""
    plain: str | None = None  # of a method: the plan of fewer steps that takes as long
    over_plain: str | None = None  # quality beside that: better, same, worse or inconclusive
    plain_ratio: float | None = None  # speed over that of the plain plan
    plain_ratio_low: float | None = None
    plain_ratio_high: float | None = None
    on_frontier: bool | None = None  # nothing else here is faster and of a smaller Fréchet distance


@dataclass(frozen=True, kw_only=True)
class TF32Cell(Row):
    """One model with one setting of the two TF32 switches."""

    kind = "tf32"

    model: str
    res: int
    batch: int
    device: str
    conv_tf32: str  # on or off
    matmul_tf32: str
    papers_default: bool  # convolutions in TF32 and matrix products in FP32
    images_per_s: float
    images_per_s_low: float  # 95 % interval
    images_per_s_high: float
    compared_with: str  # the model that the ratio is to, with the same switches
    ratio: float
    ratio_low: float
    ratio_high: float
    printed_ratio: float | None  # the same ratio as the model's own paper prints it
    block_s: list[Second]
    flags: dict[str, str]  # as read back


@dataclass(frozen=True, kw_only=True)
class ReplayStep(Row):
    """One step from a printed number to ours."""

    kind = "replay"

    paper: str
    model: str
    res: int
    device: str
    threads: int | None
    step: str  # printed, replayed, knob, aside, ours or unexplained
    knob: str
    before: str | int | None = None  # the knob's setting in the paper
    after: str | int | None = None  # ours
    exists_here: bool | None = None  # whether the knob can be flipped on this device
    images_per_s_before: float | None = None
    images_per_s: float | None = None
    ratio: float | None = None  # median over paired blocks
    ratio_low: float | None = None  # 95 % interval
    ratio_high: float | None = None
    factor: float | None = None  # quotient of the two speeds: all factors multiply to ours over replayed
    flaw: str | None = None
    batch: int | None = None
    blocks: int | None = None
    block_s: list[Second] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class KernelTiming(Row):
    """One fused kernel at one shape, batch and precision, on a GPU."""

    kind = "kernel"

    kernel: str
    where: str
    model: str
    res: int
    level: int
    channels: int
    out_channels: int | None
    height: int
    width: int
    batch: int
    precision: str
    min_bytes: int  # the least that must be moved
    flops: int
    cold_s: Second | None = None  # median of launches on buffers that are not in the cache
    cold_s_p20: Second | None = None
    cold_s_p80: Second | None = None
    hot_s: Second | None = None  # on the same buffers again and again
    eager_s: Second | None = None  # what the unfused network runs
    compile_s: Second | None = None  # the same through torch.compile
    launch_s: Second | None = None  # of the smallest kernel in a graph: part of every time, not subtracted
    over_eager: float | None = None
    over_compile: float | None = None
    bytes_per_s: float | None = None
    copy_bytes_per_s: float | None = None  # measured in the same minute
    copy_fraction: float | None = None
    copy_fraction_hot: float | None = None
    flops_per_s: float | None = None
    peak_flops_per_s: float | None = None
    roofline_fraction: float | None = None
    error: float | None = None
    error_eager: float | None = None
    gpu: str | None = None
    target: str | None = None  # such as sm_90
    registers: int | None = None  # as the compile gate has them
    stack: int | None = None
    sm_clock_hz: float | None = None  # just after the work
    convbench: str | None = None
    torch: str | None = None
    triton: str | None = None
    cuda: str | None = None


KINDS: dict[str, type[Row]] = {
    row.kind: row for row in (Measurement, SamplingMeasurement, QualityRow, TF32Cell, ReplayStep, KernelTiming)
}
"""The class of each kind of stored row."""
