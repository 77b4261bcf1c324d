"""Questions about a GPU go to a worker: the process that plans must not hold a context on it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from simulated import RATES

from convbench.errors import NothingMeasured
from convbench.measure.estimate import estimate
from convbench.papers.differences import ours, papers_way
from convbench.papers.replay import reasons_not_to_flip
from convbench.run import process, survey
from convbench.run.jobs import open_results
from convbench.schema import Case

USES = ("get_device_properties", "get_device_capability", "mem_get_info", "synchronize", "current_device", "_lazy_init")
FACTS = {"torch": "9.9", "gpus": [{"name": "made up", "capability": "9.0"}]}


def case(**other: Any) -> Case:
    known: dict[str, Any] = {"model": "dico_s", "res": 64, "batch": 2, "device": "cuda", "precision": "bf16"} | other
    return Case(**known)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The orders that reach a worker, by the backends of their cases; the GPU must not be touched here."""
    orders: list[list[str]] = []

    def answers(order: dict[str, Any], hear: Callable[[Any], None], timeout_s: float) -> process.Ended:
        backends = [each["backend"] for each in order["survey"]]
        orders.append(backends)
        reasons = ["not here" if backend == "compile" else None for backend in backends]
        hear({"facts": FACTS, "rates": {"bf16": asdict(RATES)}, "reasons": reasons})
        return process.Ended(0, [])

    def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("the parent used the GPU")

    monkeypatch.setattr(survey, "_gpu", type(survey._gpu)())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(process, "ask", answers)
    for name in USES:
        monkeypatch.setattr(torch.cuda, name, touched)
    return orders


def test_all_cases_are_asked_about_once_and_together(asked: list[list[str]]) -> None:
    cases = [case(), case(backend="compile"), case(device="cpu", precision="fp32")]
    survey.learn(cases)
    assert [survey.unsupported(each) for each in cases[:2]] == [None, "not here"]
    assert survey.need(case()) == estimate(case(), RATES)
    survey.learn(cases)
    assert asked == [["eager", "compile"]]
    survey.learn([case(backend="triton"), case()])
    assert asked == [["eager", "compile"], ["triton"]]


def test_conditions_and_capability_come_from_the_worker(asked: list[list[str]]) -> None:
    assert survey.conditions() == FACTS
    assert survey.capability() == (9, 0)
    assert open_results(None).rows == []
    assert asked == [[]]
    theirs, own = papers_way("dico", "dico_s", "cuda"), ours("cuda")
    assert reasons_not_to_flip("dico", "cuda", theirs, own, survey.capability())["precision"] is None
    assert reasons_not_to_flip("dico", "cuda", theirs, own, (7, 5))["precision"] == (
        "TF32 needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer"
    )


def test_a_gpu_that_does_not_answer_is_an_error_in_one_line(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "ask", lambda *_: process.Ended(1, ["RuntimeError: CUDA error: busy"]))
    with pytest.raises(
        NothingMeasured, match=r"^the GPU cannot be used: .*exit code 1: RuntimeError: CUDA error: busy$"
    ):
        survey.learn([case()])

    def hangs(*_: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(process, "ask", hangs)
    with pytest.raises(NothingMeasured, match=r"^the GPU did not answer within 180 s$"):
        survey.conditions()
