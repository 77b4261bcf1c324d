"""The largest batch a GPU takes, found by running steps. Called by ``worker.py`` in a process of its own."""

from collections.abc import Callable
from dataclasses import replace

import torch

from .. import backends, precision
from ..checks import output
from ..models import create
from ..run.runner import bisect
from ..schema import Case


def search(case: Case, found: Callable[[int], None]) -> None:
    """Try batches by doubling and bisection; ``found`` is called with each that fits, the largest last."""
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
