"""From what was asked to the list of cases, in the order they will run. Imports no torch."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import backends, catalogue
from .errors import UsageError
from .schema import PRECISIONS, Case

DEVICES = ("cpu", "cuda")
DEFAULT_BATCH = {"cpu": 1, "cuda": 32}


@dataclass(frozen=True)
class Request:
    """Lists on every axis; the cases are their product. None takes what suits the device."""

    model: Sequence[str]
    res: Sequence[int] = (256,)
    batch: Sequence[int] | None = None
    backend: Sequence[str] = ("eager",)
    precision: Sequence[str] = ("fp32",)
    device: Sequence[str] = ("cpu",)
    threads: int | None = None
    weights: str | None = None


def plan(request: Request) -> list[Case]:
    """The cases of a request, smallest first axis last: all of one model stand together.

    A case that is named twice is measured twice, as repeats 1, 2 … Raises UsageError for what cannot be.
    """
    _check(request)
    cases = [
        Case(
            model=model,
            res=res,
            batch=batch,
            backend=backend,
            precision=precision,
            device=device,
            threads=request.threads if device == "cpu" else None,
            weights=request.weights,
        )
        for device, model, res in itertools.product(request.device, request.model, request.res)
        for batch in request.batch or [DEFAULT_BATCH[device]]
        for precision, backend in itertools.product(request.precision, request.backend)
    ]
    seen: Counter[Case] = Counter()
    result = []
    for case in sorted(cases, key=cases.index):  # repeats stand next to each other: they are timed in turns
        seen[case] += 1
        result.append(replace(case, repeat=seen[case]))
    return result


def _check(request: Request) -> None:
    for model in request.model:
        variant = catalogue.find(model)
        for res in request.res:
            variant.require_res(res)
    for batch in request.batch or []:
        if batch < 1:
            raise UsageError(f"--batch {batch}: a batch holds at least 1 image")
    for backend in request.backend:
        backends.require(backend)
    for option, values, known in (("precision", request.precision, PRECISIONS), ("device", request.device, DEVICES)):
        for value in values:
            if value not in known:
                raise UsageError(f"unknown {option} '{value}': there are {', '.join(known)}")
    if request.weights and len(set(request.model)) > 1:
        raise UsageError(f"--weights is a checkpoint of one model, but --model names {len(set(request.model))}")
    if request.threads is not None and request.threads < 1:
        raise UsageError(f"--threads {request.threads}: at least 1 thread is needed")
