"""The chunked form of gated linear attention against the recurrence itself, token by token in float64."""

import math

import pytest
import torch
from tolerances import assert_close_to_scale
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convbench.models.gla import CHUNK, GLA, chunked_gla, implementation

LENGTHS = (1, 15, 16, 17, 25, 256, 1024)  # below, at and above a chunk; no multiple of it; that of 256 and 512 px
INPUTS = tuple[Tensor, Tensor, Tensor, Tensor]


def recurrence(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """S = diag(exp(g)) S + k v^T, o = q S: one token after the other."""
    q, k, v, g = (a.double() for a in (q, k, v, g))
    state = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=torch.float64)
    out = []
    for i in range(q.shape[2]):
        state = state * g[:, :, i, :, None].exp() + k[:, :, i, :, None] * v[:, :, i, None, :]
        out.append((q[:, :, i, :, None] * state).sum(dim=-2))
    return torch.stack(out, dim=2)


def inputs(
    tokens: int, decay: str = "DiG", dtype: torch.dtype = torch.float32, key: int = 32, value: int = 64
) -> INPUTS:
    """Two samples of three heads. DiG's log decays are logsigmoid of something normal, over 16."""
    random = torch.Generator().manual_seed(tokens)
    q, k, v, g = (
        torch.randn(2, 3, tokens, width, generator=random, dtype=torch.float64) for width in (key, key, value, key)
    )
    weak = torch.nn.functional.logsigmoid(g) / 16
    log_decay = {
        "DiG": weak,
        "none": torch.zeros_like(g),
        "strong": -5 * torch.rand(g.shape, generator=random, dtype=torch.float64),
        "-10 everywhere": torch.full_like(g, -10),  # as far as a chunk goes in float32
        "mixed": -5 * (torch.rand(g.shape, generator=random) < 0.1).double(),
        # Sums of up to 2560 whose differences matter, which float32 would round to 1e-4.
        "first strong": torch.cat([torch.full_like(g, -5)[:, :, : tokens // 2], weak[:, :, tokens // 2 :]], dim=2),
    }[decay]
    return tuple(a.to(dtype) for a in (q / math.sqrt(key), k, v, log_decay))  # type: ignore[return-value]


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("decay", ["DiG", "none", "strong", "-10 everywhere", "mixed", "first strong"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_chunks_equal_the_recurrence(tokens: int, decay: str, dtype: torch.dtype) -> None:
    arguments = inputs(tokens, decay, dtype)
    found = chunked_gla(*arguments)
    assert found.dtype == dtype
    row = "gla fp64" if dtype == torch.float64 else "gla fp32, strong decay" if "strong" in decay else "gla fp32"
    assert_close_to_scale(found, recurrence(*arguments), row)


@pytest.mark.parametrize("tokens", [1, 25, 256])
def test_bfloat16_is_only_rounded_at_the_end(tokens: int) -> None:
    arguments = inputs(tokens, dtype=torch.bfloat16)
    found = chunked_gla(*arguments)
    assert found.dtype == torch.bfloat16
    assert_close_to_scale(found, recurrence(*arguments), "gla bf16")
    assert torch.equal(found, chunked_gla(*(a.float() for a in arguments)).bfloat16())


@pytest.mark.parametrize(("key", "value"), [(1, 1), (5, 3), (64, 32)])
def test_other_head_widths(key: int, value: int) -> None:
    arguments = inputs(37, "mixed", torch.float64, key, value)
    assert_close_to_scale(chunked_gla(*arguments), recurrence(*arguments), "gla fp64")


def test_tokens_are_kept_without_decay_and_forgotten_with_full_decay() -> None:
    """By hand: q = k = 1, so the output is the sum of the values since the last reset."""
    ones = torch.ones(1, 1, 40, 1)
    values = torch.arange(1.0, 41.0).reshape(1, 1, 40, 1)
    kept = chunked_gla(ones, ones, values, torch.zeros(1, 1, 40, 1))
    assert kept.flatten().tolist() == [n * (n + 1) / 2 for n in range(1, 41)]

    reset = torch.zeros(1, 1, 40, 1)
    reset[0, 0, 20] = -80.0  # leaves exp(-80) of what came before
    forgotten = chunked_gla(ones, ones, values, reset).flatten()
    assert forgotten[20:].tolist() == [sum(range(21, n + 1)) for n in range(21, 41)]


def test_the_output_is_causal() -> None:
    q, k, v, g = inputs(40)
    expected = chunked_gla(q, k, v, g)
    for a, changed in ((k, 3.0), (v, 3.0), (g, -3.0)):
        a[:, :, 21:] = changed
    found = chunked_gla(q, k, v, g)
    assert_close_to_scale(found[:, :, :21], expected[:, :, :21], "gla fp32")
    assert (found - expected)[:, :, 21:].abs().mean() > 1


class Recorded(TorchFunctionMode):
    """Counts the calls of torch functions."""

    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_the_number_of_operators_is_independent_of_the_length() -> None:
    found = []
    for tokens in (CHUNK, 16 * CHUNK, 64 * CHUNK):
        arguments = inputs(tokens)
        with Recorded() as recorded:
            chunked_gla(*arguments)
        found.append(recorded.calls)
    assert len(set(found)) == 1, found
    assert 10 < found[0] < 100


def test_the_module_runs_and_counts_the_recurrence() -> None:
    """3 K V a token and head: decay, outer product, read-out."""
    q, k, v, g = arguments = inputs(25)
    assert implementation("cpu") == "chunked PyTorch"
    assert torch.equal(GLA()(q, k, v, g), chunked_gla(q, k, v, g))
    assert GLA().count_macs(*arguments) == {"gla_core": 3 * 32 * 64 * 25 * 2 * 3}
