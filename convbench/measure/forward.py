"""One process, one or more cases to be timed in turns: make, prove, time, check again.

Called by ``worker.py`` in a process of its own; tests call it directly.
"""

import copy
import functools
import math
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import median

import torch
from torch import Tensor, nn

from .. import backends, catalogue, environment, precision
from ..checks import kernels as kernels_seen
from ..checks import machine, timing
from ..checks import output as proof
from ..checks.operators import operators_seen
from ..checks.output import Finding, Proof
from ..counting import Count
from ..errors import ConvbenchError
from ..models import create
from ..models.counts import count_variant
from ..schema import VERDICTS, Backend, Case, Measurement, Second, Step
from ..timing import compare, derived, memory
from ..timing.calibration import Rates, calibrate, limit
from ..timing.clock import RULES, Clock, CudaClock, Inputs, Lane, Rules, StoppedClock, clock_of, rotating, time_lanes
from ..timing.intervals import percentile
from ..timing.telemetry.recorder import Recorder
from ..timing.telemetry.summary import joules_per_image
from . import training

Report = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""

LATENCY_STEPS = 100  # single steps waited for on a GPU, where blocks give no latency


@dataclass
class Subject:
    """A network with its inputs, and what fp32 eager makes of the first of them."""

    model: nn.Module
    counted: Count
    sets: list[Inputs]
    reference: Tensor
    kernels: dict[str, str]
    load_s: Second


@dataclass
class Opened:
    """A case whose step has been proved, ready to be timed."""

    case: Case
    result: Measurement
    backend: Backend
    step: Step
    sets: list[Inputs]
    counted: Count
    proof: Proof
    lane: Lane
    rates: Rates


def measure(
    cases: Sequence[Case],
    rules: Rules | None = None,
    report: Report = lambda what, done: None,
    clock: Clock | None = None,
) -> list[Measurement]:
    """Measure cases on one device; several are timed in turns and each is compared with the first.

    A case that cannot be measured comes back with the status and reason that say why; only errors that a user can
    mend before any work (ConvbenchError) are raised.
    """
    device = cases[0].device
    rules, clock = rules or RULES[device], clock or clock_of(device)
    results = [Measurement.of(case, measured_at=datetime.now(UTC).isoformat(timespec="seconds")) for case in cases]
    # What is made in inference mode can never be trained.
    still = torch.inference_mode() if cases[0].mode == "forward" else torch.no_grad()
    with ExitStack() as stack, still:
        try:
            _measure(list(cases), results, rules, clock, report, stack)
        except ConvbenchError:
            raise
        except Exception as error:  # a backend may raise anything while it is timed, too
            waiting = [result for result in results if result.status == "failed" and not result.reason]
            for result in waiting:
                _fail(result, error)
            timed = [i for i, result in enumerate(results) if any(result is each for each in waiting)]
        else:
            return results
    if len(cases) > 1:  # one of those that were timed in turns raised; the others still get a number of their own
        for i in timed:
            (results[i],) = measure([cases[i]], rules, report, clock)
    return results


