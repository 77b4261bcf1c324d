"""``convbench.throughput``: the main job from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..environment import default_device
from ..schema import Second
from .cases import Settings, cases
from .jobs import Limits
from .plan import Request

T = TypeVar("T")


def throughput(
    model: str | Sequence[str],
    res: int | Sequence[int] = 256,
    batch: int | str | Sequence[int | str] | None = None,
    backend: str | Sequence[str] = "eager",
    precision: str | Sequence[str] = "fp32",
    device: str | Sequence[str] | None = None,
    threads: int | None = None,
    weights: str | None = None,
    mode: str | Sequence[str] = "forward",
    sampling: str | None = None,
    compare_with: str | None = None,
    out: str | Path | None = None,
    cap_s: Second | None = None,
    budget_s: Second | None = None,
    processes: int = 1,
    world: int = 1,
    launcher: str | None = None,
    on: str | Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Measure backbones, as ``convbench throughput`` does; every axis takes one value or several.

    Args:
        res: side of the decoded image, in pixels.
        batch: images a step, or "max" for the largest that fits.
        backend: of ``convbench doctor``; "auto" takes the fastest that ``out`` holds, or measures all that can run.
        sampling: a plan such as "steps=50,cfg=1.5": whole images are timed in place of single passes.
        compare_with: a backend or a model that each case is timed interleaved with; the ratio stands on the row of
            the case, as the case over its counterpart.
        out: finished rows are appended to this file, and those that it holds are not measured again.
        cap_s: stop timing a case after this many seconds.
        budget_s: time limit for the whole run, in seconds.
        processes: fresh ones for each case.
        world: processes that run each case at once, each on a device of its own.
        launcher: "local", "slurm" or "ray": each case is a job of its own; needs ``out``.
        on: kinds of nodes of a cluster.

    Returns one dictionary a case, with the keys of ``convbench throughput --format json``.

    Raises:
        UsageError: something that cannot be measured, such as an unknown model.
    """
    request = Request(
        model=_listed(model),
        res=_listed(res),
        batch=None if batch is None else _listed(batch),  # type: ignore[arg-type] # "max" is checked by the plan
        backend=_listed(backend),
        precision=_listed(precision),
        device=[default_device()] if device is None else _listed(device),
        threads=threads,
        weights=weights,
        mode=_listed(mode),
        sampling=sampling,
        compare_with=compare_with,
        on=None if on is None else _listed(on),
        world=world,
    )
    settings = Settings(Limits(cap_s, budget_s=budget_s), processes, launcher=launcher)
    return [row.to_json() for row in cases(request, None if out is None else Path(out), settings)]


def _listed(value: T | Sequence[T]) -> Sequence[T]:
    return value if isinstance(value, list | tuple) else [value]  # type: ignore[list-item] # a single value
