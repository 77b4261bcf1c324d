"""One network of each family, small enough to export in a test: ``tiny:dico`` and so on as a model id."""

from torch import nn

from convbench.models.dic import DiC
from convbench.models.dico import DiCo
from convbench.models.dit import DiT
from convbench.models.fcdm import FCDM
from convbench.models.random_weights import fill

CLASSES = 10
INPUTS = {"classes": CLASSES, "res_multiple": 32}


def filled(network: nn.Module) -> nn.Module:
    """The same weights in every process, none of them zero."""
    fill(network)
    return network


def dico(res: int) -> nn.Module:
    return filled(DiCo(16, [1, 1, 1, 1, 1], num_classes=CLASSES))


def dic(res: int) -> nn.Module:
    return filled(DiC(16, [1, 1, 1, 1, 1], num_classes=CLASSES))


def fcdm(res: int) -> nn.Module:
    return filled(FCDM(16, [1, 1, 1, 1, 1], num_classes=CLASSES))


def dit(res: int) -> nn.Module:
    return filled(DiT(32, 2, 2, 2, res=res, num_classes=CLASSES))


for factory in (dico, dic, fcdm, dit):
    factory.inputs = INPUTS  # type: ignore[attr-defined]
