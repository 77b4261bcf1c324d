"""The bench of the fused kernels."""
