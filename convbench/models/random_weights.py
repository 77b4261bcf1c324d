"""Random weights without zeros.

The official constructors initialise gates, modulations and heads with zeros, so an untrained network returns zero
independent of its inner layers, and every comparison of two implementations passes. These weights keep the activations
near unit size through the whole depth instead.
"""

import math
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from ..environment import cores
from ..weights.fixed_tables import fixed_tables

AHEAD_BYTES = 2**30  # of tensors that are drawn and not yet copied


def fill(model: nn.Module, seed: int = 0) -> None:
    """Overwrite every weight in place, including buffers of the state dict. Each depends only on seed, name and shape.

    The weights are drawn on the CPU, so that a seed gives the same weights on every device.
    """
    fixed = fixed_tables(model)
    _overwrite([(name, value) for name, value in model.state_dict().items() if name not in fixed], seed)


def replace_zeros(model: nn.Module, seed: int = 0) -> None:
    """Overwrite parameters that are entirely zero and keep all others, which may be trained."""
    _overwrite([(name, value.data) for name, value in model.named_parameters() if not value.any()], seed)


def _overwrite(places: Iterable[tuple[str, Tensor]], seed: int) -> None:
    for place, name, normal in _drawn(places, seed):
        place.copy_(_scaled(name, normal))


def _drawn(places: Iterable[tuple[str, Tensor]], seed: int) -> Iterator[tuple[Tensor, str, Tensor]]:
    """Each place with its name and standard normal numbers of its shape.

    A processor draws about 40 M numbers a second, and one generator uses one thread. Every tensor has a generator of
    its own, so that several threads draw the same numbers as one.
    """
    with ThreadPoolExecutor(cores()) as pool:
        waiting: deque[tuple[Tensor, str, Future[Tensor]]] = deque()
        ahead = 0
        for name, place in places:
            waiting.append((place, name, pool.submit(_normal, name, place.shape, seed)))
            ahead += 4 * place.numel()
            while ahead > AHEAD_BYTES:
                first, its_name, drawn = waiting.popleft()
                ahead -= 4 * first.numel()
                yield first, its_name, drawn.result()
        for first, its_name, drawn in waiting:
            yield first, its_name, drawn.result()


def _normal(name: str, shape: torch.Size, seed: int) -> Tensor:
    # The checksum starts from the seed: a CPU generator only reads the lower 32 bits of its own seed.
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))
    return torch.empty(shape).normal_(generator=generator)


def _scaled(name: str, w: Tensor) -> Tensor:
    """Standard normal numbers of a weight (...), scaled in place by what its name and shape say it is."""
    shape = w.shape
    if "embedding_table" in name or name.endswith(("pos_embed", "additional_embed", "in_context_posemb")):
        return w.mul_(0.02)
    if name.endswith(("A_log", "A_b_log")):  # decays of a selective scan: 1, 2, 3, ... per unit of the step
        return w.mul_(0.1).add_(torch.arange(1, shape[1] + 1).log())
    if name.endswith(("dt_proj.bias", "dt_proj_b.bias")):  # steps of about exp(-4), so that some tokens are remembered
        return w.mul_(0.5).sub_(4)
    if name.endswith("logit_scale"):  # of cosine attention: a factor of 10, as before training
        return w.mul_(0.1).add_(math.log(10))
    if name.endswith("deformables_scale"):  # windows of 1.5 tokens: samples avoid -1 and -2, where their values jump
        return w.mul_(0.1).sub_(math.log(3))
    if name.endswith(("qk_deformables.weight", "qk_scales.weight")):  # full-size values make the network chaotic
        return w.mul_(0.05 * w[0].numel() ** -0.5)
    if name.endswith((".freqs", ".phases")):  # of Fourier features: angles in the full circle
        return w.mul_(2 * math.pi)
    if len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1:  # gamma and beta of the response norm
        return w.mul_(0.1)
    if len(shape) > 1:
        return w.mul_(w[0].numel() ** -0.5)  # keeps the variance of a product
    if name.endswith("bias"):
        return w.mul_(0.02)
    return w.mul_(0.1).add_(1)
