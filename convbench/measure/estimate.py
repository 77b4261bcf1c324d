"""The memory and time that a case will need, estimated before it is run."""

from dataclasses import dataclass, replace
from functools import cache

from ..catalogue import find
from ..counting import Count
from ..models.counts import count_variant
from ..precision import applied, dtype_of
from ..sampling.plan import Plan
from ..schema import Case, Second
from ..timing import derived
from ..timing.calibration import Rates, calibrate
from ..timing.clock import RULES

START_S = 3.0  # process, imports, calibration
WEIGHTS_PER_S = 1e8  # random weights drawn
SHARE_OF_PEAK = 0.4  # that an unfused network reaches, about
COMPILE_S = {"compile": 60.0}
WORKSPACE = 2.0  # activations, over the least that must live at one time: layouts, libraries, fragmentation
PROCESS_BYTES = 500e6


@dataclass(frozen=True)
class Estimate:
    """Estimated memory and time of a case."""

    needed_bytes: float
    step_s: Second
    total_s: Second


def estimate(case: Case, rates: Rates) -> Estimate:
    """Memory from counted bytes; time from counted MACs and this machine's rates, good to a factor of two.

    Guidance runs the network at twice the batch, and its parts are timed beside its steps.
    """
    if guides(case):
        both = estimate(replace(case, batch=2 * case.batch, sampling=None), rates)
        alone = estimate(replace(case, sampling=None), rates)
        return replace(both, total_s=both.total_s + 0.5 * (both.total_s + alone.total_s - 2 * START_S))
    counted = _counted(case.model, case.res)
    half = dtype_of(case.precision).itemsize / 4
    weights = counted.weight_bytes * (1 + (half if half < 1 else 0))  # the fp32 reference lies beside a half copy
    activations = case.batch * counted.peak_activation_bytes * WORKSPACE
    step = 2 * counted.macs_full * case.batch / (SHARE_OF_PEAK * rates.peak_flops_per_s)
    if case.mode != "forward":  # gradient, two moments, perhaps an average; every activation waits for its backward
        step *= derived.passes(case.mode)
        weights = counted.weight_bytes * (5 if "ema" in case.mode else 4)
        kept = counted.peak_activation_bytes if "checkpointing" in case.mode else counted.activation_bytes / 2
        activations = case.batch * kept * WORKSPACE
    rules = RULES[case.device]
    timing = max(rules.least_blocks * step, min(rules.cap_s, 2 * rules.min_s + rules.min_blocks * step))
    checking = (10 + (case.batch > 1)) * step
    load = counted.params / WEIGHTS_PER_S
    total = START_S + load + checking + timing + COMPILE_S.get(case.backend, 0.0)
    return Estimate(PROCESS_BYTES + weights + activations, step, total)


def guides(case: Case) -> bool:
    """True if the case samples with guidance."""
    return bool(case.sampling) and Plan.of_text(case.sampling or "", find(case.model)).cfg != 1


@cache
def _counted(model: str, res: int) -> Count:
    return count_variant(find(model), res)


@cache
def quick_rates(device: str) -> Rates:
    """This machine's rates in fp32, each measured once."""
    with applied("fp32"):
        return calibrate(device, "fp32", repeats=1)
