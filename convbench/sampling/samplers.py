"""Every sampler by its name."""

import difflib

from ..errors import UsageError
from . import diffusion, flow
from .sampler import Sampler

PREDICTS = {  # what the network of each has to predict
    "iddpm": "noise",
    "ddim": "noise",
    "dpm-solver++": "noise",
    "euler": "velocity",
    "euler-maruyama": "velocity",
}
DEFAULT = {"noise": "iddpm", "velocity": "euler-maruyama"}  # what the papers sample with
OTHER_SCHEDULES = ("adm", "dim", "ldm", "uvit")
"""Families whose networks were trained on another noise schedule than the one here, some of their variants at least."""
STEPS = {"dpm-solver++": 20}  # where not 250, the papers' number


def create(name: str, steps: int = 250, clip: float | None = None, spacing: str = "even") -> Sampler:
    """A sampler; ``clip`` and ``spacing``: see diffusion.iddpm and ddim. Raises UsageError for what cannot be."""
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
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PREDICTS)}"
    raise UsageError(f"unknown sampler '{name}': {hint}")
