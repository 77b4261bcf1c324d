"""Rates of this machine: matrix products, convolutions, copies and launches, measured in about a second.

The rates are the walls of a roofline. Data-sheet peaks are only used if nothing could be measured.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional as F

from ..counting import Count
from ..precision import dtype_of
from . import derived
from .clock import clock_of

SLOW_S = 0.5  # half precision takes seconds on a CPU without support for it


@dataclass(frozen=True)
class Rates:
    """Best rate of each kind of work in one precision, on one device, with one number of threads."""

    matmul_flops_per_s: float
    conv1x1_flops_per_s: float
    conv3x3_flops_per_s: float  # counted as direct convolution, whatever algorithm runs
    copy_bytes_per_s: float  # bytes read and written
    launches_per_s: float  # of the smallest operator

    @property
    def peak_flops_per_s(self) -> float:
        """The highest FLOP/s of products and convolutions."""
        return derived.peak_flops_per_s(asdict(self))

    def best(self, other: "Rates") -> "Rates":
        """Combine with another measurement by the higher of each rate: noise only lowers rates."""
        return Rates(**{key: max(value, asdict(other)[key]) for key, value in asdict(self).items()})


def calibrate(device: str, precision: str, repeats: int = 5) -> Rates:
    """Measure the rates on random data, each the best of ``repeats``. The caller sets the precision switches."""
    big, kind = device != "cpu", dtype_of(precision)
    n = 8192 if big else 1536
    batch, width, side = (32, 512, 32) if big else (1, 256, 48)
    pixels, launches = batch * side**2, 2000

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device).to(kind)

    a, b = draw(n, n), draw(n, n)
    x, w1, w3 = draw(batch, width, side, side), draw(4 * width, width, 1, 1), draw(width, width, 3, 3)
    source = torch.randn(2**28 if big else 2**26, device=device)
    target, one = source.clone(), torch.zeros(1, device=device)  # whose pages exist: the system is slow to make them

    def rate(amount: float, work: Callable[[], object]) -> float:
        clock = clock_of(device)
        first = clock.block(work, 1).total_s
        again = repeats if first < SLOW_S else 0  # in a slow block, start-up costs do not matter
        return amount / min([clock.block(work, 1).total_s for _ in range(again)], default=first)

    with torch.inference_mode():
        return Rates(
            matmul_flops_per_s=rate(2 * n**3, lambda: a @ b),
            conv1x1_flops_per_s=rate(2 * 4 * width**2 * pixels, lambda: F.conv2d(x, w1)),
            conv3x3_flops_per_s=rate(2 * 9 * width**2 * pixels, lambda: F.conv2d(x, w3, padding=1)),
            copy_bytes_per_s=rate(2 * source.nbytes, lambda: target.copy_(source)),
            launches_per_s=rate(launches, lambda: [one.add_(1) for _ in range(launches)]),
        )


@dataclass(frozen=True)
class Limit:
    """Minimum time of a forward pass at the measured rates, and the wall that sets it."""

    seconds: float
    wall: str  # compute, memory or launch


def limit(
    counted: Count,
    batch: int,
    rates: Rates,
    launches: int = 0,
    weight_passes: int = 1,
    executed_macs: int | None = None,
) -> Limit:
    """Compute the roofline floor of one forward pass of a batch, in seconds.

    Uses the walls of derived.py with ``macs_full`` for compute, or with what was executed instead.

    Args:
        launches: operators that are launched one by one.
        weight_passes: times each weight is read or written.
        executed_macs: of one image, where the algorithm that ran executes fewer than ``macs_full``.
    """
    macs = counted.macs_full if executed_macs is None else executed_macs
    wall, seconds = derived.nearest_wall(
        derived.roofline_walls(macs * batch, counted.weight_bytes, asdict(rates), launches, weight_passes)
    )
    return Limit(seconds, wall)
