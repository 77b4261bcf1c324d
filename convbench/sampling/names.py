"""Which samplers there are, what each needs the network to predict, and which suits a network. Imports no torch."""

from ..catalogue import Signature

PREDICTS = {  # what the network of each has to predict
    "iddpm": "noise",
    "ddim": "noise",
    "dpm-solver++": "noise",
    "euler": "velocity",
    "euler-maruyama": "velocity",
    "euler-shift": "reverse velocity",
    "heun": "data",
    "heun-edm": "denoised",
}
DEFAULT = {  # what the papers sample with
    "noise": "iddpm",
    "velocity": "euler-maruyama",
    "reverse velocity": "euler-shift",
    "data": "heun",
    "denoised": "heun-edm",
}
DETERMINISTIC = DEFAULT | {"noise": "ddim", "velocity": "euler"}
STEPS = {"dpm-solver++": 20, "euler-shift": 20, "heun": 50, "heun-edm": 32}
"""The published numbers of steps, where not 250. A step of Heun's method is two evaluations, its last step one."""
OTHER_SCHEDULES = ("adm", "dim", "ldm", "uvit")
"""Families whose networks were trained on another noise schedule than the one here, some of their variants at least."""


def prediction(takes: Signature) -> str:
    """What a sampler has to know about a network's output: a value of ``PREDICTS``."""
    return takes.predicts.removesuffix(" and variance")


def default(takes: Signature) -> str:
    """The sampler of a network unless told otherwise."""
    return takes.sampler or DEFAULT[prediction(takes)]


def steps(name: str) -> int:
    """How many steps a sampler takes unless told otherwise."""
    return STEPS.get(name, 250)
