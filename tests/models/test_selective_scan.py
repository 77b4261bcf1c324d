"""The chunked selective scan against the recurrence itself, token by token in float64; the layers around it by hand."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from scans import inputs, recurrence
from tolerances import assert_close_to_scale
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convbench.checks.operators import operators_seen
from convbench.models import selective_scan
from convbench.models.dim import PAD, reordered, scan_order
from convbench.models.dimsum import WINDOW, WaveletScanBlock
from convbench.models.layers import RMSNorm
from convbench.models.mamba import NORM_EPS, STATE, Mamba
from convbench.models.selective_scan import CHUNK, SelectiveScan, chunked_scan, implementation

LENGTHS = (1, 15, 16, 17, 258, 1026)  # below, at and above a chunk; those of DiS at 256 and 512 pixels


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("steps", ["Mamba", "tiny", "large", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_chunks_equal_the_recurrence(tokens: int, steps: str, dtype: torch.dtype) -> None:
    arguments = inputs(tokens, steps, dtype)
    found = chunked_scan(*arguments)
    assert found.dtype == dtype
    assert_close_to_scale(found, recurrence(*arguments), "scan fp64" if dtype == torch.float64 else "scan fp32")


@pytest.mark.parametrize("tokens", [1, 25, 258])
def test_bfloat16_is_only_rounded_at_the_end(tokens: int) -> None:
    arguments = inputs(tokens, dtype=torch.bfloat16)
    found = chunked_scan(*arguments)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, chunked_scan(*(v.float() for v in arguments)).bfloat16())


def test_a_state_without_input_stays_zero() -> None:
    assert not chunked_scan(*inputs(40, "none")).any()


def test_a_token_is_kept_or_forgotten_by_hand() -> None:
    """d = 1 and A = 0 sum the inputs up; a step of 80 leaves exp(-80) of what came before."""
    u = torch.arange(1.0, 41.0).reshape(1, 1, 40)
    ones, step = torch.ones(1, 1, 40), torch.ones(1, 1, 40)
    kept = chunked_scan(u, step, torch.zeros(1, 1), ones, ones)
    assert kept.flatten().tolist() == [n * (n + 1) / 2 for n in range(1, 41)]
    step = torch.zeros(1, 1, 40)
    step[0, 0, 3], step[0, 0, 20] = 1, 80
    forgotten = chunked_scan(u, step, torch.full((1, 1), -1.0), ones, ones).flatten()
    assert forgotten.tolist() == [0.0] * 3 + [4.0] * 17 + [80 * 21.0] * 20


def test_the_output_is_causal() -> None:
    u, d, a, b, c = inputs(40)
    expected = chunked_scan(u, d, a, b, c)
    for v, changed in ((u, 3.0), (d, 3.0), (b, 3.0), (c, 3.0)):
        v[:, :, 21:] = changed
    found = chunked_scan(u, d, a, b, c)
    assert_close_to_scale(found[:, :, :21], expected[:, :, :21], "scan fp32")
    assert (found - expected)[:, :, 21:].abs().mean() > 1


class Recorded(TorchFunctionMode):
    """Counts the calls of torch functions."""

    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_operators_grow_with_the_chunks_and_not_with_the_tokens() -> None:
    """A few for each chunk, to hand its state on, above a number that does not change."""
    found = []
    for chunks in (1, 16, 64):
        arguments = inputs(chunks * CHUNK)
        with Recorded() as recorded:
            chunked_scan(*arguments)
        found.append(recorded.calls)
    one, sixteen, many = found
    assert one < 600
    assert (sixteen - one) / 15 == (many - one) / 63 < CHUNK


def test_the_module_adds_the_input_and_gates_and_counts_itself() -> None:
    """3 N a token and channel: decay, outer product, read-out; and two products around them."""
    arguments = inputs(25, dtype=torch.float64)
    u = arguments[0]
    random = torch.Generator().manual_seed(0)
    skip = torch.randn(5, generator=random, dtype=torch.float64)
    gate = torch.randn(u.shape, generator=random, dtype=torch.float64)
    expected = (recurrence(*arguments) + skip[:, None] * u) * gate / (1 + (-gate).exp())
    assert implementation("cpu") == "chunked PyTorch"
    assert_close_to_scale(SelectiveScan()(*arguments, skip, gate), expected, "scan fp64")
    counted = SelectiveScan().count_macs(*arguments, skip, gate)
    assert counted == {"scan_core": 3 * STATE * u.numel(), "mul": 2 * u.numel()}


def test_mamba_ssm_is_called_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with its signature that steps through the recurrence: mixed-up arguments show without a GPU."""
    torch.manual_seed(0)

    def selective_scan_fn(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
    ) -> Tensor:
        assert A.dtype == torch.float32 and delta.dtype == u.dtype
        assert delta_bias is None and not delta_softplus and not return_last_state  # the step is made before
        assert D is not None and z is not None
        return ((recurrence(u, delta, A, B, C) + D[:, None] * u) * torch.nn.functional.silu(z)).to(u.dtype)

    stand_in = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    stand_in.selective_scan_fn = selective_scan_fn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    layer = Mamba(24, kernel=4, both_ways=True).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.normal_(std=0.4)
    x = torch.randn(2, 19, 24)
    expected = layer(x)
    monkeypatch.setattr(selective_scan, "implementation", lambda device: "mamba-ssm")
    found = layer(x)
    assert not torch.equal(found, expected)  # the stand-in has run
    assert_close_to_scale(found, expected, "scan fp32")


