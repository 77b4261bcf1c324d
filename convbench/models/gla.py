"""Gated linear attention, the token mixer of DiG: exact in plain PyTorch, or with flash-linear-attention on a GPU.

Recurrence of one head over the tokens (arXiv:2312.06635, eq. 3), with key width K and value width V:

    S_i = diag(exp(g_i)) S_{i-1} + k_i v_i^T        S_0 = 0, S of shape (K, V), g_i <= 0 the log decay
    o_i = S_i^T q_i

In chunks of CHUNK tokens it becomes matrix products. With b_i the sum of g from the start of the chunk to
token i, and B_c the value of b at the end of chunk c:

    inside   o_i += sum_{j <= i} <q_i exp(b_i - b_j), k_j> v_j
    across   U_c = sum_j (k_j exp(B_c - b_j)) v_j^T          contribution of chunk c to the state
             R_c = sum_{a < c} exp(B_{a+1} + ... + B_{c-1}) U_a   the state before chunk c
             o_i += (q_i exp(b_i))^T R_c
"""

import importlib.util

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 16


def chunked_gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Compute the recurrence above for all heads at once, in float32 or wider.

    q, k, g: (B, heads, N, K), q already scaled; v: (B, heads, N, V). Returns (B, heads, N, V) in the type of v.
    """
    kind, tokens = v.dtype, v.shape[2]
    wide = torch.promote_types(kind, torch.float32)
    # Padding is neutral: k = v = 0 adds nothing, g = 0 decays nothing, and the padded rows are removed again.
    q, k, v, g = (
        F.pad(a.to(wide), (0, 0, 0, -tokens % CHUNK)).unflatten(2, (-1, CHUNK)) for a in (q, k, v, g)
    )  # (B, heads, chunks, CHUNK, K or V)
    b = g.cumsum(dim=3)
    end = b[:, :, :, -1:]  # (B, heads, chunks, 1, K)

    # exp(b_i - b_j) as a product of two factors, both taken from the middle of the chunk, where the
    # exponents are smallest: neither overflows in float32 before a token decays by exp(-11), a gate of -176.
    middle = b[:, :, :, CHUNK // 2 - 1 : CHUNK // 2]
    scores = (q * (b - middle).exp()) @ (k * (middle - b).exp()).transpose(-1, -2)
    inside = scores.tril() @ v

    update = (k * (end - b).exp()).transpose(-1, -2) @ v  # U: (B, heads, chunks, K, V)
    # Differences of long sums: float64, or the last chunks of a long sequence lose digits. It is a small tensor.
    total = end.squeeze(3).double().cumsum(dim=2).transpose(-1, -2)  # B_0 + ... + B_c: (B, heads, K, chunks)
    before = F.pad(total, (1, -1))  # the same without B_c itself
    # Row c, column a < c: exp(B_{a+1} + ... + B_{c-1}). The rest is masked before exp, where it could overflow.
    later = torch.ones(total.shape[-1], total.shape[-1], dtype=torch.bool, device=v.device).triu()
    carry = (before[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp().to(wide)
    state = (carry @ update.permute(0, 1, 3, 2, 4)).permute(0, 1, 3, 2, 4)  # R: (B, heads, chunks, K, V)

    across = (q * b.exp()) @ state
    return (inside + across).flatten(2, 3)[:, :, :tokens].to(kind)


class GLA(nn.Module):
    """Gated linear attention by the best implementation.

    q, k, g: (B, heads, N, K); v: (B, heads, N, V) -> (B, heads, N, V)
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        if implementation(q.device.type) == "flash-linear-attention":
            from fla.ops.gla import chunk_gla

            # The library expects the heads after the tokens and scales q by default.
            q, k, v, g = (a.transpose(1, 2).contiguous() for a in (q, k, v, g))
            return chunk_gla(q, k, v, g, scale=1.0)[0].transpose(1, 2)
        return chunked_gla(q, k, v, g)

    def count_macs(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> dict[str, int]:
        """Count the recurrence: decay, outer product and read-out, K * V MACs each per token and head."""
        return {"gla_core": 3 * k.numel() * v.shape[-1]}


def implementation(device: str) -> str:
    """Implementation of the recurrence on a device: "flash-linear-attention" or "chunked PyTorch"."""
    if device == "cuda" and importlib.util.find_spec("fla") is not None:
        return "flash-linear-attention"
    return "chunked PyTorch"
