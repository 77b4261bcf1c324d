"""Samplers by name."""

import difflib

from ..errors import UsageError
from . import diffusion, flow
from .sampler import Sampler

PREDICTS = {  # prediction that each sampler needs from the network
    "iddpm": "noise",
    "ddim": "noise",
    "dpm-solver++": "noise",
    "euler": "velocity",
    "euler-maruyama": "velocity",
}
DEFAULT = {"noise": "iddpm", "velocity": "euler-maruyama"}  # the papers' samplers
OTHER_SCHEDULES = ("adm", "dim", "ldm", "uvit")
"""Families with variants that were trained with a different noise schedule."""
STEPS = {"dpm-solver++": 20}  # default steps that differ from 250, the papers' number


def create(name: str, steps: int = 250, clip: float | None = None, spacing: str = "even") -> Sampler:
    """Create a sampler by name; ``clip`` and ``spacing`` as in diffusion.ddim. Raises UsageError for invalid values."""
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
    near = difflib.get_close_matches(name, PREDICTS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"the samplers are {', '.join(PREDICTS)}"
    raise UsageError(f"unknown sampler '{name}': {hint}")
