"""Heun's method of second order along two paths from noise to data: the noise levels of EDM and the time of JiT.

From one point s_i of a grid to the next, with h = s_{i+1} - s_i and the slope f(x, s) of the path:

    x' = x_i + h f(x_i, s_i),    x_{i+1} = x_i + h (f(x_i, s_i) + f(x', s_{i+1})) / 2,

with two evaluations of the network; the last step ends at x' with one.
Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..errors import UsageError
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
