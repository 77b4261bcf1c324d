"""An external model for tests/catalogue/test_external.py, unknown to convbench."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Net(nn.Module):
    """Two convolutions around the sum of the features of x, t and y; the second starts at zero, as many heads do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.time, self.label = nn.Linear(1, 16), nn.Embedding(11, 16)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        c = self.time(t[:, None].to(x.dtype) / 1000) + self.label(y)
        return self.head(F.gelu(self.stem(x) + c[:, :, None, None]))


def net(res: int) -> nn.Module:
    return Net()


net.inputs = {"channels": 3, "factor": 1, "classes": 10, "res_multiple": 4}  # type: ignore[attr-defined]


def classifier(res: int) -> nn.Module:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * res * res, 7)

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self.linear(x.flatten(1))

    return Classifier()


classifier.inputs = {"channels": 3, "factor": 1, "takes": ("x",)}  # type: ignore[attr-defined]


def misdeclared(res: int) -> nn.Module:
    return Net()


misdeclared.inputs = {"chanels": 3}  # type: ignore[attr-defined]


def no_network(res: int) -> Tensor:
    return torch.zeros(res)


NUMBER = 3
