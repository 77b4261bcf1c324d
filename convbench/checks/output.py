"""Checks of the output: it is verified before anything is timed, and checked again afterwards.

Codes: REF the output agrees with fp32 eager; DEP every output depends on x, t and y, each by itself; PERM permuting
the batch permutes the output; SUM the output is finite and the same before, during and after timing; ALIAS the output
has memory of its own and the inputs stay as they are; LAZY the output is a plain tensor; FRESH the output is right for
inputs that were drawn after the backend was opened. Every limit holds for the worst image of a batch.
"""

import secrets
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


def fresh_inputs(case: Case) -> Inputs:
    """Draw inputs of a case that nobody can know beforehand: (x, t, y) as in ``input_sets``, on the CPU."""
    return input_sets(case, secrets.randbits(63))[0]


def relative_error(out: Tensor, reference: Tensor) -> float:
    """Relative L2 error ||out - reference|| / ||reference|| of two outputs (B, ...).

    Infinite if ``out`` is not finite or differs in shape.
    """
    if out.shape != reference.shape or not out.isfinite().all():
        return float("inf")
    wide = reference.double()
    return float((out.double() - wide).norm() / wide.norm().clamp_min(1e-30))


def worst_error(out: Tensor, reference: Tensor) -> float:
    """Relative L2 error of the worst image of two outputs (B, ...); infinite as in ``relative_error``.

    Over a whole batch of 1024, one image of zeros is an error of 3 %.
    """
    if out.shape != reference.shape or not out.isfinite().all():
        return float("inf")
    wide = reference.double().flatten(1)
    return float(((out.double().flatten(1) - wide).norm(dim=1) / wide.norm(dim=1).clamp_min(1e-30)).max())


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
    outputs, findings = [first], [_check_finite(first)]
    for inputs in sets[1:]:
        out = step(*inputs)
        findings += [_check_plain(out), _check_memory(out, inputs)]
        outputs.append(out.clone())
    error, tolerance = worst_error(first, reference), RELATIVE_L2[precision]
    if not error <= tolerance:
        findings.append(
            Finding("REF", f"relative error {error:.1e} against fp32 eager exceeds the limit of {tolerance:.0e}")
        )
    for name, out in zip(takes, outputs[1:], strict=True):
        findings.append(_check_dependence(name, out, first))
    if first.shape[0] > 1:
        findings.append(_check_permutation(step, sets[0], first, tolerance))
    return Proof(outputs, relative_error(first, reference), [finding for finding in dict.fromkeys(findings) if finding])


def check_inputs(sets: list[Inputs], drawn: list[Inputs]) -> Finding | None:
    """Check ALIAS: the inputs (x, t, y) of each set are still those that were drawn, on any device."""
    for inputs, known in zip(sets, drawn, strict=True):
        for name, value, expected in zip("xty", inputs, known, strict=True):
            if not torch.equal(value, expected.to(value.device, value.dtype)):
                return Finding("ALIAS", f"the step changes its input {name}")
    return None


def check_during(errors: Sequence[float], precision: str) -> Finding | None:
    """Check SUM: the last output of each timed block, ready when its clock stopped, is that of the proof.

    Args:
        errors: ``worst_error`` of each block.
    """
    wrong = [error for error in errors if not error <= RELATIVE_L2[precision]]
    if not wrong:
        return None
    return Finding("SUM", f"{len(wrong)} of {len(errors)} timed blocks ended without the right output")


def check_fresh(step: Step, inputs: Inputs, reference: Tensor, precision: str) -> Finding | None:
    """Check FRESH: the output for inputs that the step has not seen is as right as that of the proof.

    Args:
        inputs: from ``fresh_inputs``, in the precision of the case.
        reference: output of fp32 eager for them, (B, C or 2C, H, W).
    """
    error, tolerance = worst_error(step(*inputs), reference), RELATIVE_L2[precision]
    if error <= tolerance:
        return None
    return Finding("FRESH", f"relative error {error:.1e} on inputs not seen before, at most {tolerance:.0e} allowed")


def check_unchanged(step: Step, inputs: Inputs, before: Tensor, precision: str) -> Finding | None:
    """Check SUM: after timing the step still returns the output ``before``, (B, C or 2C, H, W)."""
    change = worst_error(step(*inputs), before)
    if change <= RELATIVE_L2[precision]:
        return None
    return Finding("SUM", f"the output after timing differs from the one before by {change:.1e}")


def _check_finite(out: Tensor) -> Finding | None:
    return None if out.isfinite().all() else Finding("SUM", "the output is not finite")


def _check_plain(out: Tensor) -> Finding | None:
    kind = type(out)
    return None if kind is Tensor else Finding("LAZY", f"the output is a {kind.__name__}, not a plain tensor")


def _check_memory(out: Tensor, inputs: Inputs) -> Finding | None:
    """Look for an input whose memory the output uses; a lazy output has none yet."""
    if type(out) is not Tensor:
        return None
    own = out.untyped_storage().data_ptr()
    shared = [name for name, v in zip("xty", inputs, strict=True) if v.untyped_storage().data_ptr() == own]
    return Finding("ALIAS", f"the output shares its memory with the input {shared[0]}") if shared else None


def _check_dependence(name: str, out: Tensor, first: Tensor) -> Finding | None:
    change = (out - first).flatten(1).double().norm(dim=1) / first.flatten(1).double().norm(dim=1).clamp_min(1e-30)
    if bool((change > LEAST_CHANGE).all()):
        return None
    unchanged = int((~(change > LEAST_CHANGE)).sum())
    return Finding("DEP", f"{unchanged} of {len(change)} outputs do not change with {name}")


def _check_permutation(step: Step, inputs: Inputs, first: Tensor, tolerance: float) -> Finding | None:
    x, t, y = (v.roll(1, 0) for v in inputs)
    error = worst_error(step(x, t, y), first.roll(1, 0))
    if error <= tolerance:
        return None
    return Finding("PERM", f"permuting the batch does not permute the output (relative error {error:.1e})")


def verdict_of(findings: list[Finding]) -> tuple[str, str]:
    """Combine the findings of all checks into the verdict of the worst and its reason."""
    verdict = max(["VALID", *(finding.severity for finding in findings)], key=VERDICTS.index)
    return verdict, "; ".join(map(str, findings))
