"""``convbench plan-capacity``: the devices that a demand takes."""

from pathlib import Path
from typing import Any

import click

from . import options

KEYS = (
    *("rank", "model", "backend", "precision", "planned_device", "max_batch", "method", "basis", "devices"),
    *("devices_interval", "cost_per_million", "cost_interval", "kwh_per_million", "utilisation", "p99_poisson_s"),
    *("p99_poisson_interval", "p99_bursty_s", "headroom_one_failed", "licence_words", "reason"),
)
MOST_OUT = 12  # ways that fall out and are shown in a table


@click.command(
    "plan-capacity",
    short_help="devices, cost and latency for a demand",
    epilog="\b\nExamples:\n  convbench plan-capacity --images-per-day 1e5 --steps 50 --res 256\n"
    "  convbench plan-capacity --images-per-day 1e6 --steps 50 --latency-p99 60s --plot plan.svg",
)
@click.option(
    "--images-per-day",
    type=options.Number(min=0, min_open=True, max=1e15),
    required=True,
    help="Finished images, spread over the day.",
)
@click.option("--steps", type=click.IntRange(1, 10_000), required=True, help="Steps of the sampler for an image.")
@click.option(
    "--cfg",
    type=options.Number(min=0, max=1000),
    default=1.0,
    show_default=True,
    help="Guidance scale; not 1: two passes.",
)
@click.option(
    "--res", type=click.IntRange(1, 16384), default=256, show_default=True, help="Side of an image in pixels."
)
@click.option("--latency-p99", type=options.Duration(), help="Time within which 99 % of the images must be finished.")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "bursty"]),
    default="poisson",
    show_default=True,
    help="Arrivals at a device under which --latency-p99 must hold; both are reported.",
)
@click.option(
    "--devices",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file with prices, watts and numbers of devices, as examples/devices.toml [default: no prices].",
)
@options.store()
@options.where()
@click.option(
    "--max-delay",
    type=options.Duration(60),
    default="5ms",
    show_default=True,
    help="Time that an incomplete batch waits, as of `convbench serve`.",
)
@click.option(
    "--commercial", is_flag=True, help="Leave out models whose licences are not known to allow commercial use."
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw cost over load to this .svg or .png."
)
@options.form()
def command(
    images_per_day: float,
    steps: int,
    cfg: float,
    res: int,
    latency_p99: float | None,
    arrivals: str,
    devices: Path | None,
    store: tuple[str, ...],
    where: list[str] | None,
    max_delay: float,
    commercial: bool,
    plot: Path | None,
    form: str,
) -> int:
    """Plan the devices for a demand, from stored rows.

    For each model, backend, batch and method: the devices it takes, cost and energy of a million images, the 99th
    percentile under Poisson and bursty arrivals, and what is left when one device fails. The cheapest comes first; what
    falls out has a reason. Requests are joined by step, as `convbench serve` and Triton do, or by whole image.

    Every figure is simulated from measured seconds of batches, and its interval carries the measurement's. Devices
    without rows are modelled from data-sheet peaks: the least they could need, never ranked with measured ones.
    """
    from ..reports.capacity.devices import read_devices
    from ..reports.capacity.plan import Demand, plan
    from ..store.places import matching_rows, named

    known = read_devices(devices) if devices else None
    demand = Demand(images_per_day, steps, cfg, res, latency_p99, max_delay, commercial, arrivals)
    rows = plan(matching_rows(named(store), options.conditions(where or [])), known, demand)
    if plot is not None:
        from ..reports.plots.capacity import cost_over_load
        from ..reports.plots.figures import save_as

        save_as(cost_over_load(rows, images_per_day), plot)
        options.say(f"wrote {plot}", err=True)
    met = [row for row in rows if row["reason"] is None]
    out = [row for row in rows if row["reason"] is not None]
    notes = list(_notes(met, out, form))
    if form in ("json", "csv"):
        for note in notes:
            options.say(note, err=True)
    options.show(rows if form in ("json", "csv") else [*met, *out[:MOST_OUT]], KEYS, form, notes)
    return 0 if any(row["rank"] for row in rows) else 3


def _notes(met: list[dict[str, Any]], out: list[dict[str, Any]], form: str) -> list[str]:
    notes = []
    if met and met[0]["rank"] is not None:
        first = met[0]
        cost = "" if first["cost_per_million"] is None else f", {first['cost_per_million']:.4g} for a million images"
        tail = f"99 % within {first['p99_poisson_s']:.3g} s, {first['p99_bursty_s']:.3g} s if they come in bursts"
        what = f"{first['model']} with {first['backend']} ({first['method']}, batches of {first['max_batch']})"
        notes.append(f"Cheapest: {first['devices']} x {first['planned_device']} with {what}{cost}; {tail}.")
    else:
        notes.append("No measured way meets the demand.")
    if any(row["basis"] != "measured" for row in met):
        notes.append("Modelled rows are what data-sheet peaks allow at best: not measured, and not ranked.")
    if met and all(row["cost_per_million"] is None for row in met):
        notes.append("No prices: ranked by the number of devices. --devices takes a file with prices.")
    if len(out) > MOST_OUT and form not in ("json", "csv"):
        notes.append(f"… and {len(out) - MOST_OUT} more that fall out: --format json lists them.")
    return notes
