"""Calls of ``convbench::conv3x3`` of any shape, with what they should give by float64."""

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from convbench.kernels.cpu.convolution import KINDS, conv3x3, packed


@dataclass(frozen=True)
class Conv:
    """A convolution and the parts around it."""

    batch: int
    inputs: int
    outputs: int
    height: int
    width: int
    groups: int = 0  # of the group norm; 0 for none
    modulated: bool = False
    gelu: bool = False
    bias: bool = False
    gate: bool = False
    residual: bool = False
    mean: float = 0.0  # of x
    seed: int = 0

    def plain(self) -> "Conv":
        return replace(self, groups=0, modulated=False, gelu=False, gate=False, residual=False)

    def tensors(self) -> dict[str, Tensor]:
        """x (B, I, H, W) in channels_last, weight (O, I, 3, 3), vectors (I,) or (O,), and (B, I) or (B, O)."""
        draw = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw)

        b, i, o = self.batch, self.inputs, self.outputs
        found = {"x": normal(b, i, self.height, self.width) + self.mean, "weight": normal(o, i, 3, 3) / (9 * i) ** 0.5}
        found["x"] = found["x"].contiguous(memory_format=torch.channels_last)
        if self.bias:
            found["bias"] = normal(o)
        if self.groups:
            found |= {"gamma": 1 + 0.1 * normal(i), "beta": 0.1 * normal(i)}
        if self.modulated:  # slices of one product, as in a network
            found["scale"], found["shift"] = (0.5 * normal(b, 2 * i)).chunk(2, dim=1)
        if self.gate:
            found["gate"] = normal(b, o)
        if self.residual:
            found["residual"] = normal(b, o, self.height, self.width)
        return found

    def expected(self) -> Tensor:
        """The result in float64."""
        given = {name: value.double() for name, value in self.tensors().items()}
        x = given["x"]
        if self.groups:
            x = F.group_norm(x, self.groups, given["gamma"], given["beta"], 1e-5)
        if self.modulated:
            x = x * (1 + given["scale"][:, :, None, None]) + given["shift"][:, :, None, None]
        y = F.conv2d(F.gelu(x) if self.gelu else x, given["weight"], given.get("bias"), padding=1)
        y = y * given["gate"][:, :, None, None] if self.gate else y
        return y + given["residual"] if self.residual else y

    def found(self, kind: str) -> Tensor:
        """The result of the operator, by one of ``KINDS``."""
        given = self.tensors()
        weights = packed(given.pop("weight"), KINDS[kind])
        return conv3x3(
            given.pop("x"),
            weights,
            KINDS[kind],
            self.outputs,
            **given,
            groups=self.groups or 1,
            eps=1e-5,
            gelu=self.gelu,
        )


def drawn(seed: int, largest: int = 40) -> Conv:
    """Any convolution: odd sizes, channels that are no multiple of a vector, one pixel, many images."""
    draw = random.Random(seed)
    groups = draw.choice([0, 1, 2, 3])
    inputs = draw.randint(1, largest) * max(1, groups)
    sides = draw.choice([(1, 40), (2, 9), (8, 8), (16, 32)])
    flags = {name: draw.random() < 0.6 for name in ("gelu", "bias", "gate", "residual")}
    return Conv(
        *(
            draw.choice([1, 1, 2, 3, 7, 20]),
            inputs,
            draw.randint(1, 2 * largest),
            draw.randint(*sides),
            draw.randint(*sides),
        ),
        groups=groups if sides[0] > 1 else 0,  # the variance of one pixel is 0, and its norm is all rounding
        modulated=bool(groups and sides[0] > 1) and draw.random() < 0.6,
        mean=draw.choice([0.0, 0.0, 30.0]) if groups else 0.0,
        seed=seed,
        **flags,
    )
