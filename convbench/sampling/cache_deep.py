"""Deep features kept between steps: the inner levels of a U-shaped network run at every n-th step only.

Source: Ma, Fang and Wang 2024 (DeepCache), arXiv:2312.00858, section 3.2: with uniform intervals, at step k

    F_k = inner(entered_k)  if k mod n = 0,  else F_{k-1};    output_k = leave(F_k, entered_k),

so that the shallow parts, which see the state and the time of every step, always run.
"""

from torch import Tensor

from ..models.cuts import Cut
from ..schema import Step


def begin(cut: Cut, every: int) -> Step:
    """Start a trajectory. Returns the step to take the network's place: x (B, C, H, W), t (B,), y (B,) -> output."""
    kept: Tensor | None = None
    number = 0

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal kept, number
        entered = cut.enter(x, t, y)
        if kept is None or number % every == 0 or len(kept) < len(x):  # a larger batch: guidance has begun
            kept = cut.inner(*entered)
        number += 1
        return cut.leave(kept[: len(x)], *entered)  # a smaller one: the first half is that with the class

    return step
