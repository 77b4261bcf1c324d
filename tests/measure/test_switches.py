"""The precision switches, read inside every call: the reference runs under those of fp32, all else under the case's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from simulated import QUICK, RATES, Simulated, Unwatched
from torch import Tensor, nn

from convbench import backends
from convbench.checks.output import input_sets
from convbench.measure import drift, forward, opening, sampling, training
from convbench.precision import applied
from convbench.sampling import samplers
from convbench.sampling.images import Recipe
from convbench.sampling.plan import Plan
from convbench.schema import PRECISIONS, Backend, Case

Switches = tuple[bool, bool]  # TF32 in convolutions, in matrix products
SWITCHES = {
    "fp32": (False, False),
    "tf32": (True, True),
    "torch-default": (True, False),
    "bf16": (False, False),
    "fp16": (False, False),
}
Measure = Callable[[Case, "Seen"], Any]


class Seen:
    """The switches at each call of the network, by what is being done."""

    def __init__(self) -> None:
        self.phase = "before"
        self.found: dict[str, set[Switches]] = {}

    def report(self, phase: str, done: float) -> None:
        self.phase = phase

    def note(self, *_: object) -> None:
        self.found.setdefault(self.phase, set()).add(now())


def now() -> Switches:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[True, False], ids=["all on before", "all off before"])
def earlier(request: pytest.FixtureRequest) -> Iterator[Switches]:
    """Switches as another program left them."""
    before = now()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param, request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """A machine whose rates are known; the network notes every call, as does every measuring of the rates."""
    noted, create = Seen(), opening.create

    def watched(*which: Any) -> nn.Module:
        model = create(*which)
        model.register_forward_pre_hook(noted.note)
        return model

    def calibrate(device: str, precision: str) -> Any:
        noted.note()
        return RATES

    monkeypatch.setattr(forward, "Recorder", Unwatched)
    monkeypatch.setattr(sampling, "Recorder", Unwatched)
    monkeypatch.setattr(opening, "create", watched)
    monkeypatch.setattr(opening, "calibrate", calibrate)
    return noted


def forward_pass(case: Case, seen: Seen) -> Any:
    return forward.measure([case], QUICK, seen.report, Simulated())


def trajectory(case: Case, seen: Seen) -> Any:
    """The last lane to run is a whole trajectory of four steps."""
    clock = Simulated(lambda first, steps, lane: steps * (0.04 if lane == 4 else 0.01))
    asked = replace(case, sampling=str(Plan(4, 1.5, False, "iddpm")))
    return sampling.measure([asked], QUICK, seen.report, clock)


@pytest.mark.long_grid
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("measure", [forward_pass, trajectory])
def test_everything_but_the_reference_runs_under_the_switches_of_the_case(
    measure: Measure, precision: str, seen: Seen, earlier: Switches
) -> None:
    (row,) = measure(Case("dico_digits", 8, 2, precision=precision, threads=1), seen)
    assert (row.status, row.verdict, row.reason) == ("ok", "VALID", "")
    assert seen.found.pop("reference") == {(False, False)}
    assert {"proving", "checking"} < set(seen.found)
    assert any(phase.startswith("timing") for phase in seen.found)
    assert seen.found == {phase: {SWITCHES[precision]} for phase in seen.found}
    assert row.flags["cudnn.allow_tf32"] == str(SWITCHES[precision][0])
    assert row.flags["cuda.matmul.allow_tf32"] == str(SWITCHES[precision][1])
    assert now() == earlier


def test_each_of_two_precisions_that_are_timed_together_keeps_its_own(earlier: Switches, seen: Seen) -> None:
    """The switches change from block to block."""
    found: dict[str, set[Switches]] = {}

    @contextmanager
    def open(model: nn.Module, case: Case, inputs: Any) -> Iterator[Any]:
        def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            found.setdefault(f"{case.precision}, {seen.phase}", set()).add(now())
            return model(x, t, y)  # type: ignore[no-any-return]

        yield step

    cases = [Case("dico_digits", 8, 2, "noting", precision, threads=1) for precision in PRECISIONS]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backends, "find", lambda name: Backend(name, "", open))
        rows = forward.measure(cases, QUICK, seen.report, Simulated())
    assert [(row.status, row.reason) for row in rows] == [("ok", "")] * len(cases)
    assert found == {
        f"{precision}, {phase}": {SWITCHES[precision]}
        for precision in PRECISIONS
        for phase in ("proving", "timing", "checking")
    }
    assert now() == earlier


@pytest.mark.parametrize("precision", [each for each in PRECISIONS if each != "fp16"])  # which cannot train
def test_a_gradient_is_compared_with_that_of_fp32_forwards_and_backwards(precision: str, earlier: Switches) -> None:
    found: list[tuple[str, Switches]] = []

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, out: Tensor, whose: str) -> Tensor:
            ctx.whose = whose
            found.append((f"{whose}, forwards", now()))
            return out.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
            found.append((f"{ctx.whose}, backwards", now()))
            return gradient, None

    case = Case("dico_digits", 8, 2, precision=precision, mode="train")
    model, inputs = opening.create(case.model, res=case.res), input_sets(case)[0]
    model.register_forward_hook(lambda module, args, out: Noted.apply(out, "the reference"))  # not of model.forward
    with applied(precision), training.training_step(model, model, case):
        wrong = training.prove_gradient(lambda *args: Noted.apply(model.forward(*args), "a step"), model, inputs, case)
    ways = ("forwards", "backwards")
    assert found == [
        *((f"a step, {way}", SWITCHES[precision]) for way in ways),
        *((f"the reference, {way}", (False, False)) for way in ways),
    ]
    assert (wrong, now()) == (None, earlier)


@pytest.mark.parametrize("precision", [each for each in PRECISIONS if each != "tf32"])  # which a CPU refuses here
def test_images_are_walked_under_the_switches_of_the_engine_and_compared_with_those_of_fp32(
    precision: str, earlier: Switches, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Switches] = []
    eager = backends.find("eager")

    @contextmanager
    def open(model: nn.Module, case: Case, inputs: Any) -> Iterator[Any]:
        with eager.open(model, case, inputs) as inner:
            yield lambda x, t, y: (found.append(now()), inner(x, t, y))[1]

    monkeypatch.setattr(backends, "find", lambda name: Backend(name, "", open))
    recipe = Recipe("dico_digits", 8, None, "iddpm", 4, 1.5, None, 0, (0, 1), "eager", precision, None)
    rows = list(drift.drift(recipe, [("eager", precision)], samplers.create("iddpm", 4), 2, weights="shipped"))
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert found == [(False, False)] * 4 + [SWITCHES[precision]] * 4
    assert now() == earlier
