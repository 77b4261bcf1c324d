"""Requirements of the fused blocks on the convolutions that they replace."""

from typing import Any

from torch import nn


def mismatch(conv: Any, *sides: int, depthwise: bool = False) -> str | None:
    """Say why a convolution cannot be replaced, or return None if it can.

    It must have a square window with one of these ``sides``, stride 1, zero padding that keeps the size of the map, and
    a bias.
    """
    if not isinstance(conv, nn.Conv2d):
        return f"is a {type(conv).__name__}, not a convolution"
    if len(set(conv.kernel_size)) > 1 or conv.kernel_size[0] not in sides:
        known = " and ".join(f"{side}x{side}" for side in sides)
        return f"has a {'x'.join(map(str, conv.kernel_size))} window; there are kernels for {known}"
    half = conv.kernel_size[0] // 2
    expected = (1, 1), (half, half), (1, 1), conv.in_channels if depthwise else 1, "zeros"
    if (conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode) != expected:
        return "differs from the published block in stride, padding, dilation or number of groups"
    return "has no bias" if conv.bias is None else None
