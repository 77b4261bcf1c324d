# Copied on 2026-11-21 from the project's shared reference folder, unchanged below this line: see data/README.md.
"""Deterministic weights and inputs for the reference goldens (pure numpy).

Every tensor of a model is a function of its state-dict *name* and *shape*
only, so the goldens can be reproduced without storing any weights.

Formula for one entry (name, shape)::

    rng = numpy.random.Generator(numpy.random.PCG64(zlib.crc32(name.encode())))
    w   = rng.standard_normal(shape, dtype=float32)

    name ends with "pos_embed"                        -> kept as the model computes it (None)
    name contains "embedding_table" (lookup tables)   -> EMBED_STD * w
    name ends with ".gamma"/".beta" (GRN, (1,C,1,1))  -> 0.1 * w
    ndim >= 2                                         -> w / sqrt(prod(shape[1:]))
    ndim == 1 and the last name part is "weight"      -> 1 + 0.1 * w
    ndim == 1 and the last name part is "bias"        -> 0.02 * w

All arithmetic is float32: the scale is rounded to float32 before the product.
Anything else raises, so that an unexpected entry is noticed.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

EMBED_STD = 0.02
GRN_STD = 0.1
NORM_STD = 0.1
BIAS_STD = 0.02

#: inputs used by every golden, unless a file says otherwise
T_DEFAULT = (17, 903)
Y_DEFAULT = (207, 1000)  # 1000 is the null class
#: inputs of the classifier-free-guidance goldens
T_CFG = (17, 903, 17, 903)
Y_CFG = (207, 88, 1000, 1000)
CFG_SCALE = 1.5


def generator(name: str) -> np.random.Generator:
    """The PCG64 generator that belongs to a name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def fill_tensor(name: str, shape) -> np.ndarray | None:
    """The float32 value of one state-dict entry; None means "leave as computed"."""
    shape = tuple(int(s) for s in shape)
    last = name.rsplit(".", 1)[-1]
    if last == "pos_embed":
        return None
    w = generator(name).standard_normal(shape, dtype=np.float32)
    if "embedding_table" in name:
        return w * np.float32(EMBED_STD)
    if last in ("gamma", "beta") and len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1:
        return w * np.float32(GRN_STD)
    if len(shape) >= 2:
        return w * np.float32(1.0 / math.sqrt(math.prod(shape[1:])))
    if len(shape) == 1 and last == "weight":
        return np.float32(1.0) + np.float32(NORM_STD) * w
    if len(shape) == 1 and last == "bias":
        return w * np.float32(BIAS_STD)
    raise ValueError(f"no fill rule for {name} {shape}")


def fill_state(entries) -> dict[str, np.ndarray]:
    """Fill an iterable of (name, shape); entries that stay as computed are left out."""
    out = {}
    for name, shape in entries:
        value = fill_tensor(name, shape)
        if value is not None:
            out[name] = value
    return out


def input_x(size: int = 32, batch: int = 2, channels: int = 4) -> np.ndarray:
    """Latent input, standard normal, float32, drawn afresh for each size."""
    return generator("x").standard_normal((batch, channels, size, size), dtype=np.float32)


def input_cfg(size: int = 32):
    """(x, t, y, cfg_scale) for the guidance goldens: the batch of two, repeated."""
    x = input_x(size)
    return (
        np.concatenate([x, x], axis=0),
        np.array(T_CFG, dtype=np.int64),
        np.array(Y_CFG, dtype=np.int64),
        CFG_SCALE,
    )


def noise(step: int, shape) -> np.ndarray:
    """Noise of one sampler step (float32), named by the step counter 0, 1, 2, ..."""
    return generator(f"noise{step}").standard_normal(tuple(shape), dtype=np.float32)
