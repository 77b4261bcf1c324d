"""Precision labels: their switches on a device, set before a case, read back, and restored after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

TF32_FLAGS = {  # label -> (convolutions in TF32, matrix products in TF32)
    "fp32": (False, False),
    "tf32": (True, True),
    "torch-default": (True, False),
    "bf16": (False, False),
    "fp16": (False, False),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str) -> torch.dtype:
    """Type of weights and activations."""
    return DTYPES.get(precision, torch.float32)


def unsupported(precision: str, device: str, capability: tuple[int, int] | None = None) -> str | None:
    """Explain why the device cannot compute in the precision; None if it can.

    Args:
        capability: of the GPU, for a process that must not use it; None to ask torch.
    """
    if device == "cpu" and precision == "tf32":
        return "a CPU has no TF32 units; use fp32"
    if device != "cuda" or precision not in ("tf32", "torch-default"):
        return None
    if (capability or torch.cuda.get_device_capability()) < (8, 0):
        return "TF32 needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer"
    return None


@contextmanager
def applied(precision: str) -> Iterator[dict[str, str]]:
    """Set the switches of a label, yield them as read back, and restore the earlier ones.

    Sets the older names, which also set the newer per-backend ones. If only the newer ones are set, torch refuses to
    read the older ones, which torch.compile does.
    """
    conv, matmul = TF32_FLAGS[precision]
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = conv, matmul
    try:
        yield read_switches()
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def read_switches() -> dict[str, str]:
    """Read the current switches. "none" means that nothing was requested at that level: IEEE float32."""
    backends: Any = torch.backends  # torch's stubs lack the per-backend names
    return {
        "cudnn.allow_tf32": str(backends.cudnn.allow_tf32),
        "cuda.matmul.allow_tf32": str(backends.cuda.matmul.allow_tf32),
        "cudnn.conv.fp32_precision": backends.cudnn.conv.fp32_precision,
        "cuda.matmul.fp32_precision": backends.cuda.matmul.fp32_precision,
        "mkldnn.conv.fp32_precision": backends.mkldnn.conv.fp32_precision,
        "mkldnn.matmul.fp32_precision": backends.mkldnn.matmul.fp32_precision,
        "autocast": str(torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu")),
    }


def effective_label(flags: dict[str, str], precision: str, device: str) -> str:
    """Find the label that matches the switches as read back, which may differ from the requested one."""
    if precision in DTYPES or device == "cpu":
        return precision
    conv, matmul = (flags[key] == "True" for key in ("cudnn.allow_tf32", "cuda.matmul.allow_tf32"))
    return next((name for name, wanted in TF32_FLAGS.items() if wanted == (conv, matmul)), "fp32 conv, tf32 matmul")
