"""Multiply-accumulates that convolutions stood for and those that they executed: what an algorithm saved.

Shape letters: B batch, H W height and width.
"""

from dataclasses import dataclass

from torch import Tensor

from ..schema import Second, Step


@dataclass
class Products:
    """Multiply-accumulates that calls of one operation in this process stood for, and those that they executed."""

    counted: int = 0  # of direct convolution
    executed: int = 0  # of whole tiles, without the transforms

    @property
    def saved(self) -> int:
        return self.counted - self.executed


class CountedStep:
    """A step that knows how many multiply-accumulates its last call saved: its convolutions note what they execute."""

    build_s: Second | None = None  # of a file that was made for it, now or before
    waited_s: Second = 0.0  # of it in this process

    def __init__(self, step: Step, products: Products) -> None:
        self.step, self.products, self.saved_macs = step, products, 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Call the step with x (B, C, H, W), t (B,) and y (B,)."""
        before = self.products.saved
        out = self.step(x, t, y)
        self.saved_macs = self.products.saved - before
        return out


@dataclass(frozen=True)
class ReplayedStep:
    """A step that replays what saved so many multiply-accumulates while it was recorded."""

    step: Step
    saved_macs: int

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Call the step with x (B, C, H, W), t (B,) and y (B,)."""
        return self.step(x, t, y)
