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
}
