"""The selective scan as a recurrence in float64, and inputs for it."""

import torch
from torch import Tensor

from convbench.models.mamba import STATE

INPUTS = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def recurrence(u: Tensor, d: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """h = exp(d A) h + d B u, y = <C, h>: one token after the other."""
    u, d, a, b, c = (v.double() for v in (u, d, a, b, c))
    state = torch.zeros(u.shape[0], *a.shape, dtype=torch.float64)
    out = []
    for i in range(u.shape[2]):
        state = (d[:, :, i, None] * a).exp() * state + (d[:, :, i] * u[:, :, i])[:, :, None] * b[:, None, :, i]
        out.append((state * c[:, None, :, i]).sum(dim=2))
    return torch.stack(out, dim=2)


def inputs(tokens: int, steps: str = "Mamba", dtype: torch.dtype = torch.float32, channels: int = 5) -> INPUTS:
    """Two samples. Mamba's steps are softplus of something about -4, its decays -1 to -16 a unit of the step."""
    random = torch.Generator().manual_seed(tokens)
    normal = {"generator": random, "dtype": torch.float64}
    u, step = torch.randn(2, 2, channels, tokens, **normal)  # type: ignore[arg-type]
    b, c = torch.randn(2, 2, STATE, tokens, **normal)  # type: ignore[arg-type]
    a = -torch.arange(1, STATE + 1, dtype=torch.float64).expand(channels, -1)
    weak = torch.nn.functional.softplus(step - 4)
    d = {
        "Mamba": weak,
        "none": torch.zeros_like(step),
        "tiny": 1e-6 * step.abs(),  # nothing is forgotten over a thousand tokens
        "large": 20 * step.abs(),  # exponents of -5000 inside a chunk, of which exp is 0 and 1 / exp infinite
        "mixed": 20 * (torch.rand(step.shape, generator=random) < 0.1).double() + weak,
    }[steps]
    return tuple(v.to(dtype) for v in (u, d, a, b, c))  # type: ignore[return-value]
