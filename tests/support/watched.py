"""What runs in a step, seen below autograd: every operator, every copy of a map, every map in another layout."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Watched(TorchDispatchMode):
    """Counts operators, and collects those that copy a map or give one that is not in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.copies: list[str] = []
        self.misplaced: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        self.calls[name] += 1
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if name in ("clone", "copy_", "_to_copy") and first is not None and first.dim() >= 4:
            self.copies.append(f"{name} {tuple(first.shape)}")
        for result in out if isinstance(out, tuple | list) else [out]:
            new = isinstance(result, Tensor) and not func.is_view and result.dim() == 4 and name != "_unsafe_view"
            if new and not result.is_contiguous(memory_format=torch.channels_last):
                self.misplaced.append(f"{name} {tuple(result.shape)}, strides {result.stride()}")
        return out
