"""Every sampler by its name."""

import difflib

from ..errors import UsageError
from . import diffusion, flow
from .sampler import Sampler

NAMES = ("iddpm", "ddim", "euler", "euler-maruyama", "dpm-solver++")
DEFAULT = {"noise": "iddpm", "velocity": "euler-maruyama"}  # by prediction: what the papers sample with


def create(name: str, steps: int = 250, clip: float | None = None, spacing: str = "even") -> Sampler:
    """A sampler. ``clip`` and ``spacing`` are those of diffusion.iddpm and ddim. Raises UsageError for what cannot be."""
    if name == "iddpm":
        return diffusion.iddpm(steps, clip)
    if name == "ddim":
        return diffusion.ddim(steps, clip, spacing)
    if name == "euler":
        return flow.euler(steps)
    if name == "euler-maruyama":
        return flow.euler_maruyama(steps)
    if name == "dpm-solver++":
        from . import solver

        return solver.dpm_solver(steps)
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
    raise UsageError(f"unknown sampler '{name}': {hint}")
