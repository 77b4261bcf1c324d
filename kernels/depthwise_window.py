"""The depthwise convolution that ``depthwise`` and ``depthwise_gelu`` share: strips of columns, walked down the map.

A thread owns a few channels of a strip of adjacent columns. It reads each row of its strip once, widens it once, and
adds it to all K output rows that it touches, whose sums stay in registers; the row that is complete is stored. So an
input is loaded (strip + K - 1) / strip times an output, however large the window is, where a tile of outputs loads it
(rows + K - 1) K / rows times. Rows outside the map are never visited, and of a full strip only the outermost columns
need a mask.
"""

from dataclasses import dataclass

from torch import Tensor

from .language import gelu, jit, on_device_of, tl, widen
from .layout import cdiv
from .schema import Compilation

WARPS = 4
ENOUGH = 132  # programs: one for each SM of an H100
FEW_ROWS = 8  # of a band; it reads K - 1 rows more


@dataclass(frozen=True)
class StripTile:
    """Columns of a strip and adjacent channels that a thread of a depthwise convolution computes."""

    columns: int
    channels: int

    def strips(self, block: int) -> int:
        """Strips of a program of ``block`` channels."""
        return 32 * WARPS * self.channels // block


def block_of(channels: int) -> int:
    """Channels of a program: the most, up to 128, that divide the map's; 416 is 13 times 32."""
    return next((size for size in (128, 64, 32) if channels % size == 0), 32)


@jit
def widened(row):  # type: ignore[no-untyped-def]
    """Convert each tensor of a tuple to float32."""
    wide = ()
    for u in tl.static_range(len(row)):
        wide = wide + (widen(row[u]),)  # type: ignore[assignment]  # noqa: RUF005
    return wide


