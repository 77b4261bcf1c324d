"""A training step around a forward pass: loss, backward, AdamW, and where asked for an average of the weights.

The learning rate is 0, so that every step starts from the same weights and can be proved like a forward pass; AdamW
does the same work whatever its rate. Weights stay in float32; bf16 means autocast, as training scripts have it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checks.output import Finding, relative_error
from ..precision import DTYPES, applied
from ..schema import Case, Step
from ..timing.clock import Inputs
from ..tolerances import RELATIVE_L2
from ..weights.fixed_tables import fixed_tables

EMA_DECAY = 0.9999


def unsupported(case: Case) -> str | None:
    """Reason why this case cannot train, or None."""
    if case.mode == "forward":
        return None
    if case.backend not in ("eager", "compile"):
        return f"{case.backend} cannot train; use eager or compile"
    if case.precision == "fp16":
        return "training in fp16 needs a loss scaler, which is not implemented; use bf16"
    return None


@contextmanager
def training_step(forward: Step, model: nn.Module, case: Case) -> Iterator[Step]:
    """A Step that trains: the same arguments, and the forward pass's output.

    The loss is the mean square of the output: as much work as that of diffusion, and its gradient reaches every weight.
    """
    learned = _learned(model)
    optimiser = torch.optim.AdamW(learned, lr=0.0)
    average = [parameter.detach().clone() for parameter in learned] if "ema" in case.mode else []

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            with _autocast(case):
                out = forward(x, t, y)
            _loss(out).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if average:
            torch._foreach_lerp_(average, learned, 1 - EMA_DECAY)
        return out.detach()

    with ExitStack() as stack:
        for parameter in learned:
            stack.callback(parameter.requires_grad_, False)
            parameter.requires_grad_(True)
        if "checkpointing" in case.mode:
            stack.enter_context(checkpointed(model))
        yield step


def prove_gradient(forward: Step, model: nn.Module, inputs: Inputs, case: Case) -> Finding | None:
    """Check GRAD within ``training_step``: the gradient of a forward pass agrees with that of fp32 eager.

    Twice the tolerance of an output is allowed, as a gradient passes every layer twice.

    Args:
        inputs: x (B, C, H, W), t (B,) and y (B,).
    """
    learned = _learned(model)
    with torch.enable_grad():
        with _autocast(case):
            out = forward(*inputs)
        found = _gradient(out, learned)
        with applied("fp32"):
            reference = _gradient(model(*inputs), learned)
    error, tolerance = relative_error(found, reference), 2 * RELATIVE_L2[case.precision]
    if error <= tolerance:
        return None
    return Finding("GRAD", f"relative error {error:.1e} of the gradient exceeds the limit of {tolerance:.0e}")


def _learned(model: nn.Module) -> list[Tensor]:
    fixed = fixed_tables(model)
    return [parameter for name, parameter in model.named_parameters() if name not in fixed]


def _autocast(case: Case) -> AbstractContextManager[object]:
    kind = DTYPES.get(case.precision)
    return torch.autocast(case.device, kind) if kind else nullcontext()


def _loss(out: Tensor) -> Tensor:
    return out.float().square().mean()


def _gradient(out: Tensor, learned: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(_loss(out), learned, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(learned, found, strict=True)]
    )


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[int]:
    """Run each block of a model under activation checkpointing; yields how many blocks there are."""
    blocks = [block for stage in model.modules() if isinstance(stage, nn.ModuleList) for block in stage]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield len(blocks)
    finally:
        for block in blocks:
            del block.forward  # that of the class shows again
