"""How far an output may be from fp32 eager with the same inputs: the one table for gates, verification and tests.

Relative L2 error ||out - ref|| / ||ref|| of a whole network with random weights. Each limit is about four times
the largest error seen over the S sizes and DiC-XL, so that a wrong epsilon or a tanh GELU in fp32 still fails.
"""

RELATIVE_L2 = {
    "fp32": 5e-6,
    "tf32": 1e-2,
    "torch-default": 1e-2,
    "bf16": 5e-2,
    "fp16": 1e-2,
    "int8": 1e-1,  # of exported files alone
}

# Of the images after any step of a sampler, from the same start with the same noise: relative L2 error to fp32 eager.
# A trained network pulls the paths of an image together again, so errors do not grow with the steps. The largest seen
# with the trained digit models over 20 steps or more: in fp32, one image at a time, compiled, by ONNX Runtime or by
# OpenVINO, 8e-7; fp16 8e-4; bf16 2e-2. A tanh GELU in fp32 is 1e-5 off after the first step and 2e-4 after the last.
# Fewer, longer steps magnify what is wrong in the predicted noise, by 13 for 4 steps: sampling.drift.limit.
TRAJECTORY_L2 = {
    "fp32": 5e-6,
    "tf32": 1e-2,
    "torch-default": 1e-2,
    "bf16": 5e-2,
    "fp16": 4e-3,
    "int8": 2e-1,
}

# Of the classifier's features of sampled digits, their mean difference: sampling.figures.shift. Seen: in fp32 6e-7,
# fp16 5e-4, bf16 8e-3; with a tanh GELU in fp32 4e-4, with a block left out 6e-2 or more. A tanh GELU
# within fp16 is lost in the rounding, 8e-4: only an engine that claims fp32 is caught at it.
FEATURE_SHIFT = {
    "fp32": 1e-5,
    "tf32": 4e-3,
    "torch-default": 4e-3,
    "bf16": 4e-2,
    "fp16": 2e-3,
}
