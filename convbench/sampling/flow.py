"""Flow matching from noise at t = 0 to data at t = 1 along straight lines, as FCDM trains and samples.

x_t = t data + (1 - t) noise; the network takes t without scaling and predicts the velocity data - noise.
SANA reverses the direction and shifts its steps: ``euler_shift``.
Sources: Lipman et al. 2023, arXiv:2210.02747; SiT (Ma et al. 2024), arXiv:2401.08740, for the stochastic sampler.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UsageError
from .sampler import Noise, Sampler

SHIFT = 3.0  # of the sampler of SANA
LAST = 0.96  # time at which the noisy steps end; one step without noise covers the rest


def add_noise(data: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the interpolant x_t and the velocity that the network must predict there.

    data, noise: (B, C, H, W); t: (B,) in [0, 1). -> (B, C, H, W) each
    """
    wide = t.to(data.dtype).reshape(-1, 1, 1, 1)
    return wide * data + (1 - wide) * noise, data - noise


def training_loss(output: Tensor, velocity: Tensor) -> Tensor:
    """Mean squared error of outputs (B, C, H, W) over all axes except the batch. -> (B,)"""
    return (output - velocity).square().flatten(1).mean(1)


def score(velocity: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """Gradient of the log density of x_t (B, C, H, W), from the velocity: (t v - x) / (1 - t) (SiT)."""
    return (t * velocity - x) / (1 - t)


def euler(steps: int = 250, shift: float = 1.0) -> Sampler:
    """Solve the ordinary differential equation with ``steps`` Euler steps from 0 to 1, equal before ``shifted_time``.

    Args:
        shift: applies to t, not to the share of noise 1 - t, which is shifted by 1 / shift.
    """
    _require_steps(steps, 1)
    times = [shifted_time(step / steps, shift) for step in range(steps + 1)]

    def update(step: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
        return x + (times[step + 1] - times[step]) * output[:, : x.shape[1]]

    return Sampler("euler", "velocity", tuple(times[:-1]), lambda: update, draws=False)


def euler_maruyama(steps: int = 250) -> Sampler:
    """Sampler of FCDM: the stochastic equation with diffusion 1 - t, and at 0.96 one step of 0.04 without noise."""
    _require_steps(steps, 2)
    times = torch.linspace(0, LAST, steps, dtype=torch.float64).tolist()
    dt = LAST / (steps - 1)

    def update(step: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
        t, velocity = times[step], output[:, : x.shape[1]]
        drift = velocity + (1 - t) * score(velocity, x, t)
        if step == steps - 1:
            return x + (1 - LAST) * drift
        return x + dt * drift + math.sqrt(2 * (1 - t) * dt) * noise(step)

    return Sampler("euler-maruyama", "velocity", tuple(times), lambda: update, draws=True)


def shifted_time(sigma: float, shift: float = SHIFT) -> float:
    """Shift a time to place more steps at high noise: s sigma / (1 + (s - 1) sigma).

    Source: Esser et al. 2024, arXiv:2403.03206, eq. 23.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def euler_shift(steps: int = 20, shift: float = SHIFT) -> Sampler:
    """Sampler of SANA: the share of noise sigma decreases from 1 to 0 in steps that are equal before ``shifted_time``.

    x = sigma noise + (1 - sigma) data; the network takes t = 1000 sigma and predicts noise - data.
    """
    _require_steps(steps, 1)
    sigmas = [shifted_time(1 - step / steps, shift) for step in range(steps + 1)]

    def update(step: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
        return x + (sigmas[step + 1] - sigmas[step]) * output[:, : x.shape[1]]

    times = tuple(1000 * sigma for sigma in sigmas[:-1])
    return Sampler("euler-shift", "reverse velocity", times, lambda: update, draws=False)


def _require_steps(steps: int, least: int) -> None:
    if steps < least:
        raise UsageError(f"--steps {steps}: must be at least {least}")
