"""Cases of one bundle in one process: make, prove, time interleaved, check again.

``worker`` calls it in a process of its own; tests call it directly.
"""

import copy
import functools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import median
from typing import Any

import torch

from .. import environment, precision
from ..checks import kernels, machine, output, timing
from ..checks.output import Finding
from ..errors import ConvbenchError
from ..schema import Case, Measurement, Second
from ..timing import compare, derived, memory
from ..timing.calibration import Limit, Rates, limit
from ..timing.clock import RULES, Clock, CudaClock, Lane, Rotation, Rules, clock_of, single_steps, time_lanes
from ..timing.intervals import percentile
from ..timing.telemetry.recorder import Recorder
from ..timing.telemetry.summary import joules_per_image
from .annotated import with_finding, with_ratio
from .failure import failure, wrong
from .opening import Opened, Report, Subject, confirmed_floor, open_case, rates_of, subject_of


@dataclass(frozen=True)
class Timed:
    """A case with its samples, and what its machine did meanwhile."""

    opened: Opened
    lane: Lane
    load: dict[str, float | None]
    seen: list[Finding]  # by the checks of the machine
    errors: list[float]  # of the output that each block left behind
    peak_bytes: int | None
    environment: dict[str, Any]


def measure(
    cases: Sequence[Case],
    rules: Rules | None = None,
    report: Report = lambda what, done: None,
    clock: Clock | None = None,
) -> list[Measurement]:
    """Measure cases on one device; several are timed interleaved, and the first is compared with each other one.

    A ratio stands on the row of the first case; that of an A/A repeat on the row of the repeat. A case that cannot
    be measured comes back with the status and reason that say why; only errors that a user can fix before any work
    (ConvbenchError) are raised.
    """
    device = cases[0].device
    rules, clock = rules or RULES[device], clock or clock_of(device)
    # Tensors that are made in inference mode can never be trained.
    still = torch.inference_mode() if cases[0].mode == "forward" else torch.no_grad()
    bundle = _Bundle(cases, rules, clock, report)
    with ExitStack() as stack, still:
        try:
            return bundle.measure(stack)
        except ConvbenchError:
            raise
        except Exception as error:  # a backend may raise anything while it is timed, too
            if len(cases) == 1:
                return [bundle.failed(cases[0], error)]
    # One of those that were timed together raised; the others still get a number of their own.
    return [row for case in cases for row in measure([case], rules, report, clock)]


