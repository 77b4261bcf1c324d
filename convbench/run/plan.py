"""Plan of a request: its cases in the order in which they run. Imports no torch."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .. import backends, catalogue
from ..errors import UsageError
from ..sampling.plan import Plan
from ..schema import MODES, PRECISIONS, Case

DEVICES = ("cpu", "cuda")
TRAINING = {"ema", "checkpointing"}  # what may be added to a training step
AUTO = "auto"
NODE_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT_BATCH = {"cpu": 1, "cuda": 32}


@dataclass(frozen=True)
class Request:
    """Lists on every axis; the cases are their product. None takes what suits the device."""

    model: Sequence[str]
    res: Sequence[int] = (256,)
    batch: Sequence[int | Literal["max"]] | None = None  # "max": the largest that fits
    backend: Sequence[str] = ("eager",)
    precision: Sequence[str] = ("fp32",)
    device: Sequence[str] = ("cpu",)
    threads: int | None = None
    weights: str | None = None
    mode: Sequence[str] = ("forward",)
    sampling: str | None = None  # a plan of sampling, such as "steps=50,cfg=1.5": whole images are timed
    compare_with: str | None = None  # a backend or a model, timed interleaved with each case
    on: Sequence[str] | None = None  # kinds of nodes of a cluster
    world: int = 1  # processes that run each case at once


def plan(request: Request, largest_batch: Callable[[Case], int] | None = None) -> list[Case]:
    """The cases of a request; all of one model stand together.

    A case that is named twice is measured twice, as repeats 1, 2 …, next to each other. ``largest_batch`` says what
    the batch "max" comes to for a case. Raises UsageError for what cannot be.
    """
    _check(request)
    cases = [
        Case(
            model=model,
            res=res,
            batch=0 if batch == "max" else batch,
            backend=backend,
            precision=precision,
            device=device,
            threads=request.threads if device == "cpu" else None,
            weights=request.weights,
            mode=mode,
            world=request.world,
            on=on,
            sampling=str(Plan.of_text(request.sampling, catalogue.find(model))) if request.sampling else None,
        )
        for device, model, res, mode in itertools.product(request.device, request.model, request.res, request.mode)
        for batch in request.batch or [DEFAULT_BATCH[device]]
        for precision, backend in itertools.product(request.precision, request.backend)
        for on in request.on or (None,)
    ]
    if largest_batch:
        cases = [replace(case, batch=case.batch or largest_batch(case)) for case in cases]
    seen: Counter[Case] = Counter()
    result = []
    for case in sorted(cases, key=cases.index):  # repeats stand next to each other: they are timed interleaved
        seen[case] += 1
        result.append(replace(case, repeat=seen[case]))
    return result


def _check(request: Request) -> None:
    for model in request.model:
        variant = catalogue.find(model)
        for res in request.res:
            variant.require_res(res)
    for batch in request.batch or []:
        if batch != "max" and batch < 1:
            raise UsageError(f"--batch {batch}: must be at least 1")
    for backend in request.backend:
        if backend != AUTO:
            backends.require(backend)
    for option, values, known in (("precision", request.precision, PRECISIONS), ("device", request.device, DEVICES)):
        for value in values:
            if value not in known:
                raise UsageError(f"unknown {option} '{value}'; choose from {', '.join(known)}")
    for asked in request.mode:
        first, *more = asked.split("+")
        if first not in MODES or len(set(more)) < len(more) or set(more) - TRAINING or (more and first != "train"):
            modes = (*MODES, *(f"train+{each}" for each in sorted(TRAINING)), "train+ema+checkpointing")
            raise UsageError(f"unknown mode '{asked}'; choose from {', '.join(modes)}")
    if request.sampling and set(request.mode) != {"forward"}:
        raise UsageError(f"--sampling cannot be combined with --mode {','.join(request.mode)}: it times forward passes")
    if request.weights and len(set(request.model)) > 1:
        raise UsageError(f"--weights is a checkpoint of one model, but --model names {len(set(request.model))}")
    if request.world < 1:
        raise UsageError(f"--world {request.world}: must be at least 1")
    if request.world > 1 and (request.sampling or request.compare_with or set(request.mode) != {"forward"}):
        raise UsageError("--world times only forward passes: omit --sampling, --compare-with and --mode")
    require_kinds(request.on or ())
    if request.threads is not None and request.threads < 1:
        raise UsageError(f"--threads {request.threads}: must be at least 1")


def require_kinds(on: Sequence[str]) -> None:
    """Raise UsageError for kinds of nodes that no cluster has."""
    for kind in on:
        if not NODE_KIND.fullmatch(kind):
            raise UsageError(f"--on {kind}: a kind of node is letters, digits, dots, underscores and dashes")


Bundle = tuple[Case, ...]
"""Cases that are timed interleaved, in one process."""


def bundles(cases: Sequence[Case], compare_with: str | None = None) -> list[Bundle]:
    """Groups of cases to be timed interleaved: the repeats of one, and each with its counterpart.

    Args:
        compare_with: a backend or a model that takes the place of the case's own. Raises UsageError for neither.
    """
    groups = [tuple(group) for _, group in itertools.groupby(cases, key=lambda case: replace(case, repeat=1))]
    if compare_with is None:
        return groups
    if compare_with in catalogue.variants():
        axis = "model"
        for case in cases:
            catalogue.find(compare_with).require_res(case.res)
    elif compare_with in backends.names() or ":" in compare_with:
        axis = "backend"
    else:
        known = ", ".join(backends.names())
        raise UsageError(
            f"--compare-with {compare_with}: neither a model of `convbench models` nor a backend ({known})"
        )
    # A case that is its own counterpart becomes an A/A comparison.
    counterparts = [replace(group[0], **{axis: compare_with}) for group in groups]  # type: ignore[arg-type]
    return [
        (*group, replace(other, repeat=len(group) + 1) if other == group[0] else other)
        for group, other in zip(groups, counterparts, strict=True)
    ]
