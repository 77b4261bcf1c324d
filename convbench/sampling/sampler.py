"""Interface of samplers: the times given to the network, and the update of the state between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor], Tensor]
"""Network with its classes and guidance: state x (B, C, H, W) float32, times t (B,) float32 -> output."""

Noise = Callable[[int], Tensor]
"""Standard normal noise of a step 0, 1, 2 … in the shape of the state, float32. The same step gives the same noise."""

Update = Callable[[int, Tensor, Tensor, Noise], Tensor]
"""(step, x, output of the network, noise) -> x after the step, all float32."""


@dataclass(frozen=True)
class Sampler:
    """Sampler from noise to data in ``steps`` evaluations of the network.

    ``begin()`` returns the update rule of one trajectory, which keeps any memory of earlier steps.
    """

    name: str
    prediction: str  # required output of the network: a value of sampler_names.PREDICTS, optionally with raw variance
    times: tuple[float, ...]  # input of the network, first step to last
    begin: Callable[[], Update]
    draws: bool  # True if a step adds noise
    start: float = 1.0  # standard deviation of the initial noise

    @property
    def steps(self) -> int:
        """Number of evaluations of the network per image."""
        return len(self.times)

    def trajectory(self, model: Model, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yield the state (B, C, H, W) after every evaluation; the last is the sample.

        Args:
            x: the start (B, C, H, W), standard normal.
            noise: called only at steps that add noise; ``noise.PerImage`` gives each image its own.

        The state is always float32, independent of the precision of the network, and a new tensor at each step.
        """
        update = self.begin()
        x = self.start * x.float()
        times = torch.tensor(self.times, dtype=torch.float32, device=x.device)
        for step in range(self.steps):
            output = model(x, times[step].expand(len(x)))
            x = update(step, x, output.float(), noise)
            yield x

    def sample(self, model: Model, x: Tensor, noise: Noise) -> Tensor:
        """Return the last state of the trajectory. -> (B, C, H, W)"""
        (last,) = deque(self.trajectory(model, x, noise), maxlen=1)
        return last