def _measure(
    cases: list[Case], results: list[Measurement], rules: Rules, clock: Clock, report: Report, stack: ExitStack
) -> None:
    device = cases[0].device
    if cases[0].threads:
        torch.set_num_threads(cases[0].threads)
    torch.set_flush_denormal(True)
    stack.callback(torch.set_flush_denormal, False)
    torch.backends.cudnn.benchmark = True  # tuned in the untimed part, once for each shape
    facts = environment.describe()

    subjects: dict[tuple[str, int, int], Subject] = {}
    opened: list[Opened] = []
    for case, result in zip(cases, results, strict=True):
        key = (case.model, case.res, case.batch)
        if key not in subjects:
            subjects[key] = _subject(case, report)
        report("proving", 0)
        result.environment = facts
        try:
            ready = _open(case, result, subjects[key], len(cases) == 1, clock, stack)
        except Exception as error:  # a backend may raise anything; the row says what, and the run goes on
            _fail(result, error)
            continue
        if ready.proof.findings:
            result.status = "wrong"
            result.verdict, result.reason = proof.report(ready.proof.findings)
        else:
            opened.append(ready)
    if not opened:
        return

    delta = compare.DELTA[device]
    lanes = [each.lane for each in opened]

    def settled() -> bool:
        a = lanes[0].block_s
        return len(a) >= compare.LEAST_PAIRS and all(
            compare.compare_blocks(a, b.block_s, delta).difference != "unclear" for b in lanes[1:]
        )

    memory.reset_peak(device)
    allocated = memory.device_allocations(device)
    with Recorder(device) as recorder:
        time_lanes(
            lanes,
            clock,
            rules,
            lambda done: report("timing", done),
            settled if len(lanes) > 1 else lambda: True,
            recorder.timed,
        )
    load, peak = recorder.summary(), memory.peak_bytes(device)
    seen = machine.findings(load, recorder.facts)
    if asked := timing.allocations(memory.device_allocations(device) - allocated):
        seen.append(asked)
    facts |= {"telemetry": recorder.facts, "telemetry_reason": recorder.reason}
    for each in opened:
        report("checking", 1)
        each.result.load, each.result.peak_bytes = load, peak
        _conclude(each, rules, clock, seen)
        if len(opened) == 1 and each.result.images_per_s:
            each.result.joules_per_image = joules_per_image(load, each.result.images_per_s, device)
        if each is not opened[0] and _comparable(opened[0], each):
            found = compare.compare_blocks(lanes[0].block_s, each.lane.block_s, delta)
            each.result.compared_with = opened[0].case.id
            each.result.ratio, each.result.difference = found.ratio, found.difference
            each.result.ratio_low, each.result.ratio_high = found.low, found.high
    if device == "cuda":
        for each in opened:  # last, as the profiler stays attached and slows launches
            _name_kernels(each)


def _comparable(first: Opened, other: Opened) -> bool:
    """A row that is never ranked is compared with itself only."""
    same = replace(first.case, repeat=1) == replace(other.case, repeat=1)
    return same or not (first.result.unranked or other.result.unranked)


def _name_kernels(each: Opened) -> None:
    """PREC: the names of the kernels that ran are held against the precision of the case."""
    case, result = each.case, each.result
    with precision.applied(case.precision):
        ran = kernels_seen.kernel_names(each.step, each.sets[0])
    result.kernels = result.kernels | kernels_seen.classify(ran)
    if found := kernels_seen.evidence(case.precision, ran):
        result.verdict = max(result.verdict or "VALID", "INVALID" if found.invalid else "SUSPECT", key=VERDICTS.index)
        result.reason = "; ".join(filter(None, [result.reason, str(found)]))


def _subject(case: Case, report: Report) -> Subject:
    report("loading", 0)
    started = time.perf_counter()
    model = create(case.model, case.weights, case.device, case.res)
    loaded = time.perf_counter() - started
    sets = [(x.to(case.device), t.to(case.device), y.to(case.device)) for x, t, y in proof.input_sets(case)]
    report("reference", 0)
    with precision.applied("fp32"), operators_seen() as served:
        reference = model(*sets[0])
    return Subject(model, count_variant(catalogue.find(case.model), case.res), sets, reference, served, loaded)


def _open(case: Case, result: Measurement, subject: Subject, alone: bool, clock: Clock, stack: ExitStack) -> Opened:
    """Prepare the backend and prove its outputs."""
    counted = subject.counted
    result.load_s, result.kernels = subject.load_s, subject.kernels
    result.params, result.macs, result.macs_full = counted.params, counted.macs, counted.macs_full
    result.winograd_macs = counted.winograd_macs
    backend, takes = backends.find(case.backend), catalogue.find(case.model).signature.takes
    result.unranked = backend.unranked(case)
    trains = case.mode != "forward"
    kind = torch.float32 if trains else precision.dtype_of(case.precision)  # training keeps its weights in float32
    model = subject.model
    if trains or kind != torch.float32:
        model = (model if alone else copy.deepcopy(model)).to(kind)
    sets = [(x.to(kind), t, y) for x, t, y in subject.sets]
    with precision.applied(case.precision) as result.flags:
        rates = _rates(case)
        started = time.perf_counter()
        step = forward = stack.enter_context(backend.open(model, case, sets[0]))
        if trains:
            step = stack.enter_context(training.training_step(forward, model, case))
        output = step(*sets[0]).clone()
        clock.wait()
        result.build_s = getattr(step, "build_s", None)  # of backends that open a file they made, now or before
        result.prepare_s = time.perf_counter() - started - getattr(step, "waited_s", 0.0)
        proved = proof.prove(step, sets, subject.reference, case.precision, output, takes)
        if trains and (wrong := training.prove_gradient(forward, model, sets[0], case)):
            proved.findings.append(wrong)
        found = precision.label(precision.read(), case.precision, case.device)  # a backend may have flipped a switch
        if found != case.precision:
            proved.findings.append(Finding("PREC", f"the switches read back say {found}"))
    if math.isfinite(proved.error_vs_fp32):
        result.error_vs_fp32 = proved.error_vs_fp32
    lane = Lane(rotating(step, sets), functools.partial(precision.applied, case.precision))
    return Opened(case, result, backend, step, sets, counted, proved, lane, rates)


