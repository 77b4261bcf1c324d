"""Sampling of images from noise: schedules, samplers, guidance, per-image noise, decoding. Plain torch.

A sampler is a value (``samplers.create("iddpm", steps=250)``). It does not depend on a network, only on a function of
the state and the time, so eager PyTorch, a compiled step and an engine follow the same trajectory with the same noise.
"""
