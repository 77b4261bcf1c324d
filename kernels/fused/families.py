"""The networks that can be fused: what each becomes, what its blocks become, and which other layers it may hold."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ...models import deformable, dic, dico, dig, fcdm, flowdcn, layers
from ...models.gated_mlp import GatedMlp
from ...models.gla import GLA
from .dic import FusedDiC, FusedModulatedConvs
from .dico import FusedDiCo, FusedDiCoBlock
from .dig import FusedDiG, FusedDiGBlock
from .fcdm import FusedFCDM, FusedFCDMBlock
from .flowdcn import FusedDeformableSampling, FusedFlowDCN
from .modules import FusedBlock, FusedNetwork


@dataclass(frozen=True)
class FusibleFamily:
    """A network that can be fused."""

    network: type[FusedNetwork]
    blocks: Mapping[type[nn.Module], type[FusedBlock]]
    parts: frozenset[type[nn.Module]]  # layers that it may hold besides the blocks


SHARED = (nn.ModuleList, nn.Sequential, nn.Linear, nn.SiLU, nn.Conv2d, nn.Embedding, layers.TimestepEmbedder)
SHUFFLES = (nn.PixelUnshuffle, nn.PixelShuffle, layers.LayerNorm2d)
RESAMPLING = (*SHUFFLES, layers.Downsample, layers.Upsample, dic.Stem, dic.Head)

FAMILIES: dict[type[nn.Module], FusibleFamily] = {
    dico.DiCo: FusibleFamily(
        FusedDiCo,
        {dico.DiCoBlock: FusedDiCoBlock},
        frozenset({*SHARED, *RESAMPLING, dico.Stage, dico.LabelEmbedder, nn.AdaptiveAvgPool2d, nn.Sigmoid}),
    ),
    fcdm.FCDM: FusibleFamily(
        FusedFCDM,
        {fcdm.FCDMBlock: FusedFCDMBlock},
        frozenset(
            {
                *(*SHARED, *SHUFFLES, fcdm.Downsample, fcdm.Upsample),
                *(fcdm.Head, fcdm.Stage, fcdm.GlobalResponseNorm, layers.LabelEmbedder),
            }
        ),
    ),
    dic.DiC: FusibleFamily(
        FusedDiC,
        {dic.ModulatedConvs: FusedModulatedConvs},
        frozenset(
            {
                *(*SHARED, *RESAMPLING, dic.Stage, dic.Encoder, dic.Decoder, dic.DiCBlock),
                *(nn.GroupNorm, nn.Identity, layers.LabelEmbedder),
            }
        ),
    ),
    dig.DiG: FusibleFamily(
        FusedDiG,
        {dig.DiGBlock: FusedDiGBlock},
        frozenset(
            {
                *(*SHARED, layers.LabelEmbedder, layers.PatchEmbed, layers.TokenHead, GLA),
                *(dig.GatedLinearAttention, dig.GatedHeadNorm, dig.SwiGLU),
            }
        ),
    ),
    flowdcn.FlowDCN: FusibleFamily(
        FusedFlowDCN,
        {deformable.DeformableSampling: FusedDeformableSampling},
        frozenset(
            {
                *(*SHARED, layers.LabelEmbedder, layers.PatchEmbed, layers.TokenHead, layers.RMSNorm),
                *(flowdcn.FlowDCNBlock, flowdcn.DeformableAttention, GatedMlp),
            }
        ),
    ),
}


def winograd_classes() -> list[str]:
    """Names of the networks whose blocks hold dense 3x3 convolutions, which Winograd's algorithm can compute."""
    return [network.__name__ for network, family in FAMILIES.items() if FusedModulatedConvs in family.blocks.values()]
