"""The TF32 experiment: do the papers' speed-ups compare TF32 convolutions with FP32 matrix products?

Five XL models, each with both TF32 switches on and off, at two batches. All that share a batch are timed interleaved,
so that each ratio to DiT-XL/2 comes from paired blocks: with the same switches, and with torch's defaults (convolutions
in TF32, matrix products in FP32).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .. import environment, precision
from ..catalogue import find
from ..checks import output
from ..errors import NothingMeasured
from ..measure.estimate import START_S, TUNE_STEPS, Estimate, estimate
from ..measure.feasible import unsupported
from ..models import create
from ..models.gla import implementation
from ..run import process
from ..run.jobs import Allowance, Job, Limits, Report, open_results, run_jobs
from ..schema import Case, Row, Second, TF32Cell
from ..timing.calibration import Rates
from ..timing.clock import Lane, Rotation, clock_of
from ..timing.intervals import median_interval, ratio_interval
from .differences import printed
from .replay import few_blocks, input_sets, settings, time_together

MODELS = ("dit_xl_2", "dig_xl_2", "dic_xl", "dico_xl", "fcdm_xl")  # the first is what the others are compared with
BATCHES = (32, 64)
SWITCHES = ((False, False), (False, True), (True, False), (True, True))  # convolutions, matrix products
PRINTED_BY = {"dic": "dic", "fcdm": "fcdm"}  # family -> paper; DiCo's for the others

BLOCKS = 20  # of each cell
WORDS = {False: "off", True: "on"}
WORKER = "convbench.papers.worker"


@dataclass(frozen=True)
class Cell:
    """One model with one setting of the switches."""

    model: str
    switches: tuple[bool, bool]
    lane: Lane
    flags: dict[str, str]  # as read back


@contextmanager
def switched(conv: bool, matmul: bool, flags: dict[str, str] | None = None) -> Iterator[None]:
    """Set both switches and read them back into ``flags``; restore the earlier ones on exit."""
    with precision.applied("fp32"):
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = conv, matmul
        if flags is not None:
            flags |= precision.read_switches()
        yield


def experiment(
    models: Sequence[str] = MODELS,
    batches: Sequence[int] = BATCHES,
    res: int = 256,
    device: str = "cuda",
    out: Path | None = None,
    limits: Limits | None = None,
    report: Report = lambda *_: None,
) -> Iterator[TF32Cell]:
    """Rows of model x switches, batch by batch, each batch in a process of its own.

    Args:
        models: the first is what the others are compared with.
        res: side of the decoded image in pixels.
        out: a result file; what it holds is not measured again.
        limits: a batch that the budget does not reach has no rows.

    Raises:
        UsageError: an unknown model, or a size that it cannot take.
        NothingMeasured: the device is missing, lacks memory or has no TF32.
    """
    for model in models:
        find(model).require_res(res)

    def measured(batch: int, allowance: Allowance) -> list[Row]:
        rows: list[Row] = []

        def hear(message: process.Message) -> None:
            if "row" in message:
                rows.append(TF32Cell.from_json(message["row"]))
            else:
                report(f"batch {batch}", message["what"], message["done"])

        case = {"models": list(models), "batch": batch, "res": res, "device": device, "cap_s": allowance.cap_s}
        time_s = allowance.timeout_s
        try:
            ended = process.ask({"tf32": case}, hear, time_s, WORKER)
        except TimeoutError:
            if allowance.by_budget:
                raise
            raise NothingMeasured(f"batch {batch} was not finished after {time_s:.0f} s") from None
        if not rows:
            raise NothingMeasured(f"batch {batch}: {ended.status()[1]}")
        return rows

    jobs = [
        Job(
            tuple((cell_id(model, res, batch, switches), None) for model in models for switches in SWITCHES),
            partial(measured, batch),
            skip=lambda reason: (),
            timings=len(models) * len(SWITCHES),
        )
        for batch in batches
    ]
    for row in run_jobs(jobs, open_results(out), limits or Limits()):
        assert isinstance(row, TF32Cell)
        yield row


def measure_batch(
    models: Sequence[str],
    batch: int,
    res: int,
    device: str,
    cap_s: Second | None = None,
    blocks: int = BLOCKS,
    report: Callable[[str, float], None] = lambda what, done: None,
) -> list[TF32Cell]:
    """The rows of one batch, all cells timed interleaved in this process. On a CPU the switches have no effect.

    Args:
        cap_s: of the timing of one cell, in seconds, over and above six blocks.
        blocks: of each cell.

    Raises:
        NothingMeasured: the device is missing, lacks memory or has no TF32.
    """
    _require(models, batch, res, device)
    rules = few_blocks(device, blocks, cap_s)
    with settings(None):
        report("loading", 0)
        networks = {model: create(model, device=device, res=res) for model in models}
        cells = []
        for (model, network), (conv, matmul) in itertools.product(networks.items(), SWITCHES):
            flags: dict[str, str] = {}
            sets = input_sets(Case(model, res, batch, device=device))
            lane = Lane(Rotation(network, sets), partial(_around, conv, matmul, flags))
            cells.append(Cell(model, (conv, matmul), lane, flags))
        started = datetime.now(UTC).isoformat(timespec="seconds")
        lanes = [cell.lane for cell in cells]
        try:
            load, seen = time_together(lanes, clock_of(device), rules, device, partial(report, "timing"))
        except torch.OutOfMemoryError:
            raise NothingMeasured(f"batch {batch} at {res} px does not fit: try --batch {batch // 2}") from None
        verdict, reason = output.verdict_of(seen)
        facts = {**environment.describe(), "load": load}
        stamp = {"verdict": verdict, "reason": reason, "measured_at": started, "environment": facts}
        return [_row(cell, cells, batch, res, device, stamp) for cell in cells]


def expected(
    models: Sequence[str],
    batch: int,
    res: int,
    cap_s: Second | None,
    rates: Mapping[str, Rates],
    threads: int | None = None,
) -> dict[str, Estimate]:
    """Estimated time of each cell of a batch on a GPU, by its id; a process and a network count once.

    Args:
        rates: of the machine, by precision.
        threads: that draw weights; this machine's cores unless given.
    """
    rules = few_blocks("cuda", BLOCKS, cap_s)
    found = {}
    for model, switches in itertools.product(models, SWITCHES):
        label = {(False, False): "fp32", (True, True): "tf32"}.get(switches, "torch-default")
        whole = estimate(Case(model, res, batch, precision=label, device="cuda"), rates[label], rules, threads)
        network_s = whole.create_s - START_S["cuda"] * (model != models[0])
        block = max(rules.block_s, whole.step_s)
        found[cell_id(model, res, batch, switches)] = replace(
            whole,
            create_s=network_s if switches == SWITCHES[0] else 0.0,
            tune_s=TUNE_STEPS * whole.step_s,
            time_s=max(rules.least_blocks * block, min(rules.cap_s, BLOCKS * block)),
        )
    return found


@contextmanager
def _around(conv: bool, matmul: bool, flags: dict[str, str]) -> Iterator[None]:
    with torch.inference_mode(), switched(conv, matmul, flags):
        yield


def _require(models: Sequence[str], batch: int, res: int, device: str) -> None:
    if device == "cuda":
        reasons = [unsupported(Case(model, res, batch, precision="tf32", device=device)) for model in models]
        if reason := next(filter(None, reasons), None):
            raise NothingMeasured(f"the TF32 experiment cannot run here: {reason}")


def cell_id(model: str, res: int, batch: int, switches: tuple[bool, bool]) -> str:
    """Names a cell in a result file."""
    conv, matmul = (WORDS[on] for on in switches)
    return f"tf32/{model}/{res}px/b{batch}/conv_{conv}/matmul_{matmul}"


def _row(cell: Cell, cells: list[Cell], batch: int, res: int, device: str, stamp: dict[str, Any]) -> TF32Cell:
    base = next(c for c in cells if c.switches == cell.switches)  # the first model with the same switches
    samples = cell.lane.block_s
    fast, slow = median_interval(samples)
    ratio, low, high = ratio_interval(list(zip(base.lane.block_s, samples, strict=True)))
    conv, matmul = cell.switches
    return TF32Cell(
        case=cell_id(cell.model, res, batch, cell.switches),
        model=cell.model,
        res=res,
        batch=batch,
        device=device,
        conv_tf32=WORDS[conv],
        matmul_tf32=WORDS[matmul],
        papers_default=cell.switches == (True, False),
        images_per_s=batch / median(samples),
        images_per_s_low=batch / slow,
        images_per_s_high=batch / fast,
        compared_with=base.model,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        printed_ratio=_printed_ratio(cell.model, base.model, res),
        block_s=samples,
        flags=cell.flags,
        **stamp,
    )


def _printed_ratio(model: str, base: str, res: int) -> float | None:
    """The same ratio as the model's own paper prints it; DiCo's paper for those that have none here."""
    paper = PRINTED_BY.get(find(model).family.module, "dico")
    pair = printed(paper, model, res), printed(paper, base, res)
    return pair[0][0] / pair[1][0] if pair[0] and pair[1] else None


def notes(rows: Sequence[TF32Cell]) -> list[str]:
    """The findings in words: each ratio at the papers' defaults and at matched precision."""
    said = []
    for default in (row for row in rows if row.papers_default and row.model != row.compared_with):
        same = [row for row in rows if (row.model, row.batch) == (default.model, default.batch)]
        matched = [row for row in same if row.conv_tf32 == row.matmul_tf32]
        quoted = default.printed_ratio
        said.append(
            f"{default.model} over {default.compared_with}, batch {default.batch}: "
            f"{_ratio(default)} at torch's defaults, "
            + ", ".join(f"{_ratio(row)} with TF32 {row.conv_tf32} for both" for row in matched)
            + (f"; printed {quoted:.2f}" if quoted else "")
        )
    said += dict.fromkeys(row.reason for row in rows if row.reason)
    if any(row.model.startswith("dig") for row in rows):
        said.append(f"dig: its recurrence ran on {implementation(rows[0].device)}.")
    return said


def _ratio(row: TF32Cell) -> str:
    return f"{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]"
