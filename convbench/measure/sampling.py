"""Sampling throughput: finished images/s through all steps, and which part of it the time goes to.

A trajectory repeats one step, so steps are timed in blocks, as forward passes are. A whole trajectory is run once
beside them, where that is not too long, to see that it takes as long as its steps promise. Where a cache or an interval
of guidance makes the steps uneven, whole trajectories are timed, and their parts are not known.
"""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median
from typing import Any

import torch
from torch import Tensor

from .. import backends, environment, precision
from ..catalogue import find
from ..checks import machine, output, timing
from ..checks.output import Finding
from ..errors import ConvbenchError
from ..sampling.images import sampler_for
from ..sampling.plan import Plan
from ..sampling.sampler import Sampler
from ..schema import Case, SamplingMeasurement, Second
from ..timing import compare, derived, memory
from ..timing.calibration import Limit, Rates, limit
from ..timing.clock import RULES, Clock, Lane, Rotation, Rules, clock_of, time_lanes
from ..timing.telemetry.recorder import Recorder
from .annotated import with_ratio
from .engine import open_cut
from .failure import failure, wrong
from .opening import Opened, Report, confirmed_floor, open_case, subject_of
from .trajectories import Trajectories, decoder_call, decoder_facts, has_random_decoder

WHOLE_AGREES = 0.1  # a whole trajectory against the sum of its steps, as a share; a busy CPU moves one run that far
PARTS = 0.25  # of the time of the step itself, that each part is timed for


def measure(
    cases: Sequence[Case],
    rules: Rules | None = None,
    report: Report = lambda what, done: None,
    clock: Clock | None = None,
) -> list[SamplingMeasurement]:
    """Time cases of sampling; the steps of several are timed interleaved. Rows and ratios as in ``forward.measure``."""
    rules, clock = rules or RULES[cases[0].device], clock or clock_of(cases[0].device)
    bundle = _Bundle(cases, rules, clock, report)
    with ExitStack() as stack, torch.inference_mode():
        try:
            return bundle.measure(stack)
        except ConvbenchError:
            raise
        except Exception as error:  # a backend may raise anything; the row says what
            if len(cases) == 1:
                return [bundle.failed(cases[0], error)]
    return [row for case in cases for row in measure([case], rules, report, clock)]


@dataclass
class _Ready:
    """A case that is ready to be timed, with the lanes of its parts."""

    case: Case
    plan: Plan
    made: Sampler
    opened: Opened
    trajectories: Trajectories
    plain: Lane | None  # the network without guidance
    lanes: dict[str, Lane]
    findings: list[Finding] = field(default_factory=list)

    @property
    def blocks(self) -> dict[str, list[Second]]:
        """Seconds of each part, as a row has them; those of the network are left out where steps are uneven."""
        lanes = self.lanes | ({"backbone": self.plain} if self.plain else {})
        known = {name: lane.block_s for name, lane in lanes.items() if lane.blocks} | {"step": self.step_s()}
        return {name: block_s for name, block_s in known.items() if self.plan.even or name != "forward"}

    def step_s(self) -> list[Second]:
        """Mean seconds of a step, for each block."""
        return [block_s / self.trajectories.steps_a_call for block_s in self.lanes["step"].block_s]

    def batch_s(self) -> list[Second]:
        """Seconds of a whole batch of finished images, for each block of the step."""
        decoder = median(self.lanes["decoder"].block_s) if self.plan.decode else 0.0
        return [self.made.steps * step_s + decoder for step_s in self.step_s()]


