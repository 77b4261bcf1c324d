"""One small network of every registered family: ``tiny:dico`` and so on as a model id, at ``RES[family]`` pixels.

Each declares the inputs of its family, with 10 classes, or 7 tokens of 24 numbers in place of a caption. A family that
is not in ``NETWORKS`` fails the tests that go over every family.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from convbench.catalogue import families, variants
from convbench.models.adm import ADM
from convbench.models.ddt import DDT
from convbench.models.dic import DiC
from convbench.models.dico import DiCo
from convbench.models.diffit import DiffiT
from convbench.models.dig import DiG
from convbench.models.dim import DiM
from convbench.models.dimsum import DiMSUM
from convbench.models.dis import DiS
from convbench.models.dit import DiT
from convbench.models.dit_llama import DiTLLaMA
from convbench.models.edm2 import EDM2
from convbench.models.fcdm import FCDM
from convbench.models.flowdcn import FlowDCN
from convbench.models.jit import JiT
from convbench.models.ldm import LDM
from convbench.models.lightningdit import LightningDiT
from convbench.models.mdtv2 import MDTv2
from convbench.models.pixart import PixArt
from convbench.models.random_weights import fill
from convbench.models.sana import SANA
from convbench.models.sit import SiT
from convbench.models.udit import UDiT
from convbench.models.uvit import UViT

CLASSES = 10
CAPTION = (7, 24)  # tokens, width
STAGES = (1, 1, 1, 1, 1)
SIZE: Mapping[str, Any] = {"width": 32, "depth": 2, "heads": 2, "patch": 2, "num_classes": CLASSES}
UNET: Mapping[str, Any] = {"multipliers": [1, 2], "depth": 1, "num_classes": CLASSES}

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "adm": lambda res: ADM(32, attention_at=[2], heads=2, **UNET),
    "ddt": lambda res: DDT(32, 2, 1, 2, 2, res=res, num_classes=CLASSES),
    "dic": lambda res: DiC(16, STAGES, num_classes=CLASSES),
    "dico": lambda res: DiCo(16, STAGES, num_classes=CLASSES),
    "diffit": lambda res: DiffiT(**SIZE, res=res),
    "dig": lambda res: DiG(64, 2, 2, 2, res=res, num_classes=CLASSES),
    "dim": lambda res: DiM(48, 3, 2, res=res, num_classes=CLASSES),
    "dimsum": lambda res: DiMSUM(64, 2, 4, 2, attention_every=2, res=res, num_classes=CLASSES),
    "dis": lambda res: DiS(48, 2, 2, res=res, num_classes=CLASSES),
    "dit": lambda res: DiT(32, 2, 2, 2, res=res, num_classes=CLASSES),
    "dit_llama": lambda res: DiTLLaMA(**SIZE, hidden=48, res=res),
    "edm2": lambda res: EDM2(16, res=res, attention_at=[8], head_width=16, **UNET),
    "fcdm": lambda res: FCDM(16, STAGES, num_classes=CLASSES),
    "flowdcn": lambda res: FlowDCN(32, 2, 2, 2, num_classes=CLASSES),
    "jit": lambda res: JiT(32, 2, 2, 4, bottleneck=8, context_from=1, res=res, num_classes=CLASSES),
    "ldm": lambda res: LDM(32, [1, 2], 1, [2], num_classes=CLASSES),
    "lightningdit": lambda res: LightningDiT(32, 2, 2, 1, res=res, num_classes=CLASSES),
    "mdtv2": lambda res: MDTv2(32, 6, 2, 2, 2, res=res, num_classes=CLASSES),
    "pixart": lambda res: PixArt(**{**SIZE, "num_classes": None}, caption_width=CAPTION[1], res=res),
    "sana": lambda res: SANA(64, 2, 4, caption_width=CAPTION[1]),
    "sit": lambda res: SiT(**SIZE, res=res),
    "udit": lambda res: UDiT(16, STAGES, 2, res=res, num_classes=CLASSES),
    "uvit": lambda res: UViT(**SIZE, res=res),
}
RES = dict.fromkeys(NETWORKS, 64) | {"adm": 16, "edm2": 128, "jit": 16, "lightningdit": 128, "sana": 128}


def _inputs(family: str) -> dict[str, Any]:
    """What a network of the family is given: the signature of its first variant, made small."""
    signature = next(each.signature for each in variants().values() if each.family.module == family)
    small = {"classes": CLASSES, "caption": CAPTION if signature.caption else None}
    return {**vars(signature), **small, "res_multiple": 32 if RES[family] == 64 else RES[family]}


def _factory(family: str) -> Callable[[int], nn.Module]:
    def factory(res: int) -> nn.Module:
        """The same weights in every process, none of them zero."""
        network = NETWORKS[family](res)
        fill(network)
        return network

    factory.inputs = _inputs(family)  # type: ignore[attr-defined]
    return factory


for _family in NETWORKS:
    if _family in families():
        setattr(sys.modules[__name__], _family, _factory(_family))
