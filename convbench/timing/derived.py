"""Formulas of every number derived from the raw samples, counts and rates of a measurement.

Measuring computes numbers with these functions and ``convbench verify-report`` checks them. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ..schema import Second
from .compare import compare_blocks, delta_of, difference_word
from .intervals import median_interval, percentile

Row = Mapping[str, Any]

TRAINING_PASSES = 3  # forward passes per training step: a backward pass has two products for each of a forward pass
TRAINING_STATE_PASSES = 6  # AdamW at least reads and writes weights and two moments
FLOP_RATES = ("matmul_flops_per_s", "conv1x1_flops_per_s", "conv3x3_flops_per_s")
ELEMENT_BYTES = 4  # per weight, counted as float32
TOLERANCE = 1e-9  # relative; the same formula in a different order differs by about 1e-15

FORMULAS = {
    "images_per_s": "batch / median of block_s, the mean seconds per step of each block; of a world: processes * batch "
    "/ median of the slowest process's",
    "images_per_s_low": "batch / upper end of the 95 % interval of the median of block_s (order statistics)",
    "images_per_s_high": "batch / lower end of the 95 % interval of the median of block_s (order statistics)",
    "interval": "(images_per_s_high - images_per_s_low) / 2 / images_per_s",
    "blocks": "number of block_s",
    "latency_s_p50": "median seconds of single steps, with a wait after each",
    "latency_s_p90": "90th percentile of the seconds of single steps, with at least 10 steps",
    "latency_s_p99": "99th percentile of the seconds of single steps, with at least 100 steps",
    "flops_per_s": "2 * macs_full * images_per_s; three times that for a training step",
    "peak_flops_per_s": "largest of the measured rates of matrix products, 1x1 and 3x3 convolutions",
    "mfu": "flops_per_s / peak_flops_per_s",
    "limit_images_per_s": "batch / the largest of: 2 * macs_full * batch / peak_flops_per_s, with executed_macs where "
    "the algorithm that ran executes fewer; weight bytes / copy rate; operators / launch rate",
    "limit_wall": "largest of the three times: compute, memory or launch",
    "limit_fraction": "images_per_s / limit_images_per_s",
    "efficiency": "of a world of processes: median ratio of the seconds of one alone to those of the slowest of all, "
    "in paired blocks",
    "ratio": "median ratio of the seconds of paired blocks of both cases, timed interleaved",
    "ratio_interval": "95 % interval of that median (order statistics)",
    "difference": "faster or slower if the whole interval of the ratio lies beyond the smallest difference that the "
    "run can resolve, same if it lies within it",
    "baseline_ratio": "images_per_s / images_per_s of the baseline model in the same run under the same conditions",
    "baseline_interval": "the relative half-widths of both intervals added in quadrature",
    "rank": "1 + the number of rows that are faster under the same conditions, beyond the noise",
    "params": "number of trainable scalars, counted",
    "macs": "multiply-accumulates of one image and one forward pass, counted by torchprofile's convention",
    "winograd_macs": "the same with 4/9 of the 3x3 convolutions inside blocks",
}
"""Formula of each number of a table, in words. All others are stored in the file as recorded."""


def passes(mode: str | None) -> int:
    """Number of forward passes with the arithmetic of one step."""
    return 1 if mode in (None, "forward") else TRAINING_PASSES


def state_passes(mode: str | None) -> int:
    """Minimum number of times that one step reads or writes every weight."""
    return 1 if mode in (None, "forward") else TRAINING_STATE_PASSES


def speeds(batch: int, block_s: Sequence[Second], process_s: Sequence[Second] = ()) -> tuple[float, float, float]:
    """Compute images/s from the median of the blocks, and the ends of its 95 % interval.

    The interval is that of the blocks or the range of the processes' medians, whichever is wider.
    """
    fast, slow = median_interval(block_s)
    return batch / median(block_s), batch / max([slow, *process_s]), batch / min([fast, *process_s])


def sampling_numbers(
    batch: int, steps: int, decode: bool, guided: bool, blocks: Mapping[str, Sequence[Second]]
) -> dict[str, float | None]:
    """Compute finished images/s with its interval, and the seconds of each part of one finished image.

    Args:
        blocks: seconds of each part: ``step``, the whole step; ``forward``, the network as called; ``sampler``, the
            update; ``backbone``, the network without guidance, if ``guided``; ``decoder`` of a batch, if ``decode``.
            Without ``forward`` the parts are not known.
    """
    step = median(blocks["step"])
    fast, slow = median_interval(blocks["step"])
    decoder, decoder_fast, decoder_slow = 0.0, 0.0, 0.0
    if decode:
        decoder = median(blocks["decoder"])
        decoder_fast, decoder_slow = median_interval(blocks["decoder"])
    whole = {
        "finished_images_per_s": batch / (steps * step + decoder),
        "finished_images_per_s_low": batch / (steps * slow + decoder_slow),
        "finished_images_per_s_high": batch / (steps * fast + decoder_fast),
        "decoder_s": decoder / batch if decode else None,
        "step_s": step,
    }
    if "forward" not in blocks:
        return whole
    forward, update = median(blocks["forward"]), median(blocks["sampler"])
    backbone = median(blocks["backbone"]) if guided else forward
    return whole | {
        "backbone_s": steps * backbone / batch,
        "guidance_s": steps * (forward - backbone) / batch if guided else None,
        "sampler_s": steps * update / batch,
        "unattributed_s": steps * (step - forward - update) / batch,
    }


def flops_per_s(mode: str | None, macs_full: int, images_per_s: float) -> float:
    """Achieved FLOP/s: 2 * MACs * images/s, three times that for a training step."""
    return 2 * passes(mode) * macs_full * images_per_s


def peak_flops_per_s(rates: Mapping[str, float]) -> float:
    """The highest measured FLOP/s of products and convolutions."""
    return max(rates[name] for name in FLOP_RATES)


def roofline_walls(
    macs: float, weight_bytes: float, rates: Mapping[str, float], launches: int = 0, weight_passes: int = 1
) -> dict[str, Second]:
    """Compute the minimum seconds of a step of ``macs`` in total, by each wall of the roofline.

    compute: 2 * macs / the best measured rate, convolutions included, so that no library algorithm can exceed it.
    memory: ``weight_passes`` times the bytes of all weights / copy rate, as activations might never leave the chip.
    launch: operators / launch rate, for backends that launch each operator by itself.
    """
    return {
        "compute": 2 * macs / peak_flops_per_s(rates),
        "memory": weight_passes * weight_bytes / rates["copy_bytes_per_s"],
        "launch": launches / rates["launches_per_s"],
    }


def nearest_wall(seconds: Mapping[str, Second]) -> tuple[str, Second]:
    """Find the wall with the longest time, and its seconds."""
    wall = max(seconds, key=lambda name: seconds[name])
    return wall, seconds[wall]


def derive(row: Row) -> dict[str, Any]:
    """Recompute every key of a stored measurement that its raw data determine.

    The raw data are ``block_s``, ``process_s``, ``batch``, ``world``, ``mode``, ``params``, ``macs_full`` and
    ``rates``. Latencies follow if the blocks are single steps of one process; a limit set by launches must belong to a
    whole number of them.
    """
    if row.get("status") != "ok" or not row.get("block_s"):
        return {}
    blocks, batch, mode = row["block_s"], row["batch"] * (row.get("world") or 1), row.get("mode")
    speed, low, high = speeds(batch, blocks, row.get("process_s") or ())
    found: dict[str, Any] = {"images_per_s": speed, "images_per_s_low": low, "images_per_s_high": high}
    found["blocks"] = len(blocks)
    if row.get("device") == "cpu" and row.get("steps_per_block") == 1 and (row.get("processes") or 1) == 1:
        found["latency_s_p50"] = percentile(blocks, 0.5)
        found["latency_s_p90"] = percentile(blocks, 0.9, at_least=10)
        found["latency_s_p99"] = percentile(blocks, 0.99, at_least=100)
    if row.get("macs_full") and row.get("rates"):
        flops, peak = flops_per_s(mode, row["macs_full"], speed), peak_flops_per_s(row["rates"])
        found |= {"flops_per_s": flops, "peak_flops_per_s": peak, "mfu": flops / peak}
        found["limit_wall"], seconds = nearest_wall(_stored_walls(row))
        found["limit_images_per_s"] = batch / seconds
        found["limit_fraction"] = speed / found["limit_images_per_s"]
    return found


def _stored_walls(row: Row) -> dict[str, Second]:
    """Compute the walls of a row. Launches are not stored: if they set the limit, their number follows from it."""
    rates, mode, limit = row["rates"], row.get("mode"), row.get("limit_images_per_s")
    launches = round(row["batch"] / limit * rates["launches_per_s"]) if limit and row["limit_wall"] == "launch" else 0
    weights = ELEMENT_BYTES * (row.get("params") or 0)
    macs = row.get("executed_macs") or row["macs_full"]
    return roofline_walls(passes(mode) * row["batch"] * macs, weights, rates, launches, state_passes(mode))


def derive_ratio(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """Recompute ``ratio``, its interval and ``difference`` from the blocks of the case timed interleaved with it.

    Empty if those blocks are not in the file: several processes, or the other case was already stored.
    """
    if not row.get("compared_with"):
        return {}
    other = next((each for each in rows if each["case"] == row["compared_with"]), None)
    together = other is not None and other["measured_at"] == row["measured_at"]
    if other is None or not together or not len(other["block_s"]) == len(row["block_s"]) > 0 or row["processes"] != 1:
        return {}
    found = compare_blocks(other["block_s"], row["block_s"], delta_of(row["device"]))
    ratio, low, high = found.ratio, found.low, found.high
    turned = compare_blocks(row["block_s"], other["block_s"], delta_of(row["device"]))
    if not nearly_equal(row.get("ratio"), ratio) and nearly_equal(row.get("ratio"), 1 / turned.ratio):
        # Schema 1 stored the other way round, and the median of the reciprocals of an even number of pairs differs.
        ratio, low, high = 1 / turned.ratio, 1 / turned.high, 1 / turned.low
    return {
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "difference": difference_word(low, high, row["device"], row.get("smallest_difference")),
    }


def nearly_equal(recorded: Any, found: Any) -> bool:
    """Compare two values up to the order of floating-point operations."""
    if isinstance(recorded, int | float) and isinstance(found, int | float):
        return abs(recorded - found) <= TOLERANCE * abs(found)
    return bool(recorded == found)
