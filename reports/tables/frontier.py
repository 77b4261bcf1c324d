"""The table of ways to sample that ``convbench pareto`` and ``convbench report`` print, and what it says in words."""

from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]

KEYS = (
    *("model", "seed", "sampling", "backend", "precision", "role", "evaluations", "images", "images_per_s", "interval"),
    *("ratio", "recognised", "frechet", "frechet_interval", "quality", "plain", "over_plain", "on_frontier"),
)
NOTE = (
    "ratio: images/s over the full sampler's. recognised: share that a classifier of the real images takes for the "
    "class asked for. Fréchet: distance of its features from those of the real images. quality: of the same noise, "
    "against the full sampler; same if not worse by more than the margin. fewer steps in the same time: plain sampling "
    "beside a method; over it: the quality against that, so what is not better there gains nothing over fewer steps."
)

FID_NOTE = (
    "FID: the Fréchet distance is that of the features and statistics given. Few images make it larger, so it may be "
    "set beside FIDs of as many images only, never beside the papers' of 50,000; verdicts compare what exceeds the "
    "floor."
)


def notes(rows: Sequence[Row]) -> list[str]:
    """Explain the columns, and for each model and seed what its rows say."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        facts = (row["model"], row["seed"], row["planned"], row.get("on"), row.get("reference_sha256"))
        groups.setdefault(facts, []).append(row)
    several = len(groups) > 1
    found = [
        (f"{model}, seed {seed}{f' on {on}' if on else ''}{', FID' if fid else ''}: " if several else "") + text
        for (model, seed, _, on, fid), group in groups.items()
        for text in findings(group)
    ]
    judged = [f"{row['verdict']}: {row['reason']}" for row in rows if row.get("verdict")]  # of nodes of a fleet
    fids = [FID_NOTE] if any(row.get("reference_sha256") for row in rows) else []
    return [NOTE, *fids, *found, *dict.fromkeys(judged)]


def findings(rows: Sequence[Row]) -> Iterator[str]:
    """Sum up the rows of one model: the fastest of the same quality, with a method and without; what gains nothing."""
    most = max(rows, key=lambda row: row["images"])
    if most.get("frechet_floor"):
        yield f"floor: {most['images']} images of the reference itself would have an FID of {most['frechet_floor']:.3g}"
    good = [row for row in rows if row["quality"] in ("same", "better")]
    for what, role in (("method", "method"), ("plain fewer steps", "fewer steps")):
        held = [row for row in good if row["role"] == role and row["ratio"]]
        best = max(held, key=lambda row: row["images_per_s"], default=None)
        if best:
            yield (
                f"fastest {what} of the same quality: {_name(best)}, {best['images_per_s']:.3g} images/s, "
                f"{best['ratio']:.3g}{_within(best)} times the full sampler's"
            )
        else:
            yield f"no {what} was shown to be of the same quality"
    beaten = [row for row in rows if row["role"] == "method" and row["over_plain"] and row["over_plain"] != "better"]
    if beaten:
        yield f"not shown to be better than fewer steps in the same time: {'; '.join(map(_name, beaten))}"


def _name(row: Row) -> str:
    engine = f"{row['backend']}/{row['precision']}"
    return str(row["sampling"]) + ("" if engine == "eager/fp32" else f" on {engine}")


def _within(row: dict[str, Any]) -> str:
    """The interval of a ratio, " (2.1 to 2.4)"; nothing where too few batches have none."""
    return f" ({row['ratio_low']:.3g} to {row['ratio_high']:.3g})" if row.get("ratio_low") else ""
