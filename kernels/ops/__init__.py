"""One fused operation a file, with its PyTorch reference and its Triton kernel.

Every pointer argument of a kernel carries its shape, its layout and its strides, in elements. Letters: N samples,
H W height and width of the map, pixels = H W, C channels (of the result, where a product has K input channels).
"""
