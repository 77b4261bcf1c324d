"""Correct first: nothing is timed before its output has been proved, and it is checked again afterwards.

Codes: REF agrees with fp32 eager; DEP every output changes with x, with t and with y, each alone; PERM permuting
the batch permutes the output; SUM the output is finite and the same before and after timing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..catalogue import find
from ..schema import VERDICTS, Case, Step
from ..timing.clock import Inputs
from ..tolerances import RELATIVE_L2

LEAST_CHANGE = 1e-4
"""Relative change of an output that a new x, t or y must cause. A new label alone moves these models by 1 % or more."""


@dataclass(frozen=True)
class Finding:
    """Something a check saw.

    ``severity``, one of VERDICTS: NOISY, the interval carries it; SUSPECT, a sign of bias; INVALID, the number must
    not be used.
    """

    code: str
    text: str
    severity: str = "INVALID"

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


def input_sets(case: Case, seed: int = 0) -> list[Inputs]:
    """The inputs of a case: a first set, then the same with another x, another t, another y. Made on the CPU.

    x (batch, channels, S, S) standard normal, t (batch,) float32 uniform over the whole steps (or in [0, 1) for flow
    matching), y (batch,) uniform over the classes or (batch, tokens, width) standard normal: see catalogue.Signature.
    """
    takes = find(case.model).signature
    generator = torch.Generator().manual_seed(seed)
    side = case.res // takes.factor
    x, other_x = torch.randn(2, case.batch, takes.channels, side, side, generator=generator)
    t, y = (torch.randint(n, (case.batch,), generator=generator) for n in (1000, takes.classes))
    other_t, other_y = (
        (v + torch.randint(1, n, (case.batch,), generator=generator)) % n for v, n in ((t, 1000), (y, takes.classes))
    )
    t, other_t = (v.float() * (takes.t_end / 1000) for v in (t, other_t))
    if takes.caption:
        y, other_y = torch.randn(2, case.batch, *takes.caption, generator=generator)
    others = {"x": (other_x, t, y), "t": (x, other_t, y), "y": (x, t, other_y)}
    return [(x, t, y), *(others[name] for name in takes.takes)]


def relative_error(out: Tensor, reference: Tensor) -> float:
    """||out - reference|| / ||reference||; infinite if out is not finite or has another shape."""
    if out.shape != reference.shape or not out.isfinite().all():
        return float("inf")
    wide = reference.double()
    return float((out.double() - wide).norm() / wide.norm().clamp_min(1e-30))


@dataclass
class Proof:
    """What the step returned before it was timed, and what was found."""

    outputs: list[Tensor]  # of each input set
    error_vs_fp32: float
    findings: list[Finding]


def prove(
    step: Step,
    sets: list[Inputs],
    reference: Tensor,
    precision: str,
    first: Tensor,
    takes: Sequence[str] = ("x", "t", "y"),
) -> Proof:
    """Check a step on the case's own inputs.

    Args:
        takes: what the output has to depend on, in the order of the sets after the first.
        sets: of ``input_sets``, on the device, in the precision of the case.
        reference: output of fp32 eager for the first set.
        first: output of the step for the first set.
    """
    outputs = [first, *(step(*inputs).clone() for inputs in sets[1:])]
    findings = [_finite(out) for out in outputs[:1]]
    error = relative_error(first, reference)
    tolerance = RELATIVE_L2[precision]
    if not error <= tolerance:
        findings.append(
            Finding("REF", f"relative error {error:.1e} against fp32 eager, at most {tolerance:.0e} allowed")
        )
    for name, out in zip(takes, outputs[1:], strict=True):
        findings.append(_depends(name, out, first))
    if first.shape[0] > 1:
        findings.append(_permutes(step, sets[0], first, tolerance))
    return Proof(outputs, error, [finding for finding in findings if finding])


def unchanged(step: Step, inputs: Inputs, before: Tensor, precision: str) -> Finding | None:
    """SUM: the step still returns after timing what it returned before."""
    change = relative_error(step(*inputs), before)
    if change <= RELATIVE_L2[precision]:
        return None
    return Finding("SUM", f"the output after timing differs from the one before by {change:.1e}")


def _finite(out: Tensor) -> Finding | None:
    return None if out.isfinite().all() else Finding("SUM", "the output is not finite")


def _depends(name: str, out: Tensor, first: Tensor) -> Finding | None:
    change = (out - first).flatten(1).double().norm(dim=1) / first.flatten(1).double().norm(dim=1).clamp_min(1e-30)
    if bool((change > LEAST_CHANGE).all()):
        return None
    still = int((~(change > LEAST_CHANGE)).sum())
    return Finding("DEP", f"{still} of {len(change)} outputs do not change with {name}")


def _permutes(step: Step, inputs: Inputs, first: Tensor, tolerance: float) -> Finding | None:
    x, t, y = (v.roll(1, 0) for v in inputs)
    error = relative_error(step(x, t, y), first.roll(1, 0))
    if error <= tolerance:
        return None
    return Finding("PERM", f"permuting the batch does not permute the output (relative error {error:.1e})")


def report(findings: list[Finding]) -> tuple[str, str]:
    """Verdict and reason of what all checks found: the verdict of the worst."""
    verdict = max(["VALID", *(finding.severity for finding in findings)], key=VERDICTS.index)
    return verdict, "; ".join(map(str, findings))