@jit
def load_row(  # type: ignore[no-untyped-def]
    at, col, has_c, W, C: tl.constexpr, K: tl.constexpr, STRIP: tl.constexpr, EVEN: tl.constexpr
):
    """Load one row of each strip and its borders: STRIP + K - 1 columns of (P, BLOCK), zero outside the map."""
    row = ()
    for u in tl.static_range(STRIP + K - 1):
        if EVEN and (u >= K // 2) and (u < STRIP + K // 2):
            row = row + (tl.load(at + (u - K // 2) * C),)  # type: ignore[assignment]  # noqa: RUF005
        else:
            inside = (col + (u - K // 2) >= 0) & (col + (u - K // 2) < W) & has_c
            row = row + (tl.load(at + (u - K // 2) * C, mask=inside, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
    return row


@jit
def add_row(sums, row, taps, start, K: tl.constexpr, STRIP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add one row to the K output rows that it touches.

    sums: those of the upper K - 1, STRIP columns each, the uppermost first. Returns those of all K.
    """
    updated = ()
    for out in tl.static_range(K):
        for column in tl.static_range(STRIP):
            total = sums[out * STRIP + column] if out < K - 1 else start
            for dx in tl.static_range(K):
                total = tl.fma(row[column + dx], taps[(K - 1 - out) * K + dx], total)
            updated = updated + (total,)  # type: ignore[assignment]  # noqa: RUF005
    return updated


@jit
def store_row(  # type: ignore[no-untyped-def]
    sums, y, here, col, W, kept, C: tl.constexpr, STRIP: tl.constexpr, EVEN: tl.constexpr, GELU: tl.constexpr
):
    """Store the first STRIP columns of ``sums`` at y; with GELU, add what was stored to ``kept`` and return that."""
    for column in tl.static_range(STRIP):
        inside = here if EVEN else here & (col + column < W)
        stored = (gelu(sums[column]) if GELU else sums[column]).to(y.dtype.element_ty)
        tl.store(y + column * C, stored, mask=inside)
        if GELU:
            kept += widen(stored) if EVEN else tl.where(inside, widen(stored), 0.0)
    return kept


@jit
def depthwise_window_kernel(  # type: ignore[no-untyped-def]
    x,  # (N, H, W, C) contiguous, strides (H W C, W C, C, 1)
    weight,  # (K K, C) contiguous, strides (C, 1); the taps of the window row by row
    bias,  # (C,) contiguous
    y,  # (N, H, W, C) contiguous, strides (H W C, W C, C, 1)
    totals,  # (N, bands, across, C) contiguous, strides (bands across C, across C, C, 1), float32; with GELU only
    N, H, W, R, bands, across,
    C: tl.constexpr, K: tl.constexpr, STRIP: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr,
    EVEN: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """One program: R rows (a band) of P strips, of one sample or several, BLOCK channels; channels run fastest.

    EVEN: strips cover the map's width, and blocks its channels, without a rest.
    """
    HALF: tl.constexpr = K // 2
    BLOCKS: tl.constexpr = (C + BLOCK - 1) // BLOCK
    pid = tl.program_id(0)
    band = pid // BLOCKS % bands
    strip = pid // BLOCKS // bands * P + tl.arange(0, P)[:, None]
    c = pid % BLOCKS * BLOCK + tl.arange(0, BLOCK)[None, :] + tl.zeros((P, BLOCK), tl.int32)
    has_c = c < C
    here = (strip < N * across) & has_c
    strip = tl.minimum(strip, N * across - 1)  # those past the end compute the last one again
    col = strip % across * STRIP
    sample = (strip // across).to(tl.int64)

    taps = ()  # grown by +, as Triton has no unpacking
    for tap in tl.static_range(K * K):
        taps = taps + (widen(tl.load(weight + tap * C + c, mask=has_c, other=0.0)),)  # type: ignore[assignment]  # noqa: RUF005
    start = widen(tl.load(bias + c, mask=has_c, other=0.0))
    sums = ()
    for _ in tl.static_range((K - 1) * STRIP):
        sums = sums + (start,)  # type: ignore[assignment]  # noqa: RUF005

    top = band * R
    bottom = tl.minimum(top + R, H)
    first = tl.maximum(top - HALF, 0)
    end = tl.minimum(bottom + HALF, H)
    x += (sample * H * W + col) * C + c  # row 0 of each strip; to carry the row's pointers costs Triton 3.6 a barrier
    y += (sample * H * W + col) * C + c
    kept = tl.zeros((P, BLOCK), tl.float32)

    for i in tl.range(first, tl.minimum(top + HALF, end)):  # rows after which no row of the band is complete
        row = widened(load_row(x + i * (W * C), col, has_c, W, C, K, STRIP, EVEN))
        sums = add_row(sums, row, taps, start, K, STRIP)[STRIP:]
    for i in tl.range(top + HALF, end):
        row = widened(load_row(x + i * (W * C), col, has_c, W, C, K, STRIP, EVEN))
        updated = add_row(sums, row, taps, start, K, STRIP)
        kept = store_row(updated, y + (i - HALF) * (W * C), here, col, W, kept, C, STRIP, EVEN, GELU)
        sums = updated[STRIP:]
    for i in tl.range(end, bottom + HALF):  # rows that the map's lower border completes
        in_band = strip * 0 + i >= top + HALF  # not yet, where the band is lower than half a window
        kept = store_row(sums, y + (i - HALF) * (W * C), here & in_band, col, W, kept, C, STRIP, False, GELU)
        left = sums[STRIP:]
        for _ in tl.static_range(STRIP):
            left = left + (start,)  # noqa: RUF005
        sums = left  # type: ignore[assignment]

    if GELU:
        place = (sample * bands + band) * across + strip % across
        tl.store(totals + place * C + c, kept, mask=here)


def launch_window(
    x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, side: int, tile: StripTile, totals: Tensor | None, rows: int
) -> None:
    """Write the convolution of x, (N, C, H, W), with a window of ``side`` into y; with ``totals``, its GELU.

    weight: (side side, C); bias: (C,); totals: (N, bands strips, C), float32, the sums of each strip of each band.
    A band has ``rows`` rows; 0 takes as many as leave a program to every SM of a large GPU.
    """
    n, c, h, w = x.shape
    block, across = block_of(c), cdiv(w, tile.columns)
    groups = cdiv(n * across, tile.strips(block)) * cdiv(c, block)
    if rows == 0:
        rows = cdiv(h, min(cdiv(ENOUGH, groups), cdiv(h, FEW_ROWS)))
    bands = cdiv(h, rows)
    with on_device_of(x):
        depthwise_window_kernel[(groups * bands,)](
            x, weight, bias, y, y if totals is None else totals, n, h, w, rows, bands, across,
            C=c, K=side, STRIP=tile.columns, P=tile.strips(block), BLOCK=block,
            EVEN=w % tile.columns == 0 and c % block == 0, GELU=totals is not None,
            num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def window_compilation(
    name: str, precision: str, side: int, tile: StripTile, channels: int, rows: int, gelu: bool
) -> Compilation:
    """The ahead-of-time compilation at a number of channels, for a map that strips cover without a rest.

    rows: of a band. Work is counted for one inside the map with GELU, and for the whole of a map without.
    """
    block, half = block_of(channels), side // 2
    trips = (side - 1, rows, 0) if gelu else (half, rows - half, half)
    pointers = {key: f"*{precision}" for key in ("x", "weight", "bias", "y")} | {"totals": "*fp32"}
    if not gelu:
        pointers["totals"] = pointers["y"]
    return Compilation(
        label=f"{name} {side}x{side}, {channels} channels",
        function=depthwise_window_kernel,
        pointers=pointers,
        scalars=dict.fromkeys(("N", "H", "W", "R", "bands", "across"), "i32"),
        constants={
            "C": channels,
            "K": side,
            "STRIP": tile.columns,
            "P": tile.strips(block),
            "BLOCK": block,
            "EVEN": True,
            "GELU": gelu,
        },
        aligned=tuple(pointers),
        num_warps=WARPS,
        num_stages=1,
        work=(rows * tile.columns * tile.channels, *trips),
    )
