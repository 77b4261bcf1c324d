"""First-block cache: the blocks behind the first run only where the first one does something else than before.

For image i with the residual r = block_1(h) - h of the first block, and r' and F' of its last full step,

    F_i = inner(entered_i)  if |r_i - r'_i|_1 / |r'_i|_1 >= threshold,  else F'_i.

Sources: the first-block cache of ParaAttention (chengzeyi, 2024), which follows Liu et al. 2024 (TeaCache),
arXiv:2411.19108, in judging a step by the relative L1 distance of a cheap quantity, eq. 4. Theirs judge a whole batch;
here each image is judged by itself, so that it does not depend on the others of its batch.
"""

from torch import Tensor

from ..models.cuts import Cut
from ..schema import Step


def begin(cut: Cut, threshold: float) -> Step:
    """Start a trajectory. Returns the step to take the network's place: x (B, C, H, W), t (B,), y (B,) -> output."""
    kept: Tensor | None = None
    first: Tensor | None = None

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal kept, first
        entered = cut.enter(x, t, y)
        residual = entered[-1]
        if kept is None or first is None or len(kept) < len(x):  # a larger batch: guidance has begun
            kept, first = cut.inner(*entered), residual.clone()
        else:
            kept, first = kept[: len(x)], first[: len(x)]
            moved = (residual - first).abs().flatten(1).sum(1) / first.abs().flatten(1).sum(1)
            stale = (~(moved < threshold)).nonzero()[:, 0]  # also where it is not a number
            if len(stale):
                fresh = cut.inner(*(value[stale] for value in entered))
                kept, first = kept.index_copy(0, stale, fresh), first.index_copy(0, stale, residual[stale])
        return cut.leave(kept, *entered)

    return step
