"""``convbench serve``: an artefact behind HTTP."""

import ipaddress
import os
import sys
from pathlib import Path

import click

from . import options


@click.command(
    "serve",
    short_help="serve an artefact over HTTP",
    epilog="\b\nExamples:\n  convbench serve dico_s.onnx.d\n"
    "  convbench serve dico_s.onnx.d --port 9000 --max-batch 8 --max-delay 5ms --threads 2",
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all interfaces."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    help="Largest number of images in a batch or request [default: the artefact's maximum].",
)
@click.option(
    "--max-delay",
    type=options.Duration(60),
    default="5ms",
    show_default=True,
    help="How long an incomplete batch waits for more requests.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 2**20),
    default=256,
    show_default=True,
    help="Number of images that may wait; further requests get status 429.",
)
@click.option("--threads", type=click.IntRange(1, 4096), help="CPU threads [default: the runtime's choice].")
@click.option(
    "--grace",
    type=options.Duration(3600),
    default="30s",
    show_default=True,
    help="Time limit for the shutdown.",
)
@click.option(
    "--client-timeout",
    type=options.Duration(3600),
    default="10s",
    show_default=True,
    help="Time limit for the headers of a request, and for a slow body or response; three times as long if it moves at "
    "64 KiB/s or more.",
)
@click.option("--trust-native", is_flag=True, help="Open machine code even if you did not build it on this machine.")
def command(
    folder: Path,
    host: str,
    port: int,
    max_batch: int | None,
    max_delay: float,
    queue: int,
    threads: int | None,
    grace: float,
    client_timeout: float,
    trust_native: bool,
) -> None:
    """Serve an artefact over HTTP with the KServe v2 protocol, which Triton's clients use.

    Requests for images of the same size are combined into batches. /v2/health/ready, /v2/models/NAME and /metrics
    report its state. On SIGTERM or Ctrl-C, it answers every accepted request and stops, after --grace at the latest.
    There is no authentication; by default, only this machine can connect (see --host).
    """
    from ..serving.listen import ServerSettings, StillRunning, serve

    def ready(address: str) -> None:
        click.echo(f"serving {folder} at {address}; Ctrl-C stops it", err=True)

    if not _is_loopback(host):
        click.echo(f"warning: {host} is network-reachable and the server has no authentication", err=True)
    try:
        settings = ServerSettings(host, port, max_batch, max_delay, queue, threads, grace, client_timeout, trust_native)
        serve(folder, settings, ready)
    except StillRunning as error:
        click.echo(f"convbench: {error}", err=True)
        sys.stderr.flush()
        os._exit(error.exit_code)  # a normal exit would free the runtime while a thread is still inside it


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
