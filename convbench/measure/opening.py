"""A case from its id to a proved step: the network, its inputs, its reference, the backend, what the proof found."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from .. import backends, catalogue, precision
from ..checks import output
from ..checks.operators import operators_seen
from ..checks.output import Finding, Proof
from ..checks.timing import check_floor
from ..counting import Count
from ..models import create
from ..models.counts import count_variant
from ..schema import Backend, Case, Second, Step
from ..timing.calibration import Limit, Rates, calibrate
from ..timing.clock import Clock, Inputs
from . import training

FLOOR_ATTEMPTS = 3

Report = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""


@dataclass(frozen=True)
class Subject:
    """A network with its inputs, and the output of fp32 eager for the first and for those that backends do not get."""

    model: nn.Module
    counted: Count
    sets: list[Inputs]
    reference: Tensor
    fresh: Inputs
    fresh_reference: Tensor
    kernels: dict[str, str]
    load_s: Second

    def facts(self) -> dict[str, Any]:
        """Keys of a Measurement that are known before a backend is opened."""
        counted = self.counted
        return {
            "load_s": self.load_s,
            "kernels": self.kernels,
            "params": counted.params,
            "macs": counted.macs,
            "macs_full": counted.macs_full,
            "winograd_macs": counted.winograd_macs,
        }


@dataclass(frozen=True)
class Opened:
    """A case whose step has run and been checked. ``proof.findings`` says why it must not be timed, if it must not."""

    case: Case
    subject: Subject
    backend: Backend
    step: Step
    sets: list[Inputs]  # in the precision of the case
    proof: Proof
    rates: Rates
    flags: dict[str, str]  # precision switches as read back
    prepare_s: Second
    build_s: Second | None
    executed_macs: int | None = None  # of one image, of a backend whose step says what it saved

    @property
    def fresh(self) -> Inputs:
        """The inputs kept from the backend, in the precision of the case: x (B, C, H, W), t (B,) and y (B,)."""
        x, t, y = self.subject.fresh
        return x.to(self.sets[0][0].dtype), t, y

    @property
    def counted(self) -> Count:
        """The counts of one image."""
        return self.subject.counted

    def on_fresh_inputs(self) -> Callable[[], object]:
        """A step on inputs that are drawn now."""
        x, t, y = (value.to(self.case.device) for value in output.fresh_inputs(self.case))
        x = x.to(self.sets[0][0].dtype)
        return lambda: self.step(x, t, y)

    def on_zeros(self) -> Callable[[], object]:
        """A step on zeros of the shapes of its inputs."""
        zeros = [torch.zeros_like(value) for value in self.sets[0]]
        return lambda: self.step(*zeros)

    def facts(self) -> dict[str, Any]:
        """Keys of a Measurement that are known before anything is timed."""
        error = self.proof.error_vs_fp32
        return self.subject.facts() | {
            "unranked": self.backend.unranked(self.case),
            "flags": self.flags,
            "prepare_s": self.prepare_s,
            "build_s": self.build_s,
            "executed_macs": self.executed_macs,
            "error_vs_fp32": error if isfinite(error) else None,
        }


def subject_of(case: Case, report: Report) -> Subject:
    """Make the network of a case and its inputs, and run it once in fp32 eager."""
    report("loading", 0)
    started = time.perf_counter()
    model = create(case.model, case.weights, case.device, case.res)
    loaded = time.perf_counter() - started
    *sets, fresh = (
        (x.to(case.device), t.to(case.device), y.to(case.device))
        for x, t, y in [*output.input_sets(case), output.fresh_inputs(case)]
    )
    report("reference", 0)
    with precision.applied("fp32"), operators_seen() as served:
        reference, fresh_reference = model(*sets[0]), model(*fresh)
    counted = count_variant(catalogue.find(case.model), case.res)
    return Subject(model, counted, sets, reference, fresh, fresh_reference, served, loaded)


def open_case(
    case: Case, subject: Subject, model: nn.Module, clock: Clock, stack: ExitStack, rates: Rates | None = None
) -> Opened:
    """Prepare the backend and prove its outputs.

    Args:
        model: the subject's network, or a copy; it is cast to the precision of the case in place.
        stack: leaves the backend when it is closed.
        rates: of this machine in the precision of the case, if they were just measured.
    """
    backend, takes = backends.find(case.backend), catalogue.find(case.model).signature.takes
    trains = case.mode != "forward"
    kind = torch.float32 if trains else precision.dtype_of(case.precision)  # training keeps its weights in float32
    model = model.to(kind)
    sets = [(x.to(kind), t, y) for x, t, y in subject.sets]
    with precision.applied(case.precision) as flags:
        rates = rates or rates_of(case)
        started = time.perf_counter()
        step = forward = stack.enter_context(backend.open(model, case, sets[0]))
        if trains:
            step = stack.enter_context(training.training_step(forward, model, case))
        first = step(*sets[0]).clone()
        clock.wait()
        prepare_s = time.perf_counter() - started - getattr(step, "waited_s", 0.0)
        proof = output.prove(step, sets, subject.reference, case.precision, first, takes)
        if changed := output.check_inputs(sets, output.input_sets(case)):
            proof.findings.append(changed)
        if trains and (wrong := training.prove_gradient(forward, model, sets[0], case)):
            proof.findings.append(wrong)
        found = precision.effective_label(
            precision.read_switches(), case.precision, case.device
        )  # a backend may have flipped a switch
        if found != case.precision:
            proof.findings.append(Finding("PREC", f"the precision switches read back as {found}"))
    # Of backends that open a file they made, now or before.
    build_s = getattr(step, "build_s", None)
    # Of backends whose algorithm executes fewer products than direct convolution: the evidence that sets their limit.
    counted = subject.counted
    saved = getattr(step, "saved_macs", 0) // case.batch
    saved += round(counted.dense_3x3_macs * (1 - getattr(step, "winograd_share", 1.0)))
    executed = counted.macs_full - saved if saved else None
    return Opened(case, subject, backend, step, sets, proof, rates, flags, prepare_s, build_s, executed)


def rates_of(case: Case) -> Rates:
    """Measure the machine's rates in the precision of the case.

    On a CPU, products in half precision may be slower than converting to float32 and back, which libraries do where
    they see fit: there the rates of float32 count too.
    """
    rates = calibrate(case.device, case.precision)
    if case.device == "cpu" and precision.dtype_of(case.precision) != torch.float32:
        return rates.best(calibrate(case.device, "fp32"))
    return rates


def confirmed_floor(
    case: Case, rates: Rates, floor_at: Callable[[Rates], Limit], step_s: Second
) -> tuple[Rates, Limit, Finding | None]:
    """Check FLOOR. The rates are measured again before it counts: a busy machine makes them too low.

    Args:
        floor_at: the least time of a step at given rates.

    Returns the highest rates, the floor that they give, and what is found.
    """
    for attempt in range(FLOOR_ATTEMPTS):
        rates = rates.best(rates_of(case)) if attempt else rates
        floor = floor_at(rates)
        found = check_floor(step_s, floor.seconds)
        if found is None:
            break
    return rates, floor, found
