"""What a precision label means on a device, set before a case, read back, and put back after it."""

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
    """The type of weights and activations."""
    return DTYPES.get(precision, torch.float32)


def unsupported(precision: str, device: str) -> str | None:
    """Why this device cannot compute in this precision, or None if it can."""
    if device == "cpu" and precision == "tf32":
        return "a CPU has no TF32 units; fp32 is what it computes"
    if device == "cuda" and precision in ("tf32", "torch-default") and torch.cuda.get_device_capability() < (8, 0):
        return "TF32 needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer"
    return None


@contextmanager
def applied(precision: str) -> Iterator[dict[str, str]]:
    """Set the switches of the label; yields them as read back. Restores the earlier ones.

    The older names are set, as they set the newer per-backend ones too; setting those alone makes torch refuse
    to read the older ones, which torch.compile does.
    """
    conv, matmul = TF32_FLAGS[precision]
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = conv, matmul
    try:
        yield read()
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def read() -> dict[str, str]:
    """The switches as they are now. "none" means that nothing was asked for at that level: IEEE float32."""
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


def label(flags: dict[str, str], precision: str, device: str) -> str:
    """The label that the switches read back deserve, which is not always the one that was asked for."""
    if precision in DTYPES or device == "cpu":
        return precision
    conv, matmul = (flags[key] == "True" for key in ("cudnn.allow_tf32", "cuda.matmul.allow_tf32"))
    return next((name for name, wanted in TF32_FLAGS.items() if wanted == (conv, matmul)), "fp32 conv, tf32 matmul")
