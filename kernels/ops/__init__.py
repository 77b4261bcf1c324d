"""One fused operation a file, with its PyTorch reference and the kernel."""
