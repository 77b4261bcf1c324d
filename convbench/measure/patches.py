"""Patch-parallel inference: each rank holds a strip of rows of the latent, and the result is that of one process.

Before a convolution a rank gets the rows of its neighbours that the kernel reaches (halo exchange); what is averaged
over the whole map (group norm, the channel attention of DiCo, the response norm of FCDM) is combined over all ranks.
Everything else in these networks works on single pixels. Networks with attention are not taken. Tensor parallelism,
which splits channels, is out of scope: these networks have too few, and would exchange whole maps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..catalogue import Variant
from ..errors import UsageError

FAMILIES = ("dic", "dico", "fcdm")
LEVELS = 4  # the lowest level of these networks has a fourth of the rows


@dataclass
class Traffic:
    """Bytes and messages that one rank sent during a forward pass."""

    halo_bytes: int = 0
    halo_messages: int = 0
    reduced_bytes: int = 0  # of its own contribution to sums over all ranks
    reductions: int = 0


class PatchParallel(TorchFunctionMode):
    """Inside this context a network computes on strips: those functions that look beyond a pixel are exchanged."""

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__()
        self.rank, self.ranks, self.traffic = rank, ranks, Traffic()
        self.own: dict[Any, Callable[..., Tensor]] = {
            torch.conv2d: self.conv2d,
            F.group_norm: self.group_norm,
            F.adaptive_avg_pool2d: self.average,
            torch.linalg.vector_norm: self.vector_norm,
        }

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.own.get(func, func)(*args, **(kwargs or {}))

    def conv2d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """Convolve a strip (B, C, h, W) with the rows around it, stride and dilation 1 wherever a kernel reaches."""
        reach = weight.shape[2] // 2
        if not reach:
            return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
        if list(map(_pair, (stride, dilation, padding))) != [(1, 1), (1, 1), (reach, weight.shape[3] // 2)]:
            raise UsageError("patch-parallel convolutions have stride 1, dilation 1 and the padding of their kernel")
        around = self.with_halo(x, reach)
        return torch.conv2d(around, weight, bias, 1, (0, weight.shape[3] // 2), 1, groups)

    def with_halo(self, x: Tensor, rows: int) -> Tensor:
        """Add the neighbours' rows above and below, zeros beyond the image. (B, C, h, W) -> (B, C, h + 2 rows, W)."""
        if x.shape[2] < rows:
            raise UsageError(f"a strip of {x.shape[2]} rows is lower than the reach of a kernel ({rows}): fewer ranks")
        above, below = x.new_zeros(2, *x.shape[:2], rows, x.shape[3])
        exchanges = []
        for other, sent, got in ((self.rank - 1, x[:, :, :rows], above), (self.rank + 1, x[:, :, -rows:], below)):
            if 0 <= other < self.ranks:
                exchanges += [dist.P2POp(dist.isend, sent.contiguous(), other), dist.P2POp(dist.irecv, got, other)]
                self.traffic.halo_bytes += got.nbytes
                self.traffic.halo_messages += 1
        for request in dist.batch_isend_irecv(exchanges) if exchanges else ():
            request.wait()
        return torch.cat([above, x, below], dim=2)

    def group_norm(
        self, x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        """Normalise by mean and variance over all strips, combined from those of each (Chan et al. 1979, eq. 2.1)."""
        parts = x.reshape(x.shape[0], groups, -1)
        variance, mean = torch.var_mean(parts, dim=2, correction=0)
        means, variances = self.gathered(torch.stack([mean, variance])).unbind(1)  # (ranks, B, groups) each
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        normal = ((parts - mean[..., None]) * (variance[..., None] + eps).rsqrt()).reshape(x.shape)
        if weight is None or bias is None:
            return normal
        return torch.addcmul(bias[:, None, None], normal, weight[:, None, None])

    def average(self, x: Tensor, size: Any) -> Tensor:
        """Average the whole map. (B, C, h, W) -> (B, C, 1, 1)."""
        if size not in (1, (1, 1)):
            raise UsageError("patch-parallel pooling is over the whole map")
        return self.gathered(F.adaptive_avg_pool2d(x, 1)).mean(dim=0)

    def vector_norm(self, x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, **kind: Any) -> Tensor:
        """Compute the root of the sum of squares over the whole map. (B, C, h, W) -> (B, C, 1, 1) with ``keepdim``."""
        if ord != 2 or tuple(dim) != (2, 3):
            raise UsageError("patch-parallel norms are over the whole map")
        part = torch.linalg.vector_norm(x, 2, dim, keepdim, **kind)
        return torch.linalg.vector_norm(self.gathered(part), dim=0)

    def gathered(self, part: Tensor) -> Tensor:
        """Gather the same small tensor of each rank, in the order of ranks. (...) -> (ranks, ...)."""
        found = [torch.empty_like(part) for _ in range(self.ranks)]
        dist.all_gather(found, part.contiguous())
        self.traffic.reduced_bytes += part.nbytes
        self.traffic.reductions += 1
        return torch.stack(found)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def require_splittable(variant: Variant, rows: int, ranks: int) -> None:
    """Raise UsageError unless strips of the variant's network give the result of one process."""
    if variant.family.module not in FAMILIES or "@" in variant.id:
        raise UsageError(f"{variant.id} cannot be computed in strips: only DiC, DiCo and FCDM can")
    if rows % (LEVELS * ranks):
        raise UsageError(f"{rows} rows of a latent do not divide into {ranks} strips of a multiple of {LEVELS}")


def forward(model: nn.Module, x: Tensor, t: Tensor, y: Tensor, rank: int, ranks: int) -> tuple[Tensor, Traffic]:
    """Compute a forward pass on this rank's strip of x (B, C, H, W). Returns the whole output, and what was sent."""
    rows = x.shape[2] // ranks
    with PatchParallel(rank, ranks) as mode:
        strip = model(x[:, :, rank * rows : (rank + 1) * rows].contiguous(), t, y)
    strips = [torch.empty_like(strip) for _ in range(ranks)]
    dist.all_gather(strips, strip.contiguous())
    return torch.cat(strips, dim=2), mode.traffic
