"""From noise to images: schedules, samplers, guidance, noise of each image, decoding. Plain torch.

A sampler is a value (``samplers.create("iddpm", steps=250)``); it never sees a network, only a function of the state
and the time, so eager PyTorch, a compiled step or an engine walk through the same trajectory with the same noise.
"""
