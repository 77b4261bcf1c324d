"""Gaussian diffusion with learned variance: schedules, ancestral and DDIM sampling, and the terms of its loss.

Sources: Ho et al. 2020 (DDPM), arXiv:2006.11239; Nichol and Dhariwal 2021 (iDDPM), arXiv:2102.09672; Song et al. 2021
(DDIM), arXiv:2010.02502. Schedules are float64; the state and its arithmetic are float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import UsageError
from .sampler import Noise, Sampler, Update

STEPS = 1000  # of the process that the networks were trained with


def linear_betas(steps: int = STEPS) -> Tensor:
    """Schedule of DDPM and of every noise-predicting model here: 1e-4 to 0.02. -> (steps,) float64"""
    return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)


def even_spacing(count: int, steps: int = STEPS) -> list[int]:
    """Select ``count`` of the original steps including the first and the last, as iDDPM spaces them."""
    if not 1 <= count <= steps:
        raise UsageError(f"--steps {count}: must be between 1 and {steps}")
    stride = (steps - 1) / (count - 1) if count > 1 else 1.0
    kept, at = [], 0.0
    for _ in range(count):  # a sum, not a product: the official rounding
        kept.append(round(at))
        at += stride
    return kept


def stride_spacing(count: int, steps: int = STEPS) -> list[int]:
    """Select ``count`` original steps a whole stride apart, from 0, as in DDIM ("ddim10": 0, 100 … 900)."""
    for stride in range(1, steps):
        if len(range(0, steps, stride)) == count:
            return list(range(0, steps, stride))
    raise UsageError(
        f"--steps {count}: no whole stride divides {steps} steps into {count}; valid are e.g. 10, 50, 100 and 250"
    )


@dataclass(frozen=True)
class Schedule:
    """A diffusion process over a subset of the original steps. Every table is (steps,) float64.

    The ``betas`` have the cumulative products of the original process at the kept steps.
    """

    kept: tuple[int, ...]  # original number of each step, the input of the network
    betas: Tensor

    @classmethod
    def spaced(cls, kept: Sequence[int] | None = None, betas: Tensor | None = None) -> Schedule:
        """Reduce the original process to the kept steps; None keeps all."""
        betas = linear_betas() if betas is None else betas
        kept = range(len(betas)) if kept is None else kept
        products = torch.cumprod(1 - betas, 0)[list(kept)]
        before = torch.cat([torch.ones(1, dtype=torch.float64), products[:-1]])
        return cls(tuple(kept), 1 - products / before)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        return torch.cumprod(1 - self.betas, 0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_{t-1} | x_t, x_0), DDPM eq. 7."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> Tensor:
        """Logarithm of the posterior variance; the first entry, log 0, is replaced by the second."""
        variance = self.posterior_variance
        return torch.cat([variance[1:2], variance[1:]]).log() if len(variance) > 1 else self.betas.log()

    @cached_property
    def posterior_mean_coef1(self) -> Tensor:
        """Coefficient of x_0 in the mean of q(x_{t-1} | x_t, x_0), DDPM eq. 7."""
        return self.betas * self.alphas_cumprod_prev.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Tensor:
        """Coefficient of x_t in the mean of q(x_{t-1} | x_t, x_0), DDPM eq. 7."""
        return (1 - self.alphas_cumprod_prev) * (1 - self.betas).sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def sqrt_recip_alphas_cumprod(self) -> Tensor:
        return (1 / self.alphas_cumprod).sqrt()

    @cached_property
    def sqrt_recipm1_alphas_cumprod(self) -> Tensor:
        return (1 / self.alphas_cumprod - 1).sqrt()


def iddpm(steps: int = 250, clip: float | None = None) -> Sampler:
    """Ancestral sampling with learned variance over evenly spaced steps, as in the code of DiT, DiC, DiCo and DiG.

    Args:
        clip: limits the predicted data to [-clip, clip] at every step; the official samplers of latents do not clip.
    """
    schedule = Schedule.spaced(even_spacing(steps))
    return _from_last_step("iddpm", schedule, _ancestral_update(schedule, clip), draws=steps > 1)


def ddim(steps: int = 250, clip: float | None = None, spacing: str = "even") -> Sampler:
    """Deterministic DDIM (eta 0).

    Args:
        clip: as in iddpm.
        spacing: "even" as in iddpm, or "stride" as in the DDIM paper.
    """
    schedule = Schedule.spaced(even_spacing(steps) if spacing == "even" else stride_spacing(steps))
    return _from_last_step("ddim", schedule, _ddim_update(schedule, clip), draws=False)


def _from_last_step(name: str, schedule: Schedule, update: Update, draws: bool) -> Sampler:
    """Build a sampler whose step 0 is the last of the schedule."""
    last = len(schedule.kept) - 1

    def backwards(step: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
        return update(last - step, x, output, lambda _: noise(step))

    return Sampler(name, "noise", tuple(map(float, reversed(schedule.kept))), lambda: backwards, draws)


def predicted_data(schedule: Schedule, index: int, x: Tensor, eps: Tensor, clip: float | None = None) -> Tensor:
    """Compute x_0 from the state and the noise in it, all (B, C, H, W) (DDPM eq. 15)."""
    data = float(schedule.sqrt_recip_alphas_cumprod[index]) * x
    data = data - float(schedule.sqrt_recipm1_alphas_cumprod[index]) * eps
    return data if clip is None else data.clamp(-clip, clip)


def _ancestral_update(schedule: Schedule, clip: float | None) -> Update:
    low = schedule.posterior_log_variance_clipped.tolist()
    high = schedule.betas.log().tolist()
    coef1, coef2 = schedule.posterior_mean_coef1.tolist(), schedule.posterior_mean_coef2.tolist()

    def update(index: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
        eps, v = split_prediction(output, x.shape[1])
        mean = coef1[index] * predicted_data(schedule, index, x, eps, clip) + coef2[index] * x
        if index == 0:  # the last step adds no noise
            return mean
        if v is None:  # a network without variance: the upper bound, beta (DDPM section 3.2)
            return mean + math.exp(0.5 * high[index]) * noise(index)
        share = (v + 1) / 2  # iDDPM eq. 15
        log_variance = share * high[index] + (1 - share) * low[index]
        return mean + (0.5 * log_variance).exp() * noise(index)

    return update


def _ddim_update(schedule: Schedule, clip: float | None) -> Update:
    before = schedule.alphas_cumprod_prev.tolist()

    def update(index: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
        eps, _ = split_prediction(output, x.shape[1])
        data = predicted_data(schedule, index, x, eps, clip)
        if clip is not None:  # the noise that corresponds to the clipped data
            eps = float(schedule.sqrt_recip_alphas_cumprod[index]) * x - data
            eps = eps / float(schedule.sqrt_recipm1_alphas_cumprod[index])
        return math.sqrt(before[index]) * data + math.sqrt(1 - before[index]) * eps  # DDIM eq. 12

    return update


def split_prediction(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Split an output (B, C or 2C, H, W) into the prediction and the raw variance, (B, C, H, W) each, or None."""
    if output.shape[1] == channels:
        return output, None
    prediction, variance = output.split(channels, dim=1)
    return prediction, variance


