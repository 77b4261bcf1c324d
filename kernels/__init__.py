"""Triton kernels: one fused operation a file, with its PyTorch reference and the module it replaces."""
