"""Names of the samplers, the prediction that each needs, and the defaults of a network. Imports no torch."""

from ..catalogue import Signature

PREDICTS = {  # prediction that each sampler needs from the network
    "iddpm": "noise",
    "ddim": "noise",
    "dpm-solver++": "noise",
    "heun-ddim": "noise",
    "euler": "velocity",
    "euler-maruyama": "velocity",
    "euler-shift": "reverse velocity",
    "heun": "data",
    "heun-edm": "denoised",
}
DEFAULT = {  # the papers' samplers
    "noise": "iddpm",
    "velocity": "euler-maruyama",
    "reverse velocity": "euler-shift",
    "data": "heun",
    "denoised": "heun-edm",
}
DETERMINISTIC = DEFAULT | {"noise": "ddim", "velocity": "euler"}
STEPS = {"dpm-solver++": 20, "euler-shift": 20, "heun": 50, "heun-ddim": 25, "heun-edm": 32}
"""Published numbers of steps that differ from 250. A step of Heun's method has two evaluations, its last step one."""
OTHER_SCHEDULES = ("adm", "dim", "ldm", "uvit")
"""Families with variants that were trained with a different noise schedule."""


def prediction(takes: Signature) -> str:
    """Prediction of a network, as in the values of ``PREDICTS``."""
    return takes.predicts.removesuffix(" and variance")


def default_sampler(takes: Signature) -> str:
    """Name of the default sampler of a network."""
    return takes.sampler or DEFAULT[prediction(takes)]


def default_steps(name: str) -> int:
    """Default number of steps of a sampler."""
    return STEPS.get(name, 250)
