"""The memory and time that a case will need, estimated before it is run."""

from dataclasses import dataclass, replace
from functools import cache

from ..catalogue import find
from ..counting import Count
from ..environment import cores
from ..models.counts import count_variant
from ..precision import applied, dtype_of
from ..sampling.plan import Plan
from ..schema import Case, Second
from ..timing import derived
from ..timing.calibration import Rates, calibrate
from ..timing.clock import LATENCY_S, LATENCY_STEPS, RULES, Rules

START_S = {"cpu": 3.0, "cuda": 10.0}  # process, imports, calibration; on a GPU also its driver, sampler and profiler
WEIGHTS_PER_S = 3.5e7  # random weights that one thread draws
SHARE_OF_PEAK = 0.4  # that an unfused network reaches, about
SHARE_OF_FP32_PEAK = 0.7  # on a GPU, whose FP32 units are so slow that little else counts
COMPILE_S = {  # assumed for a GPU, where none of the networks has been compiled yet
    "cpu": {"compile": 60.0},
    "cuda": {"compile": 75.0, "triton": 15.0, "triton_graphs": 15.0},
}
TUNE_STEPS = 5  # worth of steps in which cuDNN tries its algorithms on a GPU
CHECKS = 21  # blocks that are timed for the checks after a measurement
WORKSPACE = 2.0  # activations, over the least that must live at one time: layouts, libraries, fragmentation
PROCESS_BYTES = 500e6


@dataclass(frozen=True)
class Estimate:
    """Estimated memory and time of a case."""

    needed_bytes: float
    step_s: Second
    create_s: Second  # its process and its network
    tune_s: Second  # compilation, tuning, and the steps that prove its output
    warm_s: Second
    time_s: Second  # blocks, checks and single steps

    @property
    def total_s(self) -> Second:
        """Seconds of the whole case."""
        return self.create_s + self.tune_s + self.warm_s + self.time_s


def estimate(case: Case, rates: Rates, rules: Rules | None = None, threads: int | None = None) -> Estimate:
    """Memory from counted bytes; time from counted MACs and this machine's rates, good to a factor of two.

    Guidance runs the network at twice the batch, and its parts are timed beside its steps.

    Args:
        rates: in the precision of the case, or in fp32 on a CPU: see ``quick_rates``.
        rules: of timing; those of the device unless given.
        threads: that draw weights; this machine's cores unless given.
    """
    rules = rules or RULES[case.device]
    if guides(case):
        both = estimate(replace(case, batch=2 * case.batch, sampling=None), rates, rules, threads)
        alone = estimate(replace(case, sampling=None), rates, rules, threads)
        more = 0.5 * (both.total_s + alone.total_s - 2 * START_S[case.device])
        return replace(both, time_s=both.time_s + more)
    counted = _counted(case.model, case.res)
    half = dtype_of(case.precision).itemsize / 4
    weights = counted.weight_bytes * (1 + (half if half < 1 else 0))  # the fp32 reference lies beside a half copy
    activations = case.batch * counted.peak_activation_bytes * WORKSPACE
    on_gpu = case.device != "cpu"
    share = SHARE_OF_FP32_PEAK if on_gpu and case.precision == "fp32" else SHARE_OF_PEAK
    step = 2 * counted.macs_full * case.batch / (share * rates.peak_flops_per_s)
    if case.mode != "forward":  # gradient, two moments, perhaps an average; every activation waits for its backward
        step *= derived.passes(case.mode)
        weights = counted.weight_bytes * (5 if "ema" in case.mode else 4)
        kept = counted.peak_activation_bytes if "checkpointing" in case.mode else counted.activation_bytes / 2
        activations = case.batch * kept * WORKSPACE
    compiling = COMPILE_S[case.device].get(case.backend.partition(":")[0], 0.0)
    block = max(step, rules.block_s) if on_gpu else step
    timing = max(rules.least_blocks * block, min(rules.cap_s, 2 * rules.min_s + rules.min_blocks * block))
    checks = CHECKS * block + min(LATENCY_STEPS * step, max(LATENCY_S, step)) if on_gpu else 0.0
    return Estimate(
        PROCESS_BYTES + weights + activations,
        step,
        create_s=START_S[case.device] + counted.params / WEIGHTS_PER_S / (threads or cores()),
        tune_s=compiling + (10 + (case.batch > 1) + (TUNE_STEPS if on_gpu else 0)) * step,
        warm_s=max(rules.warmup_s, step) if on_gpu else 0.0,
        time_s=timing + checks,
    )


def guides(case: Case) -> bool:
    """True if the case samples with guidance."""
    return bool(case.sampling) and Plan.of_text(case.sampling or "", find(case.model)).cfg != 1


@cache
def _counted(model: str, res: int) -> Count:
    return count_variant(find(model), res)


def quick_rates(device: str, precision: str = "fp32") -> Rates:
    """This machine's rates in a precision, each measured once; on a CPU always in fp32."""
    return _quick_rates(device, precision if device != "cpu" else "fp32")


@cache
def _quick_rates(device: str, precision: str) -> Rates:
    with applied(precision):
        return calibrate(device, precision, repeats=1)
