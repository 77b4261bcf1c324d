"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) of second order, by the scheduler of diffusers."""

import warnings
from importlib import import_module
from typing import Any

from torch import Tensor

from ..errors import UsageError
from .diffusion import STEPS, split_prediction
from .sampler import Noise, Sampler, Update


def dpm_solver(steps: int = 20) -> Sampler:
    """Deterministic sampler on the schedule of iddpm. Raises UsageError if diffusers is not installed."""
    if not 1 <= steps <= STEPS:
        raise UsageError(f"--steps {steps}: must be between 1 and {STEPS}")
    times = tuple(float(t) for t in _scheduler(steps).timesteps)
    return Sampler("dpm-solver++", "noise", times, lambda: _update(steps), draws=False)


def _update(steps: int) -> Update:
    scheduler = _scheduler(steps)  # keeps the last predictions: one scheduler per trajectory

    def update(step: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
        eps, _ = split_prediction(output, x.shape[1])
        moved: Tensor = scheduler.step(eps, scheduler.timesteps[step], x, return_dict=False)[0]
        return moved

    return update


def _scheduler(steps: int) -> Any:
    try:
        diffusers: Any = import_module("diffusers")
    except ImportError:
        raise UsageError("dpm-solver++ needs diffusers: pip install 'convbench[sample]'") from None
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
        warnings.simplefilter("ignore", DeprecationWarning)  # it converts tensors to arrays as for numpy 1
        scheduler.set_timesteps(steps)
    return scheduler
