"""Opening an artefact, listening until a signal, and stopping without losing what was accepted."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from convbench.errors import ConvbenchError, UsageError, first_line
from convbench.files import read_json

from .. import packages
from ..export import folder, runtimes
from ..export.folder import Manifest
from .batching import Array, Run
from .limits import ClientLimits, connections
from .served import Served, extents

PACKAGES = ("starlette", "uvicorn", "prometheus_client")


class StillRunning(ConvbenchError):
    """A batch was still running at the end of the grace period: the process has to exit without it."""


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0 for any that is free
    max_batch: int | None = None  # None for that of the artefact
    max_delay_s: float = 0.005
    max_queue: int = 256  # images
    threads: int | None = None
    grace_s: float = 30.0  # of the shutdown
    client_s: float = 10.0  # as in limits.ClientLimits
    trust_native: bool = False  # open machine code that was not built here


def serve(artefact: Path, settings: ServerSettings, ready: Callable[[str], None]) -> None:
    """Serve an artefact until SIGTERM or SIGINT.

    Args:
        ready: told the address once requests are taken.

    Raises UsageError for what cannot be served here, StillRunning, and ConvbenchError where the inference thread
    failed.
    """
    for name in PACKAGES:
        packages.require(name)
    from .app import Service
    from .server import Server

    with _listening(settings.host, settings.port) as listener, opened(artefact, settings) as (served, run):
        limits = ClientLimits(settings.client_s, settings.grace_s, connections())
        service = Service(served, run, settings.max_delay_s, settings.max_queue, limits)
        server = Server(service)
        # uvicorn raises a signal that stopped it once more at the end, which would kill us: here it is the usual end.
        before = {which: signal.signal(which, server.handle_exit) for which in (signal.SIGTERM, signal.SIGINT)}
        try:
            host, port = listener.getsockname()[:2]
            ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            server.run(sockets=[listener])
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)
        batcher = service.batcher
        if batcher.failure is not None:
            why = f"{type(batcher.failure).__name__}: {first_line(batcher.failure)}"
            raise ConvbenchError(f"the inference thread failed, and the server with it: {why}")
        if batcher.thread.is_alive():
            raise StillRunning(
                f"a batch was still running {settings.grace_s:g} s after the signal: stopping without it"
            )


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket: clients that come early wait in its backlog until the server takes them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: only then asyncio turns Nagle's algorithm off, which holds each answer up for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}: choose another --host or --port") from None
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def opened(artefact: Path, settings: ServerSettings) -> Iterator[tuple[Served, Run]]:
    """The artefact as a function of arrays, tried once with a full batch; and what it may be asked for."""
    manifest = folder.read(artefact)
    served = Served(manifest, _max_batch(manifest, settings.max_batch))
    _require_unbroken(artefact, manifest)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = manifest.target["device"]
    with runtimes.opened(artefact, settings.threads, trust_native=settings.trust_native) as step:

        def run(x: Array, t: Array, y: Array) -> Array:
            # Arrays over a request's bytes are read-only; nothing writes into them.
            given = (torch.from_numpy(np.require(value, requirements=("C", "W"))) for value in (x, t, y))
            with torch.inference_mode():
                out = step(*(value.to(device) for value in given))
            found: Array = out.float().cpu().numpy()
            return found

        try:
            run(*_example(served))
        except Exception as error:  # of any runtime
            raise UsageError(f"{artefact} does not run here: {' '.join(str(error).split())[:300]}") from error
        yield served, run


def _max_batch(manifest: Manifest, wanted: int | None) -> int:
    high = manifest.batch[1]
    if wanted is not None and wanted > high:
        raise UsageError(f"--max-batch {wanted} is too large: this artefact takes at most {high} images")
    return wanted or high


def _require_unbroken(artefact: Path, manifest: Manifest) -> None:
    if changed := folder.changed_files(artefact, manifest):
        raise UsageError(f"{artefact} is damaged: {'; '.join(changed)}: export it again")
    verification = artefact / folder.VERIFICATION
    if not os.path.lexists(verification):
        return  # made without verification
    found = read_json(verification, folder.MOST_BYTES)
    if not isinstance(found, dict) or found.get("status") not in ("passed", "unchecked"):
        raise UsageError(f"{artefact} failed its verification and is not served: `convbench verify` says why")


def _example(served: Served) -> tuple[Array, Array, Array]:
    """A full batch of the smallest images."""
    manifest, batch = served.manifest, served.max_batch
    x, t, y = manifest.inputs
    sides = [extents(manifest, axis)[0] for axis in (2, 3)]
    channels = x.shape[1]
    assert isinstance(channels, int)
    caption = [extent for extent in y.shape[1:] if isinstance(extent, int)]
    return (
        np.zeros((batch, channels, *sides), np.float32),
        np.zeros(batch, t.dtype),
        np.zeros((batch, *caption), y.dtype),
    )