def add_noise(schedule: Schedule, data: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Draw from q(x_t | x_0), the input of the network in training (DDPM eq. 4).

    data, noise: (B, C, H, W); t: (B,) whole steps. -> (B, C, H, W)
    """
    product = schedule.alphas_cumprod.to(data.device)[t]
    return _per_image(product.sqrt(), data) * data + _per_image((1 - product).sqrt(), data) * noise


@dataclass(frozen=True)
class Loss:
    """Terms of the loss, (B,) each: means over all axes except the batch."""

    mse: Tensor  # squared error of the predicted noise
    vb: Tensor  # term of the variational bound in bits per dimension; only trains the variance

    @property
    def total(self) -> Tensor:
        return self.mse + self.vb


def training_loss(schedule: Schedule, output: Tensor, data: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> Loss:
    """Compute the iDDPM loss without rescaling, of a network that returns noise and raw variance.

    Args:
        output: of the network for ``x`` and ``t``, (B, 2C, H, W).
        data: x_0, (B, C, H, W).
        x: result of ``add_noise``, (B, C, H, W).
        t: whole steps of the schedule, (B,).
        noise: noise in x, (B, C, H, W).
    """
    eps, v = split_prediction(output, data.shape[1])
    if v is None:
        raise ValueError("the network must return twice its input channels, as the loss also trains the variance")
    mse = (noise - eps).square().flatten(1).mean(1)

    def table(values: Tensor) -> Tensor:
        return _per_image(values.to(data.device)[t], data)

    # The bound trains the variance; the squared error trains the mean, so the bound detaches it.
    fixed = table(schedule.sqrt_recip_alphas_cumprod) * x
    fixed = fixed - table(schedule.sqrt_recipm1_alphas_cumprod) * eps.detach()
    coef1, coef2 = table(schedule.posterior_mean_coef1), table(schedule.posterior_mean_coef2)
    low, high = table(schedule.posterior_log_variance_clipped), table(schedule.betas.log())
    share = (v + 1) / 2
    log_variance = share * high + (1 - share) * low
    difference = coef1 * (data - fixed)  # of the posterior means, whose terms in x are equal
    # KL of two normal distributions with log variances low and log_variance.
    kl = 0.5 * (log_variance - low + (low - log_variance).exp() + difference.square() * (-log_variance).exp() - 1)
    first = -_discrete_log_likelihood(data, coef1 * fixed + coef2 * x, 0.5 * log_variance)
    vb = torch.where(_per_image(t == 0, data).bool(), first, kl).flatten(1).mean(1) / math.log(2)
    return Loss(mse, vb)


def _discrete_log_likelihood(data: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log likelihood of 8-bit data scaled to [-1, 1] under a normal distribution (DDPM eq. 13): the term of t = 0.

    Uses the tanh approximation of the normal distribution function (Page 1977), as the published training code does.
    """

    def below(limit: Tensor) -> Tensor:
        z = (limit - mean) * (-log_scale).exp()
        return 0.5 * (1 + (math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)).tanh())

    upper, lower = below(data + 1 / 255), below(data - 1 / 255)
    inside = torch.where(data > 0.999, 1 - lower, upper - lower)
    return torch.where(data < -0.999, upper, inside).clamp_min(1e-12).log()


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1) in the type of the state."""
    return values.to(like.dtype).reshape(-1, 1, 1, 1)
