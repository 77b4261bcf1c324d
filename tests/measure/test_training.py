"""A training step: does all that it says, may be repeated, and is proved by its gradient."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from simulated import QUICK, RATES, Simulated
from torch import Tensor, nn

from convbench import models
from convbench.checks.output import input_sets
from convbench.errors import UsageError
from convbench.measure import forward as measure
from convbench.measure import opening, training
from convbench.run import plan
from convbench.schema import Case, Step

CASE = Case("dico_digits", 8, 3, threads=1, mode="train")


@pytest.fixture(autouse=True)
def known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the rates of a machine takes seconds, in bf16 on most processors tens of them."""
    monkeypatch.setattr(opening, "calibrate", lambda device, precision: RATES)


def made() -> nn.Module:
    return models.create(CASE.model, res=CASE.res)


def test_the_gradient_is_that_of_float64() -> None:
    model, inputs = made(), input_sets(CASE)[0]
    wide = copy.deepcopy(model).double().requires_grad_(True)
    x, t, y = inputs
    wide(x.double(), t, y).square().mean().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    found = training._gradient(model(*inputs), training._learned(model))
    exact = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in wide.parameters()]
    )
    assert (found - exact).norm() / exact.norm() < 1e-5


@pytest.mark.parametrize("mode", ["train", "train+ema", "train+checkpointing", "train+ema+checkpointing"])
def test_a_step_trains_and_can_be_repeated(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, case = made(), replace(CASE, mode=mode)
    x, t, y = input_sets(case)[0]
    before, output = {k: v.clone() for k, v in model.state_dict().items()}, model(x, t, y)
    steps: list[int] = []
    own = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: (steps.append(_gradients_of(self)), own(self)))
    averaged: list[int] = []
    lerp = torch._foreach_lerp_
    monkeypatch.setattr(torch, "_foreach_lerp_", lambda a, b, w: (averaged.append(len(a)), lerp(a, b, w)))
    with training.training_step(model, model, case) as step:
        outputs = [step(x, t, y) for _ in range(3)]
    learned = len(list(model.parameters()))
    assert steps == [learned] * 3 and averaged == ([learned] * 3 if "ema" in mode else [])
    assert all(torch.equal(out, output) for out in outputs)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def _gradients_of(optimiser: torch.optim.Optimizer) -> int:
    return sum(p.grad is not None for group in optimiser.param_groups for p in group["params"])


def test_checkpointing_computes_blocks_twice() -> None:
    model, calls = made(), 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    blocks = [module for module in model.modules() if type(module).__name__ == "DiCoBlock"]
    for block in blocks:
        block.conv5.register_forward_hook(count)  # type: ignore[union-attr]
    for mode, times in (("train", 1), ("train+checkpointing", 2)):
        calls = 0
        with training.training_step(model, model, replace(CASE, mode=mode)) as step:
            step(*input_sets(CASE)[0])
        assert calls == times * len(blocks)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["train", "train+ema+checkpointing"])
def test_it_is_proved_and_timed(mode: str, precision: str) -> None:
    a, b = (replace(CASE, mode=mode, precision=precision, repeat=repeat) for repeat in (1, 2))
    results = measure.measure([a, b], QUICK, clock=Simulated())
    assert [result.status for result in results] == ["ok", "ok"], results[0].reason
    (forward,) = measure.measure([replace(CASE, mode="forward")], QUICK, clock=Simulated())
    first = results[0]
    assert first.mode == mode and first.case.endswith(f"/{mode}")
    assert first.flops_per_s and first.images_per_s and forward.flops_per_s and forward.images_per_s
    ratio = (first.flops_per_s / first.images_per_s) / (forward.flops_per_s / forward.images_per_s)
    assert ratio == pytest.approx(3)


def test_a_wrong_gradient_is_found() -> None:
    """A forward pass that is right, and whose backward pass forgets half of it."""

    def half(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = model(x, t, y)
        return out.detach() / 2 + out / 2

    model = made()
    with training.training_step(half, model, CASE) as step:
        step(*input_sets(CASE)[0])
        assert training.prove_gradient(model, model, input_sets(CASE)[0], CASE) is None
        found = training.prove_gradient(half, model, input_sets(CASE)[0], CASE)
    assert found and str(found).startswith("GRAD: relative error 5.0e-01 of the gradient")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["train", "train+ema+checkpointing"])
def test_a_case_with_a_wrong_gradient_is_not_timed(mode: str, precision: str) -> None:
    """Its outputs are right, so that only GRAD can tell; the same backend passes forwards."""
    clock = Simulated()
    wrong = replace(CASE, backend="faulty:half_a_gradient", mode=mode, precision=precision)
    (result,) = measure.measure([wrong], QUICK, clock=clock)
    assert (result.status, result.verdict, result.images_per_s) == ("wrong", "INVALID", None)
    assert result.reason.startswith("GRAD: relative error 5.0e-01 of the gradient exceeds the limit of ")
    assert clock.steps == 0
    (result,) = measure.measure([replace(wrong, mode="forward")], QUICK, clock=clock)
    assert result.status == "ok"


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 1e-1)])
def test_a_gradient_may_be_as_far_from_fp32_as_twice_its_precision_allows(precision: str, limit: float) -> None:
    model, case, inputs = made(), replace(CASE, precision=precision), input_sets(CASE)[0]

    def scaled(by: float) -> Step:
        """The right output, with a gradient that is off by that share."""

        def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            out: Tensor = model(x, t, y)
            return out.detach() + (1 + by) * (out - out.detach())

        return step

    with training.training_step(model, model, case):
        assert training.prove_gradient(scaled(0.8 * limit), model, inputs, case) is None
        found = training.prove_gradient(scaled(1.2 * limit), model, inputs, case)
    assert found and found.code == "GRAD" and f"exceeds the limit of {limit:.0e}" in found.text


@pytest.mark.parametrize(
    ("backend", "precision", "reason"),
    [
        ("eager", "bf16", None),
        ("compile", "fp32", None),
        ("onnxruntime", "fp32", "onnxruntime cannot train; use eager or compile"),
        ("eager", "fp16", "training in fp16 needs a loss scaler, which is not implemented; use bf16"),
    ],
)
def test_what_cannot_train_says_why(backend: str, precision: str, reason: str | None) -> None:
    assert training.unsupported(replace(CASE, backend=backend, precision=precision)) == reason
    assert training.unsupported(replace(CASE, backend=backend, precision=precision, mode="forward")) is None


@pytest.mark.parametrize("mode", ["trains", "train+", "train+ema+ema", "forward+ema", "ema", ""])
def test_an_unknown_mode_is_one_line(mode: str) -> None:
    with pytest.raises(
        UsageError, match=r"^unknown mode '.*'; choose from forward, train, train\+checkpointing, train\+ema,"
    ):
        plan.plan(plan.Request(["dico_s"], mode=[mode]))
