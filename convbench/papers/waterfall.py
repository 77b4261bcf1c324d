"""Waterfall from a published number to ours: the rows of a replay, and their description in words."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..schema import ReplayStep
from ..timing.intervals import ratio_interval
from .cards import UNKNOWN, cards, value
from .differences import FIXED, KNOBS, NOT_ON_CPU, printed, stated
from .replay import Flip, Replay, run_name

Known = dict[str, Any]

REPRODUCED = 0.05  # a printed number is, on the same type of GPU, if the whole interval lies within this
NOT_COMPARABLE = "not comparable"


def rows(found: Replay) -> list[ReplayStep]:
    """Printed, replayed, each knob, ours, unexplained: in base units, None where a number is not known.

    ``ratio`` is the median over paired blocks, with its 95 % interval; ``factor`` the quotient of the two speeds, so
    that the factors of all knobs take the replayed number to ours exactly.
    """
    case, first, last = found.case, found.chain[0], found.chain[-1]
    quoted = printed(found.paper, case.model, case.res)
    body: list[Known] = [
        {
            **_step("printed"),
            "images_per_s": quoted and quoted[0],
            "reason": f"quoted: {quoted[1]}" if quoted else "not printed",
        },
        _step("replayed", images_per_s=first.images_per_s, block_s=first.lane.block_s, batch=first.way["batch"]),
        *(_flip(found, flip, "knob") for flip in found.flips),
        *(_fixed(found, knob) for knob in FIXED),
        *([_flip(found, found.aside, "aside")] if found.aside else []),
        {
            **_step("ours", images_per_s=last.images_per_s, block_s=last.lane.block_s, batch=last.way["batch"]),
            "verdict": found.verdict,
            "reason": found.reason,
        },
        _gap(found, quoted),
    ]
    name = run_name(found.paper, case.model, case.res, int(found.theirs["batch"]), case.device)
    return [
        ReplayStep(
            case=f"{name}/{step['knob']}",
            paper=found.paper,
            model=case.model,
            res=case.res,
            device=case.device,
            threads=case.threads,
            blocks=len(step.get("block_s", ())) or None,
            environment=found.environment,
            measured_at=found.measured_at,
            **step,
        )
        for step in body
    ]


def _step(step: str, **known: Any) -> Known:
    return {"step": step, "knob": step, **known}


def _flip(found: Replay, flip: Flip, step: str) -> Known:
    if flip.pair is None:
        return _step(
            step,
            knob=flip.knob,
            before=found.theirs[flip.knob] if stated(found.paper, flip.knob) else UNKNOWN,
            after=found.own[flip.knob],
            exists_here=False,
            reason=flip.reason,
        )
    before, after = flip.pair
    knob = flip.knob if flip.knob in KNOBS else "precision"
    ratio, low, high = ratio_interval(list(zip(before.image_s, after.image_s, strict=True)))
    return _step(
        step,
        knob=flip.knob,
        before=before.way[knob],
        after=after.way[knob],
        exists_here=True,
        images_per_s_before=before.images_per_s,
        images_per_s=after.images_per_s,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        factor=after.images_per_s / before.images_per_s,
        flaw=KNOBS[knob].flaw,
        batch=after.way["batch"],
        block_s=after.lane.block_s,
    )


def _fixed(found: Replay, knob: str) -> Known:
    card, device = cards()[found.paper], found.case.device
    if knob == "software":
        theirs, own = f"torch {value(card, 'torch')}", f"torch {found.environment['torch']}"
    else:
        theirs, own = str(value(card, knob)), str(value(cards()[f"convbench_{device}"], knob))
    reason = (NOT_ON_CPU.get(knob) if device == "cpu" else None) or FIXED[knob]
    return _step("knob", knob=knob, before=theirs, after=own, exists_here=False, reason=reason)


def _gap(found: Replay, quoted: tuple[float, str] | None) -> Known:
    """Unexplained rest: printed over replayed. A claim only on the same type of GPU."""
    if quoted is None:
        return _step("unexplained", verdict=NOT_COMPARABLE, reason="the paper prints nothing for this model and size")
    first = found.chain[0]
    ratio, low, high = ratio_interval([(seconds * quoted[0], 1.0) for seconds in first.image_s])
    row = _step("unexplained", ratio=ratio, ratio_low=low, ratio_high=high, factor=quoted[0] / first.images_per_s)
    theirs = str(value(cards()[found.paper], "gpu"))
    here = [gpu["name"] for gpu in found.environment["gpus"]] if found.case.device == "cuda" else []
    if theirs == UNKNOWN or not any(theirs in name for name in here):
        gpu = "not stated" if theirs == UNKNOWN else theirs
        reason = f"the paper's GPU is {gpu}, this is {here[0] if here else 'a CPU'}"
        return row | {"verdict": NOT_COMPARABLE, "reason": reason}
    if first.way["batch"] != value(cards()[found.paper], "batch"):
        return row | {"verdict": NOT_COMPARABLE, "reason": "replayed with a batch size other than the paper's"}
    within = low > 1 - REPRODUCED and high < 1 + REPRODUCED
    return row | {"verdict": "reproduced" if within else "unexplained", "reason": f"on the same type of GPU, {theirs}"}


def sentences(found: Sequence[ReplayStep]) -> Iterator[str]:
    """The effect of each knob, what speaks against the whole session, and why a knob was not flipped, in words."""
    for row in found:
        if row.exists_here:
            yield _sentence(row)
    for row in found:
        if row.step == "ours" and row.reason:
            yield f"{row.verdict}: {row.reason}"
    left = [row for row in found if row.exists_here is False]
    for reason in dict.fromkeys(row.reason for row in left):
        yield f"{', '.join(row.knob for row in left if row.reason == reason)}: {reason}"


def _sentence(row: ReplayStep) -> str:
    # The ratio is of our way over the paper's; the sentence tells what the paper's does.
    change, low, high = (1 / (value or 1.0) - 1 for value in (row.ratio, row.ratio_high, row.ratio_low))
    words = KNOBS[row.knob].words if row.knob in KNOBS else "matrix products are in FP32, but convolutions in TF32"
    told = "" if low * high > 0 else ": no difference that this run can detect"
    flaw = f" ({row.flaw})" if row.flaw else ""
    effect = f"on this machine this changes the result by {change:+.1%} [{low:+.1%}, {high:+.1%}]"
    return f"{row.knob}: {words}; {effect}{told}{flaw}"


def summary(found: Sequence[ReplayStep]) -> str:
    """The waterfall in one line."""
    rows = {row.knob: row for row in found}
    factors = [f"x {row.factor:.3f} {row.knob}" for row in found if row.step == "knob" and row.exists_here]
    start, end, gap = rows["replayed"], rows["ours"], rows["unexplained"]
    quoted = rows["printed"].images_per_s
    line = " ".join([f"replayed {start.images_per_s:.4g}", *factors, f"= ours {end.images_per_s:.4g} images/s"])
    if quoted is None:
        return f"{line}. Nothing printed to compare with."
    left = f"printed over replayed is {gap.ratio:.4g}, {gap.verdict}: {gap.reason}"
    return f"printed {quoted:g} (quoted); {line}; {left}."
