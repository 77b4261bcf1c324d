"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), second order: the scheduler of diffusers, if installed."""

import warnings
from importlib import import_module
from typing import Any

from torch import Tensor

from ..errors import UsageError
from .diffusion import STEPS, split
from .sampler import Noise, Sampler, Update


def dpm_solver(steps: int = 20) -> Sampler:
    """Deterministic, on the schedule of iddpm. Raises UsageError where diffusers is not installed."""
    if not 1 <= steps <= STEPS:
        raise UsageError(f"--steps {steps}: 1 to {STEPS} are possible")
    times = tuple(float(t) for t in _scheduler(steps).timesteps)
    return Sampler("dpm-solver++", "noise", times, lambda: _update(steps), draws=False)


def _update(steps: int) -> Update:
    scheduler = _scheduler(steps)  # it keeps the last predictions: one for each trajectory

    def update(step: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
        eps, _ = split(output, x.shape[1])
        moved: Tensor = scheduler.step(eps, scheduler.timesteps[step], x, return_dict=False)[0]
        return moved

    return update


def _scheduler(steps: int) -> Any:
    try:
        diffusers: Any = import_module("diffusers")
    except ImportError:
        raise UsageError("dpm-solver++ is the scheduler of diffusers: pip install 'convbench[sample]'") from None
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=STEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="epsilon",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it makes arrays of tensors in numpy 1's way
        scheduler.set_timesteps(steps)
    return scheduler
