"""Depthwise convolution of side 3, 5 or 7 and bias (FCDM's 7x7, DiG's 3x3), as ``depthwise_window`` computes it."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError
from ..depthwise_window import StripTile, launch_window, window_compilation
from ..layout import empty_nhwc, nhwc, require_nhwc, require_shape, wide
from ..register import register
from ..schema import FCDM_XL, Compilation, Kernel, Shape, feature_map, normal, u_shape

# Side of the window -> tile. Two channels a thread leave registers for the 49 taps and 6 x 4 sums of a 7x7 window; with
# 6 x 8 sums it takes 54 instead of 58 instructions an element, and all 255 registers or some of the stack.
SHIPPED = {3: StripTile(8, 2), 5: StripTile(4, 2), 7: StripTile(4, 2)}

SIDES = {9: 3, 25: 5, 49: 7}  # number of taps -> side of the window


def window_side(weight: Tensor) -> int:
    """Return K of a window whose weights are (K*K, C). Raises UsageError for another number of taps."""
    if weight.shape[0] not in SIDES:
        raise UsageError(f"weight must be (K*K, C) with K = 3, 5 or 7, got {tuple(weight.shape)}")
    return SIDES[weight.shape[0]]


def window_rows(weight: Tensor) -> Tensor:
    """Lay out the weights of a depthwise nn.Conv2d as the operations need. (C, 1, K, K) -> (K*K, C), row by row."""
    return weight.flatten(1).t().contiguous()


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the result in PyTorch, in float32 or wider up to its rounding.

    x: (N, C, H, W) in channels_last; weight: (K*K, C), K = 3, 5 or 7, row by row; bias: (C,). Returns y like x.
    """
    inner, k, c = wide(x.dtype), window_side(weight), x.shape[1]
    taps = weight.to(inner).t().reshape(c, 1, k, k)
    return nhwc(F.conv2d(x.to(inner), taps, bias.to(inner), padding=k // 2, groups=c), x.dtype)


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the same as the unfused block does, in the type of x. Shapes as in ``reference``."""
    k, c = window_side(weight), x.shape[1]
    return F.conv2d(x, weight.t().reshape(c, 1, k, k), bias, padding=k // 2, groups=c)


def check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise UsageError for a shape, type or layout that no depthwise operation takes. Shapes as in ``reference``."""
    require_nhwc(x=x)
    require_shape((window_side(weight) ** 2, x.shape[1]), x.dtype, weight=weight)
    require_shape((x.shape[1],), bias=bias)


def launch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    y, side = empty_nhwc(x), window_side(weight)
    launch_window(x, weight, bias, y, side, SHIPPED[side], totals=None, rows=0)
    return y


depthwise = register("depthwise", reference, check, launch, empty=lambda x, *_: empty_nhwc(x))


def window_inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    """Random arguments of a depthwise operation: x, weight, bias, with the shapes of ``reference``."""
    c, taps = shape.channels, shape.kernel**2
    x = feature_map(batch, c, shape, dtype, device, seed)
    weight = normal(taps, c, dtype=dtype, device=device, seed=seed + 1, scale=taps**-0.5)
    return x, weight, normal(c, dtype=dtype, device=device, seed=seed + 2)


def window_flops(shape: Shape, batch: int) -> int:
    """FLOPs: 2 K K for each output element, at the border too."""
    return 2 * batch * shape.pixels * shape.channels * shape.kernel**2


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """Two passes over the map and the weights."""
    return shape.channels * itemsize * (2 * batch * shape.pixels + shape.kernel**2 + 1)


def _kernel(name: str, side: int, replaces: str, shapes: tuple[Shape, ...]) -> Kernel:
    def compilations(precision: str) -> tuple[Compilation, ...]:
        shape = shapes[0]
        return (
            window_compilation("depthwise", precision, side, SHIPPED[side], shape.channels, shape.height, gelu=False),
        )

    return Kernel(
        name=name,
        summary=f"depthwise {name[-3:]} and bias, each row loaded once",
        replaces=replaces,
        op=depthwise,
        reference=reference,
        eager=eager,
        shapes=shapes,
        inputs=window_inputs,
        min_bytes=_min_bytes,
        flops=window_flops,
        compilations=compilations,
        shipped=SHIPPED,
    )


DIG_XL = tuple(Shape("dig_xl_2", res, 1, 1152, res // 16, res // 16, kernel=3) for res in (256, 512))

KERNELS = (
    _kernel("depthwise_7x7", 7, "FCDMBlock.dwconv", u_shape("fcdm_xl", FCDM_XL, kernel=7)),
    _kernel("depthwise_3x3", 3, "DiGBlock.dw_conv", DIG_XL),
)