class _Bundle:
    """The cases of one call, and what is known of them so far."""

    def __init__(self, cases: Sequence[Case], rules: Rules, clock: Clock, report: Report) -> None:
        self.cases, self.rules, self.clock, self.report = cases, rules, clock, report
        self.device = cases[0].device
        self.known: dict[str, dict[str, Any]] = {case.id: {} for case in cases}  # keys of a row, should it fail
        self.before: dict[str, Rates] = {}  # of this machine by precision: before timing, and after it
        self.after: dict[str, Rates] = {}
        self.stamp: dict[str, Any] = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}

    def measure(self, stack: ExitStack) -> list[Measurement]:
        if self.cases[0].threads:
            torch.set_num_threads(self.cases[0].threads)
        torch.set_flush_denormal(True)
        stack.callback(torch.set_flush_denormal, False)
        torch.backends.cudnn.benchmark = True  # tuned in the untimed part, once for each shape
        self.stamp["environment"] = environment.describe()

        rows: dict[str, Measurement] = {}
        opened = []
        subjects: dict[tuple[str, int, int], Subject] = {}
        for case in self.cases:
            try:
                ready = self._open(case, subjects, stack)
            except ConvbenchError:
                raise
            except Exception as error:  # a backend may raise anything; the row says what, and the run goes on
                rows[case.id] = self.failed(case, error)
                continue
            if ready.proof.findings:
                rows[case.id] = self._row(case, **wrong(ready.proof.findings))
            else:
                opened.append(ready)
        if opened:
            rows |= {row.case: row for row in self._time(opened)}
        return [rows[case.id] for case in self.cases]

    def _open(self, case: Case, subjects: dict[tuple[str, int, int], Subject], stack: ExitStack) -> Opened:
        key = (case.model, case.res, case.batch)
        if key not in subjects:
            subjects[key] = subject_of(case, self.report)
        subject = subjects[key]
        self.known[case.id] = subject.facts()
        self.report("proving", 0)
        changed = case.mode != "forward" or precision.dtype_of(case.precision) != torch.float32
        model = copy.deepcopy(subject.model) if changed and len(self.cases) > 1 else subject.model
        ready = open_case(case, subject, model, self.clock, stack, self.before.get(case.precision))
        self.before[case.precision] = ready.rates
        self.known[case.id] = ready.facts()
        return ready

    def _row(self, case: Case, **known: Any) -> Measurement:
        return Measurement.of(case, **{**self.stamp, **self.known[case.id], **known})

    def failed(self, case: Case, error: BaseException) -> Measurement:
        """The row of a case that raised, with what was known of it by then."""
        return self._row(case, **failure(error))

    def _time(self, opened: list[Opened]) -> list[Measurement]:
        timed = self._interleave(opened)
        rules = replace(self.rules, noise=self.rules.noise or self._noise(timed))
        rows = []
        for each in timed:
            self.report("checking", 1)
            try:
                rows.append(self._conclude(each, rules, joules=len(timed) == 1))
            except Exception as error:  # the results of the others stand
                rows.append(self.failed(each.opened.case, error))
        rows = self._compared(rows, timed)
        if self.device == "cuda":  # last, as the profiler stays attached and slows launches
            rows = [
                _with_kernel_names(row, each.opened) if row.status == "ok" else row
                for row, each in zip(rows, timed, strict=True)
            ]
        return rows

    def _interleave(self, opened: list[Opened]) -> list[Timed]:
        lanes, errors = [], []
        for each in opened:
            rotation, found = Rotation(each.step, each.sets), list[float]()
            errors.append(found)
            look = functools.partial(_note_error, rotation, each.proof.outputs, found)
            lanes.append(Lane(rotation, functools.partial(precision.applied, each.case.precision), after=look))
        delta = compare.DELTA[self.device]

        def settled() -> bool:
            a = lanes[0].block_s
            return len(a) >= compare.LEAST_PAIRS and all(
                compare.compare_blocks(b.block_s, a, delta).difference != "unclear" for b in lanes[1:]
            )

        memory.reset_peak(self.device)
        allocated = memory.device_allocations(self.device)
        with Recorder(self.device) as recorder:
            time_lanes(
                lanes,
                self.clock,
                self.rules,
                lambda done: self.report("timing", done),
                settled if len(lanes) > 1 else lambda: True,
                recorder.timed,
            )
        load, peak = recorder.summary(), memory.peak_bytes(self.device)
        seen = machine.check_machine(load, recorder.facts)
        blocks_s = sum(lane.timed_s for lane in lanes)
        if (outside := recorder.outside()) and (differing := timing.check_outside(blocks_s, *outside)):
            seen.append(differing)
        if asked := timing.check_allocations(memory.device_allocations(self.device) - allocated):
            seen.append(asked)
        facts = {"telemetry": recorder.facts, "telemetry_reason": recorder.reason}
        self.stamp["environment"] = self.stamp["environment"] | facts
        return [
            Timed(each, lane, load, seen, found, peak, self.stamp["environment"])
            for each, lane, found in zip(opened, lanes, errors, strict=True)
        ]

    def _noise(self, timed: Sequence[Timed]) -> float:
        """The noise of a run's first bundle; later ones are told (``Rules.noise``)."""
        first = timed[0]
        repeats = (each.lane.block_s for each in timed[1:] if _is_repeat(each.opened.case, first.opened.case))
        return compare.noise(first.lane.block_s, next(repeats, None), self.device) or 0.0

    def _conclude(self, timed: Timed, rules: Rules, joules: bool) -> Measurement:
        """Check a timed case and build its row."""
        opened, lane, clock = timed.opened, timed.lane, self.clock
        case, counted, samples = opened.case, opened.counted, lane.block_s
        zeros = opened.on_zeros()

        def floor_at(rates: Rates) -> Limit:
            images, state = derived.passes(case.mode) * case.batch, derived.state_passes(case.mode)
            launches = len(counted.operations) if opened.backend.eager else 0
            return limit(counted, images, rates, launches, state, opened.executed_macs)

        with precision.applied(case.precision):
            changed = output.check_unchanged(opened.step, opened.sets[0], opened.proof.outputs[0], case.precision)
            linear = timing.check_linearity(lane, clock, case.device, rules.noise)
            zeros_ratio = timing.zeros_ratio(lane, zeros, clock)
            skipping = timing.check_zeros(zeros_ratio, lane, zeros, clock, rules.noise)
            fresh = output.check_fresh(opened.step, opened.fresh, opened.subject.fresh_reference, case.precision)
            repeated = timing.check_fresh(lane, opened.on_fresh_inputs, clock, rules.noise)
            latencies = _latencies(lane, clock)
            self.after[case.precision] = self.after.get(case.precision) or rates_of(case)
            rates, floor, too_fast = confirmed_floor(
                case, opened.rates.best(self.after[case.precision]), floor_at, median(samples)
            )
        speed, low, high = derived.speeds(case.batch, samples)
        flops = derived.flops_per_s(case.mode, counted.macs_full, speed)
        findings = [
            changed,
            output.check_during(timed.errors, case.precision),
            fresh,
            repeated,
            linear,
            skipping,
            timing.check_clocks(lane.blocks),
            too_fast,
            timing.check_drift(samples, rules),
            timing.check_interval(lane, rules),
            *timed.seen,
        ]
        verdict, reason = output.verdict_of([finding for finding in findings if finding])
        unranked = opened.backend.unranked(case)
        return self._row(
            case,
            status="ok",
            verdict=verdict,
            reason="; ".join(filter(None, [reason, unranked and f"not ranked: {unranked}"])),
            images_per_s=speed,
            images_per_s_low=low,
            images_per_s_high=high,
            latency_s_p50=percentile(latencies, 0.5),
            latency_s_p90=percentile(latencies, 0.9, at_least=10),
            latency_s_p99=percentile(latencies, 0.99, at_least=100),
            blocks=len(samples),
            steps_per_block=lane.steps_per_block,
            block_s=samples,
            peak_bytes=timed.peak_bytes,
            flops_per_s=flops,
            peak_flops_per_s=rates.peak_flops_per_s,
            mfu=flops / rates.peak_flops_per_s,
            limit_images_per_s=case.batch / floor.seconds,
            limit_fraction=speed / (case.batch / floor.seconds),
            limit_wall=floor.wall,
            zeros_ratio=zeros_ratio,
            rates=asdict(rates),
            load=timed.load,
            joules_per_image=joules_per_image(timed.load, speed, case.device) if joules else None,
        )

    def _compared(self, rows: list[Measurement], timed: list[Timed]) -> list[Measurement]:
        """The rows with their ratios: the first case over its counterpart, an A/A repeat over the first."""
        first, delta = timed[0], compare.DELTA[self.device]
        for i, other in enumerate(timed[1:], start=1):
            if not rows[0].status == rows[i].status == "ok":
                continue
            if _is_repeat(other.opened.case, first.opened.case):
                found = compare.compare_blocks(first.lane.block_s, other.lane.block_s, delta)
                rows[i] = with_ratio(rows[i], rows[0].case, found)
                if told_apart := timing.check_repeat(found):
                    rows[0], rows[i] = with_finding(rows[0], told_apart), with_finding(rows[i], told_apart)
            elif not (rows[0].unranked or rows[i].unranked):  # a row that is never ranked is compared with itself only
                found = compare.compare_blocks(other.lane.block_s, first.lane.block_s, delta)
                rows[0] = with_ratio(rows[0], rows[i].case, found)
        return rows


