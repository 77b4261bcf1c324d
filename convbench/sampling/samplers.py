"""Samplers by name."""

import difflib

from ..errors import UsageError
from . import diffusion, flow, heun
from .names import PREDICTS
from .sampler import Sampler


def create(
    name: str,
    steps: int = 250,
    clip: float | None = None,
    spacing: str = "even",
    noise: float = 1.0,
    shift: float = 1.0,
) -> Sampler:
    """A sampler. Raises UsageError.

    Args:
        clip, spacing: see diffusion.iddpm and ddim. noise: see heun.flow. shift: see flow.euler.
    """
    if name == "iddpm":
        return diffusion.iddpm(steps, clip)
    if name == "ddim":
        return diffusion.ddim(steps, clip, spacing)
    if name == "euler":
        return flow.euler(steps, shift)
    if name == "euler-maruyama":
        return flow.euler_maruyama(steps)
    if name == "euler-shift":
        return flow.euler_shift(steps)
    if name == "heun":
        return heun.flow(steps, noise)
    if name == "heun-edm":
        return heun.edm(steps)
    if name == "dpm-solver++":
        from . import solver

        return solver.dpm_solver(steps)
    near = difflib.get_close_matches(name, PREDICTS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"the samplers are {', '.join(PREDICTS)}"
    raise UsageError(f"unknown sampler '{name}': {hint}")
