"""Deep features extrapolated between steps: what the inner part would return, from its last results.

Source: Liu et al. 2025 (TaylorSeer), arXiv:2503.06923, eq. 6 and 7. With a full step every n-th and the differences
D^0 F_k = F_k, D^{i+1} F_k = D^i F_k - D^i F_{k-n}, the features j steps after the full step k are

    F_{k+j} = sum_{i <= m} D^i F_k / i! (j / n)^i,

of order m, or as high as the full steps so far allow. Order 0 is DeepCache.
"""

import math

from torch import Tensor

from ..models.cuts import Cut
from ..schema import Step


def begin(cut: Cut, order: int, every: int) -> Step:
    """Start a trajectory. Returns the step to take the network's place: x (B, C, H, W), t (B,), y (B,) -> output."""
    terms: list[Tensor] = []  # D^i F of the last full step
    number, since = 0, 0

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal terms, number, since
        entered = cut.enter(x, t, y)
        grown = bool(terms) and len(terms[0]) < len(x)  # guidance has begun: nothing is known of the second half
        if not terms or grown or number % every == 0:
            found = [cut.inner(*entered)]
            for before in terms[:order] if since == every and not grown else []:  # differences over a whole interval
                found.append(found[-1] - before[: len(x)])
            terms, since = found, 0
        deep = terms[0][: len(x)]
        for i, term in enumerate(terms[1:], start=1):
            deep = deep + (since / every) ** i / math.factorial(i) * term[: len(x)]
        number, since = number + 1, since + 1
        return cut.leave(deep, *entered)

    return step