def _is_repeat(case: Case, of: Case) -> bool:
    return replace(case, repeat=1) == replace(of, repeat=1)


def _note_error(rotation: Rotation, outputs: Sequence[torch.Tensor], errors: list[float]) -> None:
    """Add the error of the output that the latest step left, against that of the proof, (B, C or 2C, H, W) each."""
    assert rotation.output is not None
    errors.append(output.worst_error(rotation.output, outputs[rotation.latest]))


def _with_kernel_names(row: Measurement, opened: Opened) -> Measurement:
    """PREC: hold the names of the kernels that ran against the precision of the case."""
    with precision.applied(opened.case.precision):
        ran = kernels.profile_kernels(opened.step, opened.sets[0])
    launches = sum(kernel.calls for kernel in ran) or None
    row = replace(row, kernels=row.kernels | kernels.dominant_precisions(ran), launches=launches)
    if opened.backend.launched_singly and launches:
        row = replace(row, reason="; ".join(filter(None, [row.reason, kernels.launch_words(launches, row)])))
    found = kernels.check_precision(opened.case.precision, ran)
    return with_finding(row, found) if found else row


def _latencies(lane: Lane, clock: Clock) -> list[Second]:
    if isinstance(clock, CudaClock):
        return single_steps(lambda: clock.single(lane.run))
    return [single for block in lane.blocks for single in block.singles]
