"""Description of a fused kernel, as the command line, the bench, the compile gate and the tests read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """Place of an operation in a network, for one sample: channels in and out, height and width in pixels."""

    model: str
    res: int  # pixels of the decoded image
    level: int  # 1 is full latent resolution, 3 a quarter of it
    channels: int
    height: int
    width: int
    out_channels: int = 0  # of a product
    kernel: int = 0  # side of a convolution window

    @property
    def pixels(self) -> int:
        """Number of pixels of the map."""
        return self.height * self.width

    @property
    def label(self) -> str:
        """Description of the place in one line."""
        out = f"->{self.out_channels}" if self.out_channels else ""
        return f"{self.model} {self.res} px level {self.level}: {self.channels}{out} at {self.height}x{self.width}"


@dataclass(frozen=True)
class Compilation:
    """One ahead-of-time compilation: everything that a launch would pass to the compiler."""

    label: str
    function: Any  # a triton.jit function
    pointers: dict[str, str]  # argument -> "*bf16"
    scalars: dict[str, str]  # argument -> "i32" or "fp32"
    constants: dict[str, int | float | bool | str]  # the constexpr arguments
    aligned: tuple[str, ...]  # divisible by 16, which a launch detects by itself
    num_warps: int
    num_stages: int
    work: tuple[
        int, ...
    ] = ()  # elements that a thread computes, and trips of its loops, in code order; () if not counted
    gpus: tuple[str, ...] = ()  # generations that it ships for, as ``product_tiles.generation`` names them; () is all


@dataclass(frozen=True)
class MapTile:
    """Pixels and channels of one program of an elementwise kernel."""

    rows: int  # pixels
    columns: int  # channels
    num_warps: int


@dataclass(frozen=True)
class Kernel:
    """One fused operation. ``inputs`` makes positional arguments for ``op``, ``reference`` and ``eager`` alike."""

    name: str
    summary: str
    replaces: str  # modules of a model
    op: Callable[..., Any]  # torch.ops.convbench.<op>, as ``register`` returned it
    reference: Callable[..., Any]  # the same values in PyTorch, float32 or wider inside
    eager: Callable[..., Any]  # the same as the unfused network runs it, to compare times
    shapes: tuple[Shape, ...]  # the XL networks at 256 and 512 pixels
    inputs: Callable[[Shape, int, torch.dtype, str, int], tuple[Any, ...]]  # shape, batch, dtype, device, seed
    min_bytes: Callable[[Shape, int, int], int]  # shape, batch, bytes of an element: least memory traffic
    flops: Callable[[Shape, int], int]  # shape, batch; 2 per multiply-accumulate; elementwise work is not counted
    compilations: Callable[[str], tuple[Compilation, ...]]  # a key of DTYPES -> what ships for it
    shipped: Any = field(default=None, repr=False)  # the module's SHIPPED table
    amplification: float = 1.0  # of rounding errors by the operation's algorithm, over that of the eager form
    timed: tuple[str, ...] = ("fp32", "fp16", "bf16")  # precisions that a network uses it in: the bench times these


def normal(*shape: int, dtype: torch.dtype, device: str, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Draw a normal tensor of any shape (N, ...) on ``device``, as a CPU takes seconds for the maps of the bench."""
    generator = torch.Generator(device).manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, device=device) + shift).to(dtype)


def feature_map(
    batch: int, channels: int, shape: Shape, dtype: torch.dtype, device: str, seed: int, scale: float = 1.0
) -> Tensor:
    """A random map, (batch, channels, H, W) in channels_last, with the height and width of ``shape``."""
    x = normal(batch, shape.height, shape.width, channels, dtype=dtype, device=device, seed=seed, scale=scale)
    return x.permute(0, 3, 1, 2)


def u_shape(model: str, widths: Mapping[int, tuple[int, ...]], kernel: int = 0) -> tuple[Shape, ...]:
    """The shapes of a U-shaped network at 256 and 512 px; ``widths``: channels of each level, which halves the side."""
    return tuple(
        Shape(model, res, level, width, res // 8 >> level - 1, res // 8 >> level - 1, kernel=kernel)
        for res in (256, 512)
        for level, at_level in widths.items()
        for width in at_level
    )


DICO_XL = {1: (416, 832), 2: (832,), 3: (1664,)}
FCDM_XL = {1: (512,), 2: (1024,), 3: (2048,)}


def products(shapes: tuple[Shape, ...], inner: float, outer: float) -> tuple[Shape, ...]:
    """The same places with a product from ``inner`` times to ``outer`` times their width."""
    return tuple(replace(s, channels=int(inner * s.channels), out_channels=int(outer * s.channels)) for s in shapes)
