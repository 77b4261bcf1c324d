"""A runtime, as the runner sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .case import Case, Step

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Backend:
    """One runtime. A value, not a class to derive from.

    ``open(model, case, inputs)`` is a context manager: entering prepares (compiles, builds, allocates), the Step it
    yields is what is timed, leaving frees. The model arrives in the precision of the case.
    """

    name: str
    summary: str
    open: Callable[[nn.Module, Case, tuple[Tensor, Tensor, Tensor]], AbstractContextManager[Step]]
    unsupported: Callable[[Case], str | None] = lambda case: None  # why this case cannot run; None if it can
    eager: bool = False  # launches one kernel an operator, so the launch rate limits it
    launched_singly: bool = False  # by Python, a fused operation at a time: bound by the processor at small batches
    unranked: Callable[[Case], str | None] = lambda case: None  # why its rows may be listed and never ranked
