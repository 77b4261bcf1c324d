"""Tolerances of an output against fp32 eager with the same inputs, for checks, verification and tests.

Relative L2 error ||out - ref|| / ||ref|| of a whole network with random weights. Each limit is about four times
the largest error seen over the S sizes and DiC-XL, so that a wrong epsilon or a tanh GELU in fp32 still fails.
"""

RELATIVE_L2 = {
    "fp32": 5e-6,
    "tf32": 1e-2,
    "torch-default": 1e-2,
    "bf16": 5e-2,
    "fp16": 1e-2,
    "int8": 1e-1,  # exported files only
}

# Relative L2 error against fp32 eager of the images after any step of a sampler, from the same start and noise.
# A trained network contracts the trajectories of an image, so errors do not grow with the steps. The largest seen with
# the trained digit models over 20 steps or more: in fp32, one image at a time, compiled, by ONNX Runtime or by
# OpenVINO, 8e-7; fp16 8e-4; bf16 2e-2. A tanh GELU in fp32 is 1e-5 off after the first step and 2e-4 after the last.
# Fewer, longer steps magnify errors of the predicted noise, 13 times for 4 steps: measure.drift.limit.
TRAJECTORY_L2 = {
    "fp32": 5e-6,
    "tf32": 1e-2,
    "torch-default": 1e-2,
    "bf16": 5e-2,
    "fp16": 4e-3,
    "int8": 2e-1,
}

# Mean shift of the classifier's features of sampled digits: sampling.quality.feature_shift. Seen: in fp32 6e-7,
# fp16 5e-4, bf16 8e-3; with a tanh GELU in fp32 4e-4, with a missing block 6e-2 or more. In fp16 the effect of a tanh
# GELU, 8e-4, is lost in rounding, so it is only detected in an engine that claims fp32.
FEATURE_SHIFT = {
    "fp32": 1e-5,
    "tf32": 4e-3,
    "torch-default": 4e-3,
    "bf16": 4e-2,
    "fp16": 2e-3,
}

# Share by which two FID or Fréchet values have to differ before the gap says anything about the models: the coefficient
# of variation over training seeds, below which a gap of single values is inconclusive (Dufour, Efros and Pérez 2026,
# "The FID Lottery", arXiv 2606.20536).
FID_GAP = 0.013

# How much worse images may be and still count as of the same quality (sampling.verdict): the share that is recognised
# by 3 points, the Fréchet distance by a tenth. Smaller margins need more images, with their square.
QUALITY_MARGINS = {"recognised": 0.03, "frechet": 0.10}
