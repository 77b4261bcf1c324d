"""Samplers by name."""

import difflib

from ..errors import UsageError
from . import diffusion, flow, heun
from .sampler import Sampler
from .sampler_names import PREDICTS


def create(
    name: str,
    steps: int = 250,
    clip: float | None = None,
    spacing: str = "even",
    noise: float = 1.0,
    shift: float = 1.0,
) -> Sampler:
    """Create a sampler by name. Raises UsageError for an unknown name or an invalid number of steps.

    Args:
        clip: as in diffusion.iddpm.
        spacing: as in diffusion.ddim.
        noise: as in heun.flow.
        shift: as in flow.euler.
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
    if name == "heun-ddim":
        return heun.ddim(steps)
    if name == "heun-edm":
        return heun.edm(steps)
    if name == "dpm-solver++":
        from . import solver

        return solver.dpm_solver(steps)
    near = difflib.get_close_matches(name, PREDICTS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"the samplers are {', '.join(PREDICTS)}"
    raise UsageError(f"unknown sampler '{name}': {hint}")
