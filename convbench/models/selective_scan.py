"""Selective scan of Mamba, the mixer of DiS, DiM and DiMSUM: exact in plain PyTorch, or with mamba-ssm on a GPU.

Recurrence of one channel over the tokens (arXiv:2312.00752, eq. 2 and algorithm 2), with a state of N values:

    h_i = exp(d_i A) h_{i-1} + d_i B_i u_i        h_0 = 0, A < 0 and d_i > 0
    y_i = <C_i, h_i> + D u_i, then times silu(z_i)

In chunks of CHUNK tokens, it is computed for the same position of all chunks at once:

    inside   the recurrence of each chunk from a state of zero: CHUNK steps
    carry    R_{c+1} = exp(A s_c) R_c + (final state of chunk c), s_c the sum of its d: one step per chunk
    across   y_i += <C_i, exp(A s_i) R_c>, s_i the sum of d from the start of the chunk to token i

Every factor is the exp of a sum of non-positive logarithms: it may vanish, but nothing overflows, and there is no
division.
"""

import importlib
import importlib.util

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 16


def chunked_scan(u: Tensor, d: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Compute <C_i, h_i> of the recurrence above, in float32 or wider.

    u, d: (B, E, L), d already positive; a: (E, N), negative; b, c: (B, N, L). Returns (B, E, L) in the type of u.
    """
    kind, tokens = u.dtype, u.shape[-1]
    wide = torch.promote_types(kind, torch.float32)
    # Padding is neutral: d = 0 adds nothing and decays nothing, and the padded columns are removed again.
    u, d, b, c = (
        F.pad(v.to(wide), (0, -tokens % CHUNK)).unflatten(2, (-1, CHUNK)).movedim(-1, 0) for v in (u, d, b, c)
    )  # (CHUNK, B, E or N, chunks)
    a = a.to(wide)[:, :, None]  # (E, N, 1)
    moved = d * u
    since = d.cumsum(dim=0)  # s_i

    state, inside = torch.zeros((), dtype=wide, device=u.device), []
    for i in range(CHUNK):
        # (B, E, N, chunks)
        state = (d[i, :, :, None] * a).exp() * state + moved[i, :, :, None] * b[i, :, None]
        inside.append((c[i, :, None] * state).sum(dim=2))

    decay = (since[-1, :, :, None] * a).exp()
    before = [torch.zeros_like(state[..., 0])]
    for chunk in range(state.shape[-1] - 1):
        before.append(decay[..., chunk] * before[-1] + state[..., chunk])
    carry = torch.stack(before, dim=-1)  # R: (B, E, N, chunks)
    across = [(c[i, :, None] * (since[i, :, :, None] * a).exp() * carry).sum(dim=2) for i in range(CHUNK)]

    y = torch.stack(inside) + torch.stack(across)  # (CHUNK, B, E, chunks)
    return y.movedim(0, -1).flatten(2)[:, :, :tokens].to(kind)


class SelectiveScan(nn.Module):
    """Selective scan by the best implementation, plus the input term, gated. Shapes as in ``chunked_scan``.

    skip: D, (E,); gate: z, (B, E, L). -> (B, E, L)
    """

    def forward(self, u: Tensor, d: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, gate: Tensor) -> Tensor:
        if u.device.type == "meta":  # for counting, which must not depend on the implementation
            return torch.empty_like(u)
        if implementation(u.device.type) == "mamba-ssm":
            scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
            out: Tensor = scan(u, d.to(u.dtype), a.float(), b, c, skip.float(), gate)
            return out
        return (chunked_scan(u, d, a, b, c) + skip[:, None] * u) * F.silu(gate)

    def count_macs(
        self, u: Tensor, d: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, gate: Tensor
    ) -> dict[str, int]:
        """Count the MACs of any implementation, for u (B, E, L).

        Decay, outer product and read-out have one each per token and state value; the input and the gate add one.
        """
        return {"scan_core": 3 * u.numel() * a.shape[1], "mul": 2 * u.numel()}


def implementation(device: str) -> str:
    """Implementation of the recurrence on a device: "mamba-ssm" or "chunked PyTorch"."""
    if device == "cuda" and importlib.util.find_spec("mamba_ssm") is not None:
        return "mamba-ssm"
    return "chunked PyTorch"
