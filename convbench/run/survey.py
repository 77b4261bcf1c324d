"""Facts about this machine that the cases of a run need, asked without touching its GPU from this process.

A process that has used a GPU keeps a context and memory on it until it ends, and would stand in every later row as
another process (EXCL). Questions about a GPU therefore go to a worker, which ends before anything is timed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .. import environment
from ..errors import NothingMeasured
from ..measure import feasible
from ..measure.estimate import Estimate, estimate, quick_rates
from ..schema import Case, Second
from ..timing.calibration import Rates
from ..timing.clock import Rules
from . import process

LONGEST_S: Second = 180.0  # of one survey


@dataclass
class _Gpu:
    """Answers of workers about this machine's GPU."""

    facts: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, Rates] = field(default_factory=dict)  # by precision
    reasons: dict[Case, str | None] = field(default_factory=dict)


_gpu = _Gpu()


def conditions() -> dict[str, Any]:
    """Describe this machine and its software, as ``environment.describe`` does."""
    if not torch.cuda.is_available():
        return environment.describe()
    if not _gpu.facts:
        _ask([])
    return _gpu.facts


def capability() -> tuple[int, int] | None:
    """Compute capability of the GPU; None without one."""
    gpus = conditions()["gpus"]
    if not gpus:
        return None
    major, _, minor = gpus[0]["capability"].partition(".")
    return int(major), int(minor)


def unsupported(case: Case) -> str | None:
    """Reason why the case cannot run here, or None."""
    if not _needs_gpu(case):
        return feasible.unsupported(case)
    learn([case])
    return _gpu.reasons[case]


def need(case: Case, rules: Rules | None = None) -> Estimate:
    """Memory and time of a case that can run here."""
    if not _needs_gpu(case):
        return estimate(case, quick_rates(case.device, case.precision), rules)
    learn([case])
    return estimate(case, _gpu.rates[case.precision], rules)


def learn(cases: Sequence[Case]) -> None:
    """Ask about all these cases in one worker, where they need a GPU and are not yet known."""
    if unknown := [case for case in dict.fromkeys(cases) if _needs_gpu(case) and case not in _gpu.reasons]:
        _ask(unknown)


def _needs_gpu(case: Case) -> bool:
    """True if answering touches a GPU: this machine seems to have one."""
    return case.device == "cuda" and torch.cuda.is_available()


def _ask(cases: list[Case]) -> None:
    answers: dict[str, Any] = {}
    try:
        ended = process.ask({"survey": [asdict(case) for case in cases]}, answers.update, LONGEST_S)
    except TimeoutError:
        raise NothingMeasured(f"the GPU did not answer within {LONGEST_S:.0f} s") from None
    if "facts" not in answers:
        raise NothingMeasured(f"the GPU cannot be used: {ended.status()[1]}")
    _gpu.facts = answers["facts"]
    _gpu.rates |= {precision: Rates(**rates) for precision, rates in answers["rates"].items()}
    _gpu.reasons |= dict(zip(cases, answers["reasons"], strict=True))


def answer(cases: Sequence[Case]) -> dict[str, Any]:
    """The answers to these cases, in the worker."""
    reasons = [feasible.unsupported(case) for case in cases]
    able = [case for case, reason in zip(cases, reasons, strict=True) if not reason]
    rates = {case.precision: asdict(quick_rates(case.device, case.precision)) for case in able}
    return {"facts": environment.describe(), "rates": rates, "reasons": reasons}
