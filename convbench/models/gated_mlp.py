"""Gated perceptron of language models (SwiGLU, Shazeer 2020, arXiv:2002.05202) under two sets of official keys.

w_out (swish(w_gate x) * w_value x). Shape letters: B batch, N tokens, C width.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class GatedMlp(nn.Module):
    """Gate (w1) and value (w3) in separate layers, then w2; no biases. BNC -> BNC."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class PackedGatedMlp(nn.Module):
    """Gate and value in one layer (w12), the gate first, then w3; with biases. BNC -> BNC."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)
