"""Registration of a fused operation with PyTorch, as ``torch.ops.convbench.<name>``."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

R = TypeVar("R")


def register(
    op: str,
    reference: Callable[..., R],
    check: Callable[..., None],
    launch: Callable[..., R],
    empty: Callable[..., R],
) -> Callable[..., R]:
    """Register an operation, and return the function that calls it.

    The other arguments are functions that take the operation's own arguments.

    Args:
        op: Name inside the namespace ``convbench``.
        reference: Computes the result in PyTorch; runs on a CPU. Its annotations are the operation's schema.
        check: Raises UsageError for a shape, type or layout that the kernel does not take; runs first on every device.
        launch: Computes the result with Triton; runs on a CUDA device.
        empty: Allocates the result without computing it, for tracing: same shapes, types and strides.
    """

    def checked(compute: Callable[..., R]) -> Callable[..., R]:
        @wraps(compute)
        def call(*args: Any, **kwargs: Any) -> R:
            check(*args, **kwargs)
            return compute(*args, **kwargs)

        return call

    # An operation that PyTorch cannot look into: torch.compile and torch.export keep it as one node.
    registered = torch.library.custom_op(
        f"convbench::{op}",
        checked(reference),
        mutates_args=(),
        device_types="cpu",
        schema=torch.library.infer_schema(reference, mutates_args=()),
    )
    registered.register_kernel("cuda")(checked(launch))
    registered.register_fake(empty)
    return registered