def _rates(case: Case) -> Rates:
    """Of the case's precision. On a CPU, products in half precision may be slower than converting to float32 and back,
    which libraries do where they see fit: there the rates of float32 count too."""
    rates = calibrate(case.device, case.precision)
    if case.device == "cpu" and precision.dtype_of(case.precision) != torch.float32:
        return rates.best(calibrate(case.device, "fp32"))
    return rates


def _conclude(each: Opened, rules: Rules, clock: Clock, seen: list[Finding]) -> None:
    """Check a timed case and write what its samples say into its measurement."""
    case, result, lane, counted = each.case, each.result, each.lane, each.counted
    samples = lane.block_s
    step_s = median(samples)
    with precision.applied(case.precision):
        changed = proof.unchanged(each.step, each.sets[0], each.proof.outputs[0], case.precision)
        linear = timing.linearity(lane, clock, case.device)
        x, t, y = each.sets[0]
        zeros = (torch.zeros_like(x), torch.zeros_like(t), torch.zeros_like(y))
        result.zeros_ratio = timing.zeros_ratio(lane, lambda: each.step(*zeros), clock)
        latencies = _latencies(lane, clock)
        rates = each.rates.best(_rates(case))
    worth, state = derived.passes(case.mode), derived.state_passes(case.mode)
    floor = limit(counted, worth * case.batch, rates, len(counted.operations) if each.backend.eager else 0, state)

    speed, result.images_per_s_low, result.images_per_s_high = derived.speeds(case.batch, samples)
    result.images_per_s = speed
    result.latency_s_p50 = percentile(latencies, 0.5)
    result.latency_s_p90 = percentile(latencies, 0.9, at_least=10)
    result.latency_s_p99 = percentile(latencies, 0.99, at_least=100)
    result.blocks, result.steps_per_block, result.block_s = len(samples), lane.steps_per_block, samples
    result.flops_per_s = derived.flops_per_s(case.mode, counted.macs_full, speed)
    result.rates, result.peak_flops_per_s = asdict(rates), rates.peak_flops_per_s
    result.mfu = result.flops_per_s / rates.peak_flops_per_s
    result.limit_images_per_s, result.limit_wall = case.batch / floor.seconds, floor.wall
    result.limit_fraction = speed / result.limit_images_per_s

    found = [
        changed,
        linear,
        timing.clocks(lane.blocks),
        timing.floor(step_s, floor.seconds),
        timing.drift(samples, rules),
        timing.width(lane, rules),
        *seen,
    ]
    result.status = "ok"
    result.verdict, result.reason = proof.report([finding for finding in found if finding])
    if result.unranked:
        result.reason = "; ".join(filter(None, [result.reason, f"not ranked: {result.unranked}"]))


def _latencies(lane: Lane, clock: Clock) -> list[Second]:
    if isinstance(clock, CudaClock):
        return [clock.single(lane.run) for _ in range(LATENCY_STEPS)]
    return [single for block in lane.blocks for single in block.singles]


def _fail(result: Measurement, error: BaseException) -> None:
    """Status, verdict and reason of a case that raised."""
    text = (str(error).strip().splitlines() or [""])[0][:300]
    words = ("out of memory", "can't allocate memory", "not enough memory")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in text for word in words):
        result.status, result.reason = "out_of_memory", text or "out of memory"
    elif isinstance(error, StoppedClock):
        result.status, (result.verdict, result.reason) = "wrong", proof.report([proof.Finding("CLK", text)])
    elif type(error).__name__ == "RecompileError":
        found = proof.Finding("COMP", f"the step was compiled again while it was timed: {text}")
        result.status, (result.verdict, result.reason) = "wrong", proof.report([found])
    else:
        result.status, result.reason = "failed", f"{type(error).__name__}: {text}"
        traceback.print_exception(error)  # to stderr, which a worker's parent keeps to itself
