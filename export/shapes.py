"""Batches and sizes that an artefact takes."""

from dataclasses import dataclass
from typing import Any

import torch

from convbench.catalogue import Signature, Variant
from convbench.errors import UsageError
from convbench.timing.clock import Inputs

from .manifest import Port


@dataclass(frozen=True)
class Shapes:
    """Sizes that a network is exported for. Height and width are those of x, not of the image."""

    takes: Signature
    batch: tuple[int, int]
    side: int  # of x, for which it is made
    multiple: int = 1  # height and width must be divisible by it
    sides: tuple[int, int] | None = None  # the smallest and largest, where they may vary
    out_channels: int = 0  # known once the network has run

    @property
    def names(self) -> tuple[str, str]:
        """Factors of height and width over ``multiple``: the files then state the divisibility as 4*h4."""
        suffix = str(self.multiple) if self.multiple > 1 else ""
        return f"h{suffix}", f"w{suffix}"

    @property
    def dimensions(self) -> dict[str, tuple[int, int]]:
        found = {"batch": self.batch} if self.batch[0] < self.batch[1] else {}
        if self.sides:
            low, high = (side // self.multiple for side in self.sides)
            found |= dict.fromkeys(self.names, (low, high))
        return found

    def ports(self) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Inputs and outputs."""
        b: int | str = "batch" if self.batch[0] < self.batch[1] else self.batch[0]
        space: tuple[int | str, ...] = (self.side, self.side)
        if self.sides:
            space = tuple(f"{self.multiple}*{name}" if self.multiple > 1 else name for name in self.names)
        caption = self.takes.caption
        y = Port("y", "float32", (b, *caption)) if caption else Port("y", "int64", (b,))
        inputs = (Port("x", "float32", (b, self.takes.channels, *space)), Port("t", "float32", (b,)), y)
        return inputs, (Port("out", "float32", (b, self.out_channels, *space)),)

    def dynamic(self) -> tuple[dict[int, Any], ...]:
        """``dynamic_shapes`` of torch.export for x, t and y."""
        from torch.export import Dim

        low, high = self.batch
        first: dict[int, Any] = {0: Dim("batch", min=low, max=high)} if low < high else {}
        space: dict[int, Any] = {}
        if self.sides:
            low, high = (side // self.multiple for side in self.sides)
            for axis, name in zip((2, 3), self.names, strict=True):
                space[axis] = self.multiple * Dim(name, min=low, max=high)
        return {**first, **space}, dict(first), dict(first)

    def example(self) -> Inputs:
        """Draw example inputs of two images if allowed, as a batch of one would be treated as a constant.

        x (B, C, H, W), t (B,), y (B,) or (B, tokens, width)
        """
        return self.inputs(min(max(2, self.batch[0]), self.batch[1]))

    def inputs(self, batch: int, height: int | None = None, width: int | None = None, seed: int = 0) -> Inputs:
        """Draw x (B, C, H, W) standard normal, t (B,) over all steps with fractions, y (B,) over all classes and none.

        Both ends of t and y come first, so that two images include them. With captions, y is (B, tokens, width).
        """
        generator = torch.Generator().manual_seed(seed)
        takes = self.takes
        x = torch.randn(batch, takes.channels, height or self.side, width or self.side, generator=generator)
        t = takes.time(torch.rand(batch, generator=generator) * 999)
        ends = torch.tensor([takes.time(999.0), takes.time(0.0)])
        t[: min(2, batch)] = ends[: min(2, batch)]
        if takes.caption:
            return x, t, torch.randn(batch, *takes.caption, generator=generator)
        last = takes.classes if takes.null_class else takes.classes - 1
        y = torch.randint(takes.classes, (batch,), generator=generator)
        y[: min(2, batch)] = torch.tensor([0, last])[: min(2, batch)]
        return x, t, y


def of_variant(variant: Variant, res: int, batch: tuple[int, int], dynamic: bool = False) -> Shapes:
    """The shapes of a model of the zoo. ``dynamic``: any size from half to twice ``res``.

    Raises UsageError for sizes and batches that cannot be.
    """
    variant.require_res(res)
    low, high = batch
    if not 1 <= low <= high:
        raise UsageError(f"--batch {low}..{high}: specify a number of images, at least 1, or a range such as 1..64")
    takes = variant.signature
    side, multiple = res // takes.factor, max(1, variant.res_multiple // takes.factor)
    if not dynamic:
        return Shapes(takes, batch, side, multiple)
    if variant.fixed_res:
        raise UsageError(f"--dynamic is not possible for {variant.id}: its position table is for {res} pixels")
    least = max(2 * multiple, -(-side // 2 // multiple) * multiple)  # torch.export takes a 1 for a constant
    return Shapes(takes, batch, side, multiple, (least, 2 * side))


def of_ports(
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
    dimensions: dict[str, tuple[int, int]],
    takes: Signature,
    side: int,
) -> Shapes:
    """The shapes that a manifest states. Raises UsageError where they are not those of such a network."""
    found = _of_ports(inputs, outputs, dimensions, takes, side)
    if found.ports() != (inputs, outputs) or found.dimensions != dimensions:
        raise UsageError("the manifest states inputs, outputs and dimensions that contradict each other")
    return found


def _of_ports(
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
    dimensions: dict[str, tuple[int, int]],
    takes: Signature,
    side: int,
) -> Shapes:
    batch = inputs[0].shape[0]
    fixed = (batch, batch) if isinstance(batch, int) else dimensions["batch"]
    height, channels = inputs[0].shape[2], outputs[0].shape[1]
    assert isinstance(channels, int)
    if isinstance(height, int):
        return Shapes(takes, fixed, side, 1, None, channels)
    factor, _, name = height.rpartition("*")
    multiple = int(factor or 1)
    low, high = dimensions[name]
    return Shapes(takes, fixed, side, multiple, (multiple * low, multiple * high), channels)
