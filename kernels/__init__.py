"""Fused Triton kernels with their PyTorch references, and whole networks made of them. Importing this loads torch."""

from .fused.fuse import fuse, unfuse
from .registry import all_kernels

__all__ = ["all_kernels", "fuse", "unfuse"]
