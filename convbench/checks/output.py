"""Checks of the output: it is verified before anything is timed, and checked again afterwards.

Codes: REF the output agrees with fp32 eager; DEP every output depends on x, t and y, each by itself; PERM permuting
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
"""Relative change of an output that a new x, t or y must cause. A new label changes these models by 1 % or more."""


@dataclass(frozen=True)
class Finding:
    """Result of a failed check.

    ``severity``, one of VERDICTS: NOISY, the interval carries it; SUSPECT, a sign of bias; INVALID, the number must
    not be used.
    """

    code: str
    text: str
    severity: str = "INVALID"

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


def input_sets(case: Case, seed: int = 0) -> list[Inputs]:
    """Draw the inputs of a case on the CPU: a first set, then the same with a different x, t and y, one at a time.

    x (batch, channels, S, S) standard normal; t (batch,) float32 uniform over the whole steps, over [0, 1) for flow
    matching, or over the logarithm of a noise level; y (batch,) uniform over the classes or (batch, tokens, width)
    standard normal: see catalogue.Signature.
    """
    takes = find(case.model).signature
    generator = torch.Generator().manual_seed(seed)
    side = case.res // takes.factor
    x, other_x = torch.randn(2, case.batch, takes.channels, side, side, generator=generator)
    t, y = (torch.randint(n, (case.batch,), generator=generator) for n in (1000, takes.classes))
    other_t, other_y = (
        (v + torch.randint(1, n, (case.batch,), generator=generator)) % n for v, n in ((t, 1000), (y, takes.classes))
    )
    t, other_t = (takes.time(v.float()) for v in (t, other_t))
    if takes.caption:
        y, other_y = torch.randn(2, case.batch, *takes.caption, generator=generator)
    others = {"x": (other_x, t, y), "t": (x, other_t, y), "y": (x, t, other_y)}
    return [(x, t, y), *(others[name] for name in takes.takes)]


def relative_error(out: Tensor, reference: Tensor) -> float:
    """Relative L2 error ||out - reference|| / ||reference|| of two outputs (B, ...).

    Infinite if ``out`` is not finite or differs in shape.
    """
    if out.shape != reference.shape or not out.isfinite().all():
        return float("inf")
    wide = reference.double()
    return float((out.double() - wide).norm() / wide.norm().clamp_min(1e-30))


@dataclass
class Proof:
    """Outputs of a step before timing, and the findings of their checks."""

    outputs: list[Tensor]  # one per input set
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
    """Check a step with the inputs of the case.

    Args:
        sets: from ``input_sets``, on the device of the case: x (B, C, H, W), t (B,), y (B,) or (B, tokens, width).
        reference: output of fp32 eager for the first set, (B, C or 2C, H, W).
        precision: of the case; sets the tolerance.
        first: output of the step for the first set, in the shape of the reference.
        takes: inputs that the output must depend on, in the order of the sets after the first.
    """
    outputs = [first, *(step(*inputs).clone() for inputs in sets[1:])]
    findings = [_check_finite(out) for out in outputs[:1]]
    error = relative_error(first, reference)
    tolerance = RELATIVE_L2[precision]
    if not error <= tolerance:
        findings.append(
            Finding("REF", f"relative error {error:.1e} against fp32 eager exceeds the limit of {tolerance:.0e}")
        )
    for name, out in zip(takes, outputs[1:], strict=True):
        findings.append(_check_dependence(name, out, first))
    if first.shape[0] > 1:
        findings.append(_check_permutation(step, sets[0], first, tolerance))
    return Proof(outputs, error, [finding for finding in findings if finding])


def check_unchanged(step: Step, inputs: Inputs, before: Tensor, precision: str) -> Finding | None:
    """Check SUM: after timing the step still returns the output ``before``, (B, C or 2C, H, W)."""
    change = relative_error(step(*inputs), before)
    if change <= RELATIVE_L2[precision]:
        return None
    return Finding("SUM", f"the output after timing differs from the one before by {change:.1e}")


def _check_finite(out: Tensor) -> Finding | None:
    return None if out.isfinite().all() else Finding("SUM", "the output is not finite")


def _check_dependence(name: str, out: Tensor, first: Tensor) -> Finding | None:
    change = (out - first).flatten(1).double().norm(dim=1) / first.flatten(1).double().norm(dim=1).clamp_min(1e-30)
    if bool((change > LEAST_CHANGE).all()):
        return None
    unchanged = int((~(change > LEAST_CHANGE)).sum())
    return Finding("DEP", f"{unchanged} of {len(change)} outputs do not change with {name}")


def _check_permutation(step: Step, inputs: Inputs, first: Tensor, tolerance: float) -> Finding | None:
    x, t, y = (v.roll(1, 0) for v in inputs)
    error = relative_error(step(x, t, y), first.roll(1, 0))
    if error <= tolerance:
        return None
    return Finding("PERM", f"permuting the batch does not permute the output (relative error {error:.1e})")


def verdict_of(findings: list[Finding]) -> tuple[str, str]:
    """Combine the findings of all checks into the verdict of the worst and its reason."""
    verdict = max(["VALID", *(finding.severity for finding in findings)], key=VERDICTS.index)
    return verdict, "; ".join(map(str, findings))
