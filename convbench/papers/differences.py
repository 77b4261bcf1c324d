"""Differences between a paper's way of timing and ours, one knob each, as data. Imports no torch.

A way is a value for each knob, in the words of the protocol cards. What a card does not know is done our way.
"""

from dataclasses import dataclass

from .. import catalogue
from ..errors import UsageError
from ..run.plan import DEFAULT_BATCH
from .cards import UNKNOWN, cards, value

Way = dict[str, str | int]

SMALL_BATCH = 2  # on a CPU, in the place of a paper's 32 or 64
SMALL_RES = 256
SMALL_STEPS = 2  # on a CPU, in the place of a paper's 20


@dataclass(frozen=True)
class Knob:
    """One setting. ``flaw``: what is wrong with the paper's, where something is; ``words``: what its way is."""

    words: str
    flaw: str | None = None
    not_on_cpu: str | None = None  # why it does not exist there


KNOBS = {  # in the order in which they are flipped
    "sync_end": Knob(
        "the released script reads the clock without waiting for the GPU",
        flaw="clock: work that is still queued is not counted",
        not_on_cpu="on a CPU a step is over when it returns, so waiting changes nothing",
    ),
    "statistic": Knob(
        "the released script takes the total of a fixed number of steps",  # and on a GPU empties torch's memory cache
        flaw="statistic: one total shows neither spread nor drift",
    ),
    "conditioning": Knob(
        "the released script uses one timestep and one label for the whole batch",
        flaw="validity, not speed: the images of the batch are not independent",
    ),
    "input": Knob("the released script times the same uniform input repeatedly"),
    "checkpointing": Knob(
        "the released model runs its blocks under activation checkpointing, even without gradients",
        flaw="extra work: bookkeeping for a backward pass that never happens",
    ),
    "autograd": Knob("the released script runs under no_grad"),
    "precision": Knob(
        "code that sets no switch gets TF32 convolutions and FP32 matrix products",
        flaw="precision: convolutions and matrix products are computed in different precisions",
        not_on_cpu="a CPU has no TF32 units, so the switches change nothing",
    ),
    "batch": Knob("the paper's batch is not our default"),
}
SAME_NAME = ("sync_end", "input", "checkpointing", "autograd")  # as a field of a card
FIXED = {  # part of the difference too, but nothing that one process can flip
    "cudnn_benchmark": "cuDNN keeps one plan per shape for the lifetime of a process; on throughout, as in our "
    "protocol",
    "software": "the paper's versions are not available; both sides ran with those of this machine",
}
NOT_ON_CPU = {"cudnn_benchmark": "a CPU has no cuDNN"}


def ours(device: str) -> Way:
    """convbench's own way, from its card."""
    card = cards()[f"convbench_{device}"]
    way = {knob: value(card, knob) for knob in (*SAME_NAME, "statistic")}
    return {**way, "conditioning": value(card, "t_shape"), "precision": "fp32", "batch": DEFAULT_BATCH[device]}


def papers_way(paper: str, model: str, device: str, batch: int | None = None) -> Way:
    """A paper's way with a model, as far as its card knows it. On a CPU with a small batch and few steps."""
    card, own = cards()[paper], ours(device)
    way = own | {knob: value(card, knob) for knob in SAME_NAME if value(card, knob) != UNKNOWN}
    if catalogue.find(model).family.module != _family(paper):
        way["checkpointing"] = own["checkpointing"]  # is part of the released model, and this is another one
    if UNKNOWN not in (value(card, "timed"), value(card, "statistic")):
        steps = str(SMALL_STEPS) if device == "cpu" else str(value(card, "timed")).split()[0]
        way["statistic"] = f"{value(card, 'statistic')} of {steps} steps"
    if value(card, "t_shape") != UNKNOWN:
        way["conditioning"] = value(card, "t_shape")
    way["precision"] = "torch-default"
    way["batch"] = batch or (SMALL_BATCH if device == "cpu" else value(card, "batch"))
    return way


def missing(knob: str, paper: str, device: str, theirs: Way, own: Way) -> str | None:
    """Reason why a knob cannot be flipped here, or None."""
    if device == "cpu" and KNOBS[knob].not_on_cpu and theirs[knob] != own[knob]:
        return KNOBS[knob].not_on_cpu
    if theirs[knob] != own[knob]:
        return None
    if not stated(paper, knob):
        return "not stated and not visible in the released code; our setting was used throughout"
    return "the same in both"


def stated(paper: str, knob: str) -> bool:
    """True if the paper's card states the setting. Precision is torch's default."""
    field = {"conditioning": "t_shape", "statistic": "timed"}.get(knob, knob)
    return knob == "precision" or value(cards()[paper], field) != UNKNOWN


def made_small(paper: str, device: str, batch: int | None) -> str | None:
    """Sentence on the smaller workload that a CPU gets in place of the paper's, or None."""
    if device != "cpu":
        return None
    card = cards()[paper]
    less = [] if batch else [f"batch {SMALL_BATCH} instead of {value(card, 'batch')}"]
    less += [f"{SMALL_STEPS} steps instead of {value(card, 'timed')}"] if stated(paper, "statistic") else []
    less += [f"the S model at {SMALL_RES} px unless --model and --res say otherwise"]
    return f"On a CPU: {', '.join(less)}."


def require_paper(paper: str) -> None:
    """Raise UsageError unless there is a card and a table of that paper."""
    if paper not in catalogue.papers():
        raise UsageError(f"unknown paper '{paper}'; choose from {', '.join(catalogue.papers())}")


def _family(paper: str) -> str:
    return paper.partition("_")[0]


def default_case(paper: str, device: str) -> tuple[str, int]:
    """Model and resolution in pixels: the paper's XL where it prints it, on a CPU its S at 256."""
    family = _family(paper)
    if device == "cpu":
        return f"{family}_s", SMALL_RES
    model = f"{family}_xl"
    return model, 256 if printed(paper, model, 256) else 512


def printed(paper: str, model: str, res: int) -> tuple[float, str] | None:
    """Printed images/s of a model and the place in the paper's tables, or None."""
    rows = [
        row
        for row in catalogue.find(model).family.published
        if row["paper"] == paper and row["model"] == model and row["res"] == res and "images_per_s" in row
    ]
    rows = [row for row in rows if "label" not in row] or rows  # a line of another name is of a variation
    if not rows:
        return None
    tables = dict.fromkeys(str(row["table"]) for row in rows if row["images_per_s"] == rows[0]["images_per_s"])
    return rows[0]["images_per_s"], f"{paper}, {'tables' if len(tables) > 1 else 'table'} {', '.join(tables)}"
