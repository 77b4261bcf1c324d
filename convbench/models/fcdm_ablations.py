"""FCDM with parts changed, for the ablations of its paper: ``ablations`` in ``fcdm.toml``."""

from typing import Any

from torch import nn

from .fcdm import FCDM, FCDMBlock


class AblatedFCDM(FCDM):
    """FCDM with or without the response norm of its blocks; the other changes are FCDM's own arguments."""

    def __init__(self, *args: Any, grn: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not grn:
            for block in self.modules():
                if isinstance(block, FCDMBlock):
                    block.grn = nn.Identity()  # type: ignore[assignment]
