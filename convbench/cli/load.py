"""``convbench load``: requests to a server, and how it bears them."""

import click

from ..errors import UsageError
from . import options
from .export import stages

KEYS = (
    "rate",
    "concurrency",
    "batch",
    "requests",
    "failed",
    "requests_per_s",
    "images_per_s",
    "latency_s_p50",
    "latency_s_p90",
    "latency_s_p99",
    "late_s",
    "within",
)
FOR_P99 = 200
LATE = 0.1  # of the median latency: from there on the client, not the server, may be what is measured


@click.command(
    "load",
    short_help="measure a server under load",
    epilog="\b\nExamples:\n  convbench load http://127.0.0.1:8000 --rate 20 --duration 30s\n"
    "  convbench load http://127.0.0.1:8000 --slo 500ms --format json",
)
@click.argument("url")
@click.option(
    "--rate", type=options.Number(min=0, min_open=True, max=1e6), help="Requests per second, with Poisson arrivals."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1024),
    help="Number of clients, each with one request at a time [default: 1].",
)
@click.option(
    "--slo", type=options.Duration(3600), help="Find the highest rate whose 99th percentile stays within this time."
)
@click.option(
    "--duration",
    type=options.Duration(24 * 3600),
    default="10s",
    show_default=True,
    help="Duration of the run, or of each step with --slo.",
)
@click.option("--batch", type=click.IntRange(1, 2**16), default=1, show_default=True, help="Images per request.")
@click.option(
    "--side",
    type=click.IntRange(1, 2**14),
    help="Height and width of the input x, if they may vary [default: the smallest].",
)
@click.option("--model", metavar="NAME", help="Name of the model, if the server has several.")
@options.form()
def command(
    url: str,
    rate: float | None,
    concurrency: int | None,
    slo: float | None,
    duration: float,
    batch: int,
    side: int | None,
    model: str | None,
    form: str,
) -> None:
    """Send requests to a server that speaks the KServe v2 protocol, such as `convbench serve` or Triton.

    With --rate, requests are sent on a schedule drawn beforehand and latencies count from the scheduled times, so
    stalls of the server are visible. With --concurrency, each client waits for its response before it sends again, and
    latencies look better than independent callers would see.
    """
    if sum(value is not None for value in (rate, concurrency, slo)) > 1:
        raise UsageError("--rate, --concurrency and --slo cannot be combined; specify one")
    from ..serving import load

    with stages() as report:
        rows = load.run(url, model, batch, side, duration, rate, concurrency, slo, report)
    notes = [f"{count} failed: {what}" for row in rows for what, count in row["failures"].items()]
    last = rows[-1]
    if slo is not None:
        notes.append(
            f"within {1e3 * slo:g} ms: {last['images_per_s']:.4g} images/s, the last row"
            if last["within"] == "yes"
            else f"no rate that was tried stays within {1e3 * slo:g} ms"
        )
    if any(row["requests"] < FOR_P99 for row in rows):
        notes.append(f"fewer than {FOR_P99} requests in a row say little about its p99: a longer --duration")
    if any(row["late_s"] and row["late_s"] > LATE * (row["latency_s_p50"] or 0) for row in rows):
        notes.append("this client was late itself: use another machine, or a lower rate")
    options.show(rows, KEYS, form, notes)
    if form != "table":
        options.say("\n".join(notes), err=True)
