"""One process, one model, one or more cases to be timed in turns: make, prove, time, check again.

Called by ``worker.py`` in a process of its own; tests call it directly.
"""

import copy
import functools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median

import torch
from torch import Tensor, nn

from . import backends, catalogue, checks, environment, memory, precision, proof
from .calibration import Rates, calibrate, limit
from .clock import RULES, Clock, CudaClock, Inputs, Lane, Rules, clock_of, rotating, time_lanes
from .counting import Count, count_variant
from .intervals import median_interval, percentile
from .models import create
from .proof import Proof
from .schema import Backend, Case, Measurement, Second, Step
from .seen import operators_seen

Report = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""

LATENCY_STEPS = 100  # single steps waited for on a GPU, where blocks give no latency


@dataclass
class Opened:
    """A case whose step has been proved, ready to be timed."""

    case: Case
    result: Measurement
    backend: Backend
    step: Step
    first_set: Inputs
    proof: Proof
    lane: Lane
    rates: Rates


def measure(
    cases: Sequence[Case],
    rules: Rules | None = None,
    report: Report = lambda what, done: None,
    clock: Clock | None = None,
) -> list[Measurement]:
    """Measure cases of one model, size, batch and device; several are timed in turns.

    A case that cannot be measured comes back with the status and reason that say why; only errors that a user can
    mend before any work (ConvbenchError) are raised.
    """
    device = cases[0].device
    rules, clock = rules or RULES[device], clock or clock_of(device)
    results = [Measurement.of(case, measured_at=datetime.now(UTC).isoformat(timespec="seconds")) for case in cases]
    with ExitStack() as stack, torch.inference_mode():
        try:
            _measure(list(cases), results, rules, clock, report, stack)
        except (RuntimeError, MemoryError) as error:
            status, reason = _failure(error)
            for result in results:
                if not result.reason:
                    result.status, result.reason = status, reason
    return results


def _measure(
    cases: list[Case], results: list[Measurement], rules: Rules, clock: Clock, report: Report, stack: ExitStack
) -> None:
    first, device = cases[0], cases[0].device
    if first.threads:
        torch.set_num_threads(first.threads)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True  # tuned in the untimed part, once for each shape
    facts = environment.describe()

    report("loading", 0)
    started = time.perf_counter()
    variant = catalogue.find(first.model)
    model = create(first.model, first.weights, device, first.res)
    loaded = time.perf_counter() - started
    counted = count_variant(variant, first.res)
    sets = [(x.to(device), t.to(device), y.to(device)) for x, t, y in proof.input_sets(first)]

    report("reference", 0)
    with precision.applied("fp32"), operators_seen() as served:
        reference = model(*sets[0])

    opened: list[Opened] = []
    for case, result in zip(cases, results, strict=True):
        report("proving", 0)
        result.load_s, result.environment = loaded, facts
        result.params, result.macs, result.macs_full = counted.params, counted.macs, counted.macs_full
        result.winograd_macs, result.kernels = counted.winograd_macs, served
        try:
            own = _in_precision(model, case, alone=len(cases) == 1)
            ready = _open(case, result, own, sets, reference, clock, stack)
        except Exception as error:  # a backend may raise anything; the row says what, and the run goes on
            result.status, result.reason = _failure(error)
            continue
        if ready.proof.findings:
            result.status = "wrong"
            result.verdict, result.reason = proof.report(ready.proof.findings)
        else:
            opened.append(ready)
    if not opened:
        return

    memory.reset_peak(device)
    before = environment.Activity.now()
    time_lanes([each.lane for each in opened], clock, rules, lambda done: report("timing", done))
    load = environment.Activity.now().since(before)
    peak = memory.peak_bytes(device)
    for each in opened:
        report("checking", 1)
        each.result.load, each.result.peak_bytes = load, peak
        _conclude(each, counted, rules, clock)


def _open(
    case: Case,
    result: Measurement,
    model: nn.Module,
    sets: list[Inputs],
    reference: Tensor,
    clock: Clock,
    stack: ExitStack,
) -> Opened:
    """Prepare the backend and prove its outputs."""
    backend = backends.find(case.backend)
    kind = precision.dtype_of(case.precision)
    sets = [(x.to(kind), t, y) for x, t, y in sets]
    with precision.applied(case.precision) as result.flags:
        rates = calibrate(case.device, case.precision)
        started = time.perf_counter()
        step = stack.enter_context(backend.open(model, case, sets[0]))
        output = step(*sets[0]).clone()
        clock.wait()
        result.prepare_s = time.perf_counter() - started
        proved = proof.prove(step, sets, reference, case.precision, output)
    if math.isfinite(proved.error_vs_fp32):
        result.error_vs_fp32 = proved.error_vs_fp32
    lane = Lane(rotating(step, sets), functools.partial(precision.applied, case.precision))
    return Opened(case, result, backend, step, sets[0], proved, lane, rates)


def _conclude(each: Opened, counted: Count, rules: Rules, clock: Clock) -> None:
    """Check a timed case and write what its samples say into its measurement."""
    case, result, lane = each.case, each.result, each.lane
    samples = lane.block_s
    step_s = median(samples)
    with precision.applied(case.precision):
        changed = proof.unchanged(each.step, each.first_set, each.proof.outputs[0], case.precision)
        linear = checks.linearity(lane, clock, case.device)
        latencies = _latencies(lane, clock)
        rates = each.rates.best(calibrate(case.device, case.precision))
    floor = limit(counted, case.batch, rates, len(counted.operations) if each.backend.eager else 0)

    fast, slow = median_interval(samples)
    result.images_per_s, result.images_per_s_low, result.images_per_s_high = (
        case.batch / seconds for seconds in (step_s, slow, fast)
    )
    result.latency_s_p50 = percentile(latencies, 0.5)
    result.latency_s_p90 = percentile(latencies, 0.9, at_least=10)
    result.latency_s_p99 = percentile(latencies, 0.99, at_least=100)
    result.blocks, result.steps_per_block, result.block_s = len(samples), lane.steps_per_block, samples
    result.flops_per_s = 2 * counted.macs_full * result.images_per_s
    result.rates, result.peak_flops_per_s = asdict(rates), rates.peak_flops_per_s
    result.mfu = result.flops_per_s / rates.peak_flops_per_s
    result.limit_images_per_s, result.limit_wall = case.batch / floor.seconds, floor.wall
    result.limit_fraction = result.images_per_s / result.limit_images_per_s

    found = [
        changed,
        linear,
        checks.clocks(lane.blocks),
        checks.floor(step_s, floor.seconds),
        checks.drift(samples, rules),
        checks.width(lane, rules),
        checks.contention(result.load) if case.device == "cpu" else None,
    ]
    result.status = "ok"
    result.verdict, result.reason = proof.report([finding for finding in found if finding])


def _in_precision(model: nn.Module, case: Case, alone: bool) -> nn.Module:
    kind = precision.dtype_of(case.precision)
    if kind == torch.float32:
        return model
    return (model if alone else copy.deepcopy(model)).to(kind)


def _latencies(lane: Lane, clock: Clock) -> list[Second]:
    if isinstance(clock, CudaClock):
        return [clock.single(lane.run) for _ in range(LATENCY_STEPS)]
    return [single for block in lane.blocks for single in block.singles]


def _failure(error: BaseException) -> tuple[str, str]:
    """Status and reason of a case that raised."""
    text = (str(error).strip().splitlines() or [""])[0][:300]
    words = ("out of memory", "can't allocate memory", "not enough memory")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in text for word in words):
        return "out_of_memory", text or "out of memory"
    return "failed", f"{type(error).__name__}: {text}"
