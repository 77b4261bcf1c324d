"""The largest batch that fits a device: by running steps on a GPU, by the estimate on a CPU."""

from collections.abc import Callable
from dataclasses import replace

import torch

from .. import backends, precision
from ..checks import output
from ..environment import free_bytes
from ..models import create
from ..schema import Case
from .estimate import estimate, quick_rates


def search(case: Case, found: Callable[[int], None]) -> None:
    """Run one step of each batch by doubling and bisection; ``found`` is called with each that fits, the largest last.

    For a process of its own, on a GPU.
    """
    kind = precision.dtype_of(case.precision)
    model = create(case.model, case.weights, case.device, case.res).to(kind)
    backend = backends.find(case.backend)

    def fits(batch: int) -> bool:
        try:
            inputs = [tuple(v.to(case.device) for v in each) for each in output.input_sets(replace(case, batch=batch))]
            x, t, y = inputs[0]
            with torch.inference_mode(), precision.applied(case.precision):
                with backend.open(model, replace(case, batch=batch), (x.to(kind), t, y)) as step:
                    step(x.to(kind), t, y)
                torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        found(batch)
        return True

    bisect(fits)


def by_estimate(case: Case) -> int:
    """The largest batch of a CPU, where the system kills what asks for too much memory."""
    rates, free = quick_rates("cpu"), free_bytes("cpu")
    return bisect(lambda batch: estimate(replace(case, batch=batch), rates).needed_bytes <= free)


def bisect(fits: Callable[[int], bool], most: int = 2**16) -> int:
    """The largest number up to ``most`` that fits, at least 1, if all below one that fits fit too."""
    good = 1
    while 2 * good <= most and fits(2 * good):
        good *= 2
    bad = 2 * good
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if middle <= most and fits(middle) else (good, middle)
    return good
