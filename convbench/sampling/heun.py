"""Heun's method of second order along three paths from noise to data: of DDIM, the noise levels of EDM, time of JiT.

From one point s_i of a grid to the next, with h = s_{i+1} - s_i and the slope f(x, s) of the path:

    x' = x_i + h f(x_i, s_i),    x_{i+1} = x_i + h (f(x_i, s_i) + f(x', s_{i+1})) / 2,

with two evaluations of the network; the last step ends at x' with one.
Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from ..errors import UsageError
from .diffusion import Schedule, even_spacing
from .sampler import Noise, Sampler, Update

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
LEAST_LEFT = 0.05  # minimum of 1 - t in the division, as in the code of JiT
Slope = Callable[[Tensor, Tensor, float], Tensor]
"""(x (B, C, H, W), prediction of the network at x, point s) -> dx / ds."""


def noise_levels(steps: int) -> list[float]:
    """Compute sigma_i = (max^(1/rho) + i / (N - 1) (min^(1/rho) - max^(1/rho)))^rho for i < N, then 0 (EDM, eq. 5)."""
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [(high + i / (steps - 1) * (low - high)) ** RHO for i in range(steps)] + [0.0]


def edm(steps: int = 32) -> Sampler:
    """Deterministic sampler of EDM and EDM2, for a network D that removes noise of level sigma.

    dx / dsigma = (x - D(x; sigma)) / sigma (EDM, eq. 3 with sigma(t) = t), from noise of standard deviation 80.
    """
    if steps < 2:
        raise UsageError(f"--steps {steps}: must be at least 2")

    def slope(x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
        return (x - denoised) / sigma

    return _heun("heun-edm", "denoised", noise_levels(steps), slope, SIGMA_MAX)


def flow(steps: int = 50, noise: float = 1.0) -> Sampler:
    """Sampler of JiT (arXiv:2511.13720): x_t = t data + (1 - t) noise, for a network that predicts the data.

    dx / dt = (data - x) / max(1 - t, 0.05), from t = 0 to 1 in equal steps.

    Args:
        noise: standard deviation of the noise.
    """
    if steps < 1:
        raise UsageError(f"--steps {steps}: must be at least 1")

    def slope(x: Tensor, data: Tensor, t: float) -> Tensor:
        return (data - x) / max(1 - t, LEAST_LEFT)

    return _heun("heun", "data", [step / steps for step in range(steps + 1)], slope, noise)


def ddim(steps: int = 25) -> Sampler:
    """Sampler of networks that predict the noise eps, over evenly spaced steps of the schedule of iddpm.

    In x / sqrt(a) and sigma = sqrt(1 / a - 1), a being the cumulative product of the alphas, the path is
    d(x / sqrt(a)) / dsigma = eps(x, t) (DDIM, arXiv:2010.02502, eq. 14).
    """
    if steps < 2:
        raise UsageError(f"--steps {steps}: must be at least 2")
    kept = even_spacing(steps)
    products = [*reversed(Schedule.spaced(kept).alphas_cumprod.tolist()), 1.0]
    times = [float(t) for t in reversed(kept)]
    scales = [product**0.5 for product in products]

    def slope(x: Tensor, eps: Tensor, sigma: float) -> Tensor:
        return eps

    scaled = _heun("heun-ddim", "noise", [(1 / product - 1) ** 0.5 for product in products], slope, 1.0)

    def begin() -> Update:
        inner = scaled.begin()

        def update(evaluation: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
            before, after = scales[(evaluation + 1) // 2], scales[evaluation // 2 + 1]
            return after * inner(evaluation, x / before, output, noise)

        return update

    inner_times = [t for t in times[1:] for _ in ("x'", "the corrected x")]
    return replace(scaled, times=(times[0], *inner_times), begin=begin)


def _heun(name: str, prediction: str, grid: Sequence[float], slope: Slope, start: float) -> Sampler:
    inner = [point for point in grid[1:-1] for _ in ("x'", "the corrected x")]

    def begin() -> Update:
        before: tuple[Tensor, Tensor] | None = None  # x_i and the slope there, between the two evaluations of a step

        def update(evaluation: int, x: Tensor, output: Tensor, noise: Noise) -> Tensor:
            nonlocal before
            step = evaluation // 2
            h, output = grid[step + 1] - grid[step], output[:, : x.shape[1]]
            if before is None:
                f = slope(x, output, grid[step])
                before = (x, f) if step < len(grid) - 2 else None
                return x + h * f
            (last, f), before = before, None
            return last + h * (f + slope(x, output, grid[step + 1])) / 2

        return update

    return Sampler(name, prediction, (grid[0], *inner), begin, draws=False, start=start)
