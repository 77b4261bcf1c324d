"""Implementations chosen for the operators that have several, as far as torch can tell."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode

from ..models import gla, selective_scan


class _OperatorWatcher(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.served: dict[str, str] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            # The choice that torch makes for these tensors; it has no public name.
            choice = SDPBackend(torch._fused_sdp_choice(*args, **(kwargs or {})))
            self.served["attention"] = choice.name.lower()
        elif func is torch.nn.functional.logsigmoid:  # only the gate of linear attention calls it
            self.served["gla"] = gla.implementation(args[0].device.type)
        elif func is torch.nn.functional.softplus:  # only the step of a selective scan calls it
            self.served["scan"] = selective_scan.implementation(args[0].device.type)
        return func(*args, **(kwargs or {}))


@contextmanager
def operators_seen() -> Iterator[dict[str, str]]:
    """Watch a forward pass in eager PyTorch; the yielded dictionary maps each operator to its implementation."""
    watcher = _OperatorWatcher()
    with watcher:
        yield watcher.served