class _Bundle:
    """The cases of one call, and what is known of them so far."""

    def __init__(self, cases: Sequence[Case], rules: Rules, clock: Clock, report: Report) -> None:
        self.cases, self.rules, self.clock, self.report = cases, rules, clock, report
        self.short = replace(rules, min_s=PARTS * rules.min_s, cap_s=PARTS * rules.cap_s)
        self.device = cases[0].device
        self.plans = {case.id: Plan.of_text(case.sampling or "", find(case.model)) for case in cases}
        self.made = {
            case.id: sampler_for(find(case.model), self.plans[case.id].sampler, self.plans[case.id].steps)
            for case in cases
        }
        self.known: dict[str, dict[str, Any]] = {case.id: {} for case in cases}
        self.stamp: dict[str, Any] = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}

    def measure(self, stack: ExitStack) -> list[SamplingMeasurement]:
        if self.cases[0].threads:
            torch.set_num_threads(self.cases[0].threads)
        torch.set_flush_denormal(True)
        stack.callback(torch.set_flush_denormal, False)
        torch.backends.cudnn.benchmark = True
        self.stamp["environment"] = environment.describe()

        rows: dict[str, SamplingMeasurement] = {}
        ready = []
        for case in self.cases:
            try:
                found = self._prepare(case, stack)
            except ConvbenchError:
                raise
            except Exception as error:  # a backend may raise anything; the row says what, and the others go on
                rows[case.id] = self.failed(case, error)
                continue
            if isinstance(found, list):
                rows[case.id] = self._row(case, **wrong(found))
            else:
                ready.append(found)
        if ready:
            rows |= {row.case: row for row in self._time(ready)}
        return [rows[case.id] for case in self.cases]

    def failed(self, case: Case, error: BaseException) -> SamplingMeasurement:
        """The row of a case that raised, with what was known of it by then."""
        return self._row(case, **failure(error))

    def _row(self, case: Case, **known: Any) -> SamplingMeasurement:
        return SamplingMeasurement.of(case, **{**planned_keys(self.plans[case.id]), **self.stamp}, **known)

    def _prepare(self, case: Case, stack: ExitStack) -> "_Ready | list[Finding]":
        """Open the network, for both batch sizes where it is guided; the findings where it is wrong."""
        plan, made = self.plans[case.id], self.made[case.id]
        around = functools.partial(precision.applied, case.precision)
        plain, beside = None, backends.find(case.backend).eager
        other = None  # the engine for the steps without guidance
        if plan.cfg_interval and not beside:
            alone = self._opened(case, stack)
            if alone.proof.findings:
                return alone.proof.findings
            other = alone.step
        if plan.cfg != 1 and plan.even:
            with ExitStack() as own:
                alone = self._opened(case, stack if beside else own)
                if alone.proof.findings:
                    return alone.proof.findings
                plain = Lane(Rotation(alone.step, alone.sets), around)
                if not beside:  # an engine of another batch size may not live beside the one that is used
                    time_lanes([plain], self.clock, self.short)
        opened = self._opened(case if plan.cfg == 1 else replace(case, batch=2 * case.batch), stack)
        if opened.proof.findings:
            return opened.proof.findings
        cut = None
        if plan.cache:
            cut = open_cut(opened.case, opened.subject.model, opened.sets[0], stack)
        trajectories = Trajectories(case, plan, made, opened, other, cut)
        with around():  # one call of the network gives the sampler's part its input
            lanes = {name: Lane(run, around) for name, run in trajectories.parts().items()}
        lanes["decoder"] = Lane(decoder_call(case, plan, trajectories.start), around)
        return _Ready(case, plan, made, opened, trajectories, plain, lanes)

    def _opened(self, case: Case, stack: ExitStack) -> Opened:
        subject = subject_of(case, self.report)
        self.report("proving", 0)
        return open_case(case, subject, subject.model, self.clock, stack)

    def _time(self, ready: list[_Ready]) -> list[SamplingMeasurement]:
        clock, rules, short, report = self.clock, self.rules, self.short, self.report
        memory.reset_peak(self.device)
        with Recorder(self.device) as recorder:
            steps = [each.lanes["step"] for each in ready]
            time_lanes(steps, clock, rules, lambda done: report("timing steps", done), timed=recorder.timed)
            for each in ready:
                beside = each.plain if each.plain and not each.plain.blocks else None
                parts = [each.lanes[name] for name in ("forward", "sampler") if name in each.lanes]
                parts += [beside] if beside else []
                time_lanes(parts, clock, short, lambda done: report("timing parts", done))
                if each.plan.decode:
                    time_lanes([each.lanes["decoder"]], clock, short, lambda done: report("timing the decoder", done))
        load = recorder.summary()
        seen = machine.check_machine(load, recorder.facts)
        report("checking", 1)
        noise = rules.noise or compare.noise(ready[0].lanes["step"].block_s, None, self.device) or 0.0
        rows = []
        for each in ready:
            try:
                rows.append(self._conclude(each, replace(rules, noise=noise), load, seen))
            except Exception as error:  # the results of the others stand
                rows.append(self.failed(each.case, error))
        return self._compared(rows, ready)

    def _conclude(
        self, each: _Ready, rules: Rules, load: dict[str, float | None], seen: list[Finding]
    ) -> SamplingMeasurement:
        case, plan, opened, step = each.case, each.plan, each.opened, each.lanes["step"]
        numbers = derived.sampling_numbers(case.batch, each.made.steps, plan.decode, plan.cfg != 1, each.blocks)
        step_s = median(each.step_s())
        whole_s, whole = None, None
        with precision.applied(case.precision):
            floor_at = functools.partial(_floor, each)
            *_, too_fast = confirmed_floor(opened.case, opened.rates, floor_at, step_s)
            if each.made.steps * step_s <= rules.cap_s:
                whole_s = self.clock.block(each.trajectories.whole, 1).total_s
                whole = _whole_trajectory(each.trajectories.last, whole_s, each.made.steps * step_s, rules.noise)
            found = self._shortcuts(each, rules)
            found += [
                output.check_unchanged(opened.step, opened.sets[0], opened.proof.outputs[0], case.precision),
                output.check_fresh(opened.step, opened.fresh, opened.subject.fresh_reference, case.precision),
                timing.check_linearity(step, self.clock, case.device, rules.noise),
                timing.check_clocks(step.blocks),
                too_fast,
                timing.check_drift(step.block_s, rules),
                timing.check_interval(step, rules),
                *seen,
            ]
        verdict, reason = output.verdict_of([finding for finding in [*found, whole] if finding])
        by_config = has_random_decoder(case, plan)
        unranked = opened.backend.unranked(case)
        notes = [
            reason,
            "the decoder has random weights" if by_config else "",
            f"not ranked: {unranked}" if unranked else "",
        ]
        return self._row(
            case,
            status="ok",
            verdict=verdict,
            reason="; ".join(filter(None, notes)),
            evaluations=each.made.steps,
            **numbers,
            **decoder_facts(case, plan),
            whole_s=whole_s,
            blocks=each.blocks,
            unranked=unranked,
            load=load,
            flags=opened.flags,
            prepare_s=opened.prepare_s,
            error_vs_fp32=opened.facts()["error_vs_fp32"],
        )

    def _shortcuts(self, each: _Ready, rules: Rules) -> list[Finding | None]:
        """Compare the time of a pass on zeros and on inputs that it has not seen with that of the lane ``forward``."""
        forward, zeros = each.lanes["forward"], each.opened.on_zeros()
        ratio = timing.zeros_ratio(forward, zeros, self.clock)
        return [
            timing.check_fresh(forward, each.opened.on_fresh_inputs, self.clock, rules.noise),
            timing.check_zeros(ratio, forward, zeros, self.clock, rules.noise),
        ]

    def _compared(self, rows: list[SamplingMeasurement], ready: list[_Ready]) -> list[SamplingMeasurement]:
        """The rows with their ratios: the first case over its counterpart, an A/A repeat over the first."""
        first, delta = ready[0], compare.DELTA[self.device]
        for i, other in enumerate(ready[1:], start=1):
            if not rows[0].status == rows[i].status == "ok":
                continue
            if replace(other.case, repeat=1) == replace(first.case, repeat=1):
                found = compare.compare_blocks(first.batch_s(), other.batch_s(), delta)
                rows[i] = with_ratio(rows[i], rows[0].case, found)
            elif not (rows[0].unranked or rows[i].unranked):
                found = compare.compare_blocks(other.batch_s(), first.batch_s(), delta)
                rows[0] = with_ratio(rows[0], rows[i].case, found)
        return rows


def planned_keys(plan: Plan) -> dict[str, Any]:
    """The keys of a row that its plan determines."""
    return {"sampler": plan.sampler, "steps": plan.steps, "cfg_scale": plan.cfg, "decode": plan.decode}


def _floor(each: _Ready, rates: Rates) -> Limit:
    """The least time of a step: of its share of a pass that runs."""
    opened = each.opened
    whole = limit(opened.counted, opened.case.batch, rates, 0, executed_macs=opened.executed_macs)
    return replace(whole, seconds=whole.seconds * each.trajectories.share)


def _whole_trajectory(last: Tensor, whole_s: Second, expected_s: Second, noise: float) -> Finding | None:
    """LIN over a trajectory: from end to end it takes as long as its steps, but for the noise of the run.

    SUM: it ends in finite images.
    """
    if not last.isfinite().all():
        return Finding("SUM", "a trajectory ends in values that are not finite", severity="SUSPECT")
    if abs(whole_s / expected_s - 1) <= max(WHOLE_AGREES, noise):
        return None
    return Finding(
        "LIN", f"a whole trajectory took {whole_s:.3g} s, but its steps predict {expected_s:.3g} s", severity="SUSPECT"
    )