def test_the_recorded_implementation_depends_on_device_and_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with operators_seen() as seen:
        Mamba(24, kernel=4).requires_grad_(False)(torch.randn(1, 5, 24))
    assert seen == {"scan": "chunked PyTorch"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "mamba_ssm" else None)
    assert (implementation("cuda"), implementation("cpu")) == ("mamba-ssm", "chunked PyTorch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert implementation("cuda") == "chunked PyTorch"


# ---- the Mamba layer, token by token ----


def mamba_by_hand(layer: Mamba, x: Tensor, condition: Tensor | None, suffix: str = "") -> Tensor:
    """Everything before the last projection, for one direction."""
    state = {key: value.double() for key, value in layer.state_dict().items()}
    tokens, kernel = x.shape[1], layer.kernel
    both = x.double() @ state["in_proj.weight"].T
    inner, gate = both.chunk(2, dim=2)
    before = torch.zeros(x.shape[0], kernel - 1, inner.shape[2], dtype=torch.float64)
    if condition is not None:
        before += (condition.double() @ state["cond_proj.weight"].T + state["cond_proj.bias"])[:, None]
    padded = torch.cat([before, inner], dim=1)
    taps = state[f"conv1d{suffix}.weight"][:, 0]
    u = torch.stack([(padded[:, i : i + kernel] * taps.T).sum(dim=1) for i in range(tokens)], dim=1)
    u = u + state[f"conv1d{suffix}.bias"]
    u = u / (1 + (-u).exp())
    step, b, c = (u @ state[f"x_proj{suffix}.weight"].T).split([layer.rank, STATE, STATE], dim=2)
    d = (step @ state[f"dt_proj{suffix}.weight"].T + state[f"dt_proj{suffix}.bias"]).exp().log1p()
    name = "A_b_log" if suffix else "A_log"
    y = recurrence(u.mT, d.mT, -state[name].exp(), b.mT, c.mT).mT + state[f"D{suffix}"] * u
    return y * gate / (1 + (-gate).exp())


@pytest.mark.parametrize(("both_ways", "condition"), [(False, None), (True, None), (False, 7)])
def test_a_layer_by_hand(both_ways: bool, condition: int | None) -> None:
    torch.manual_seed(0)
    layer = Mamba(24, kernel=4, both_ways=both_ways, condition=condition).double().requires_grad_(False)
    for parameter in layer.parameters():
        parameter.normal_(std=0.4)
    x = torch.randn(2, 19, 24, dtype=torch.float64)
    c = torch.randn(2, condition, dtype=torch.float64) if condition else None
    y = mamba_by_hand(layer, x, c)
    if both_ways:
        y = y + mamba_by_hand(layer, x.flip(1), c, "_b").flip(1)
    assert_close_to_scale(layer(x, c), y @ layer.out_proj.weight.T, "scan fp64")
    if c is not None:
        assert not torch.allclose(layer(x, c), layer(x, c + 1))


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_norm_by_hand(kind: torch.dtype) -> None:
    norm = RMSNorm(48, NORM_EPS).to(kind).requires_grad_(False)
    norm.weight.normal_()
    x = 1e-3 * torch.randn(2, 5, 48, dtype=kind)  # so small that the eps counts
    wide = x.double()
    expected = wide / (wide.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * norm.weight.double()
    found = norm(x).double()
    assert NORM_EPS == 1e-5
    np.testing.assert_allclose(found, expected, rtol=6 * torch.finfo(kind).eps, atol=1e-12)


# ---- the orders of DiM and DiMSUM ----


def test_dim_scans_so_that_skips_have_the_same_order() -> None:
    """Right and left by rows, down and up by columns, in the 24 layers that leave a skip; the same backwards after."""
    order = scan_order(49)
    assert order[:9] == [0, 1, 2, 3, 0, 1, 2, 3, 0] and order[25] == 3 and order[-1] == 0
    assert all(order[index] == order[48 - index] for index in range(49))


def test_dim_reorders_its_grid_by_hand() -> None:
    side = 3
    tokens = torch.arange(5 + side**2, dtype=torch.float32)[None, :, None]
    rows = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    columns = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    orders = [rows, rows[::-1], columns, columns[::-1]]
    assert PAD == 3
    for before, first in enumerate(orders):
        start = reordered(tokens, side, 0, before)
        assert start.flatten().tolist() == [0, 1, 2, 3, 4] + [5 + i for i in first]
        for now, second in enumerate(orders):
            assert reordered(start, side, before, now).flatten().tolist() == [0, 1, 2, 3, 4] + [5 + i for i in second]


@pytest.mark.parametrize("columns", [False, True])
def test_dimsum_scans_the_wavelets_window_by_window(columns: bool) -> None:
    """Two levels of Haar bands in the released order, channels read across them; and back again, losing nothing."""
    grid, width = 16, 3
    block = WaveletScanBlock(width, 8, grid, columns).double().requires_grad_(False)
    x = torch.randn(1, grid * grid, width, dtype=torch.float64)
    picture = x[0].T.reshape(width, grid, grid).numpy()

    def bands(maps: np.ndarray) -> np.ndarray:
        """Low-low, low-high (across rows), high-low, high-high: (..., H, W) -> (4, ..., H/2, W/2)."""
        a, b, c, d = maps[..., ::2, ::2], maps[..., ::2, 1::2], maps[..., 1::2, ::2], maps[..., 1::2, 1::2]
        return np.stack([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d]) / 2

    levels = bands(bands(picture)).transpose(1, 0, 2, 3, 4)  # first level, second level, channel, place
    places = levels.reshape(16 * width, grid // WINDOW, grid // WINDOW) / WINDOW
    plane = np.zeros((width, grid, grid))
    for k, band in enumerate(places):
        plane[k // 16, k % 16 // 4 :: WINDOW, k % 4 :: WINDOW] = band
    side = grid // WINDOW
    expected = []
    for outer in range(WINDOW):
        for inner in range(WINDOW):
            for i in range(side):
                for j in range(side):
                    row, column = (
                        (inner * side + j, outer * side + i) if columns else (outer * side + i, inner * side + j)
                    )
                    expected.append(plane[:, row, column])
    found = block.ordered(x)
    # The filters are float32, as released: 0.5 to 7 digits.
    np.testing.assert_allclose(found[0], np.array(expected), rtol=0, atol=1e-6)
    np.testing.assert_allclose(block.restored(found), x, rtol=0, atol=2e-6)
    assert math.isclose(float(block.dwt.w_ll[0, 0, 0, 0]), 0.5, rel_tol=1e-7)
