"""DiCo with modified parts, for the ablations of its paper: ``ablations`` in ``dico.toml``."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .dico import DiCo, DiCoBlock, Stage
from .layers import modulate

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class SqueezeExcitation(nn.Sequential):
    """Gates from the spatial mean through a bottleneck (Hu et al. 2018). BCHW -> BC11.

    The paper does not print the width of the bottleneck; a sixteenth is the value of Hu et al.
    """

    def __init__(self, width: int, reduction: int = 16) -> None:
        squeezed = width // reduction
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, width, 1),
            nn.Sigmoid(),
        )


class AblatedDiCoBlock(DiCoBlock):
    """A DiCo block with a different depthwise kernel, activation or channel attention. BCHW, BC -> BCHW."""

    def __init__(self, width: int, mlp_ratio: float, kernel: int, activation: str, attention: str) -> None:
        super().__init__(width, mlp_ratio)
        self.conv2 = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.activation = ACTIVATIONS[activation]
        if attention == "none":
            self.ca = None  # type: ignore[assignment]
        elif attention == "se":
            self.ca = SqueezeExcitation(width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, :, None, None].chunk(6, dim=1)

        y = self.activation(self.conv2(self.conv1(modulate(self.norm(x), shift1, scale1))))
        x = x + gate1 * self.conv3(y if self.ca is None else y * self.ca(y))

        y = self.activation(self.conv4(modulate(self.norm(x), shift2, scale2)))
        return x + gate2 * self.conv5(y)


class AblatedDiCo(DiCo):
    """DiCo with different blocks; width, depths and mlp_ratio are arguments of DiCo itself."""

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        mlp_ratio: float = 2,
        kernel: int = 3,
        activation: str = "gelu",
        attention: str = "cca",
        **other: Any,
    ) -> None:
        super().__init__(width, depths, mlp_ratio, **other)
        for stage in self.modules():
            if isinstance(stage, Stage):
                for index, block in enumerate(stage):
                    assert isinstance(block, DiCoBlock)
                    stage[index] = AblatedDiCoBlock(block.conv1.in_channels, mlp_ratio, kernel, activation, attention)
