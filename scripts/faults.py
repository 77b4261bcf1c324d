"""Send requests to `convbench serve` while attacks happen beside them, and check every answer.

    convbench export --model dico_digits --weights shipped --res 8 --batch 1..8 --to onnx --out build/digits
    python scripts/faults.py build/digits --seconds 600 --requests 10000 --clients 64

Each client repeats a request that finds no server, or one that is stopping or full, until it has an answer. It is right
if it is that of the same artefact run alone, within the tolerance of its precision. One attack every five seconds:
half-sent headers, a reset in a body, a body that would expand, a wrong shape, clients that leave, and a SIGTERM after
which another server starts on the same port. Prints a Markdown table; exit 1 for a wrong answer, a request without an
answer, an attack that was not refused, or a server that did not stop.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from convbench.export import folder
from convbench.serving.connection import Connections
from convbench.serving.listen import ServerSettings, opened
from convbench.serving.served import extents, safe_name
from convbench.tolerances import RELATIVE_L2

EVERY_S = 5.0  # from one attack to the next
RESTART_EVERY = 24  # attacks: the second of this number is a SIGTERM
PATIENCE_S = 300.0  # of a client until it counts its request as unanswered
AGAIN_S = 0.2  # from a refused attempt to the next
RETRIED = {0, 429, 503}  # no connection, full, stopping
KINDS = 16  # different requests
SETTLED_S = 30.0  # after the start of a server, from when on its memory should stay


@dataclass(frozen=True)
class Asked:
    """A request and the right answer to it."""

    body: bytes
    header: str
    expected: Any


@dataclass
class Seen:
    """What the clients, the attacks and the servers did."""

    latencies: list[float] = field(default_factory=list)
    undisturbed: list[float] = field(default_factory=list)  # of requests that needed one attempt
    outcomes: Counter[str] = field(default_factory=Counter)
    retries: Counter[int] = field(default_factory=Counter)  # by status; 0: no connection
    attacks: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    stops_s: list[float] = field(default_factory=list)
    memory: list[list[int]] = field(default_factory=list)  # resident bytes of each server, once a second
    health_s: list[float] = field(default_factory=list)


class Server:
    """`convbench serve` on one port, started again after each SIGTERM."""

    def __init__(self, artefact: Path, seen: Seen) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.artefact, self.seen = artefact, seen
        self.path = f"/v2/models/{safe_name(folder.read(artefact).model)}/infer"
        self.log = open(os.devnull, "wb")  # noqa: SIM115 - open as long as the servers run
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "convbench", "serve", str(self.artefact), "--port", str(self.port)]
        self.process = subprocess.Popen([*command, "--threads", "1", "--max-delay", "5ms"], stderr=self.log)
        self.since = time.monotonic()
        self.seen.memory.append([])

    async def ready(self) -> None:
        asked = b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        while await status(self.port, asked) != 200:
            await asyncio.sleep(0.1)

    async def restart(self) -> None:
        await self.ready()
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, PATIENCE_S)
        self.seen.stops_s.append(time.monotonic() - started)
        if code != 0:
            self.seen.surprises.append(f"exit code {code} after SIGTERM")
        self.start()

    async def watch(self) -> None:
        """Note memory once a second and how long the health check takes."""
        while True:
            with contextlib.suppress(psutil.Error):
                if time.monotonic() - self.since > SETTLED_S:
                    self.seen.memory[-1].append(psutil.Process(self.process.pid).memory_info().rss)
            started = time.monotonic()
            if await status(self.port, b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") == 200:
                self.seen.health_s.append(time.monotonic() - started)
            await asyncio.sleep(1)


async def status(port: int, said: bytes) -> int:
    """Status of the answer on a connection of its own; 0 for none."""
    with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(said)
            async with asyncio.timeout(PATIENCE_S):
                return int((await reader.readline()).split()[1])
        except IndexError:
            return 0
        finally:
            writer.close()
    return 0


def requests(artefact: Path) -> list[Asked]:
    """Requests of one to four of the smallest images, every other one in JSON, with what the artefact answers alone."""
    draw, found = np.random.default_rng(0), []
    with opened(artefact, ServerSettings(threads=1)) as (served, run):
        takes = served.manifest
        sides = [extents(takes, axis)[0] for axis in (2, 3)]
        for number in range(KINDS):
            images = 1 + number % min(4, served.max_batch)
            x = draw.standard_normal((images, takes.inputs[0].shape[1], *sides)).astype("float32")
            t = draw.uniform(0, 1, images).astype(takes.inputs[1].dtype)
            y = draw.integers(0, served.last_class + 1, images)
            body, header = written({"x": x, "t": t, "y": y}, binary=bool(number % 2))
            found.append(Asked(body, header, run(x, t, y)))
    return found


def written(tensors: dict[str, Any], binary: bool) -> tuple[bytes, str]:
    """Body and headers of a request."""
    types = {"float32": "FP32", "int64": "INT64"}
    inputs = [
        {"name": name, "shape": [*value.shape], "datatype": types[str(value.dtype)]}
        | ({"parameters": {"binary_data_size": value.nbytes}} if binary else {"data": value.ravel().tolist()})
        for name, value in tensors.items()
    ]
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": binary}}).encode()
    if not binary:
        return text, ""
    raw = b"".join(value.tobytes() for value in tensors.values())
    return text + raw, f"Inference-Header-Content-Length: {len(text)}\r\n"


def is_right(content: bytes, asked: Asked, limit: float) -> bool:
    """Whether an answer holds the tensor that the artefact computes alone."""
    if asked.header:
        out = np.frombuffer(content[-asked.expected.nbytes :], "<f4").reshape(asked.expected.shape)
    else:
        out = np.array(json.loads(content)["outputs"][0]["data"], "float32").reshape(asked.expected.shape)
    return bool(np.linalg.norm(out - asked.expected) <= limit * np.linalg.norm(asked.expected))


async def client(server: Server, kinds: list[Asked], times: Iterator[float], limit: float, draw: random.Random) -> None:
    """Send one request at each of the times, or as soon as the one before it is answered."""
    connections, seen = Connections("127.0.0.1", server.port), server.seen
    for at in times:
        await asyncio.sleep(at - time.monotonic())
        asked, started, attempts, code = draw.choice(kinds), time.monotonic(), 0, 0
        while time.monotonic() - started < PATIENCE_S:
            attempts += 1
            try:
                code, content = await connections.request("POST", server.path, asked.body, asked.header)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                code, content = 0, b""
            if code not in RETRIED:
                break
            seen.retries[code] += 1
            await asyncio.sleep(AGAIN_S)
        if code == 200:
            seen.outcomes["right" if is_right(content, asked, limit) else "wrong"] += 1
        else:
            seen.outcomes["unanswered" if code in RETRIED else f"status {code}"] += 1
        seen.latencies.append(time.monotonic() - started)
        if attempts == 1:
            seen.undisturbed.append(seen.latencies[-1])
    connections.close()


# ---- attacks: each returns what was wrong with the answer, or None ----

Attack = Callable[[Server, Asked], Awaitable[str | None]]


def post(server: Server, body: bytes, header: str = "") -> bytes:
    return f"POST {server.path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{header}\r\n".encode() + body


async def slow_headers(server: Server, asked: Asked) -> str | None:
    """100 connections that send half a header and wait to be closed."""

    async def one() -> None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(b"POST /v2/mod")
                async with asyncio.timeout(60):
                    await reader.read()
            finally:
                writer.close()

    try:
        await asyncio.gather(*(one() for _ in range(100)))
    except TimeoutError:
        return "half a header was waited for longer than 60 s"
    return None


async def reset(server: Server, asked: Asked) -> str | None:
    """16 connections that are reset in the middle of a body."""
    for _ in range(16):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection,
        ):
            connection.sendall(post(server, asked.body, asked.header)[:-100])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await asyncio.sleep(0)
    return None


async def bomb(server: Server, asked: Asked) -> str | None:
    """Empty lists, each of which would take 20 times its bytes."""
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [' + b"[]," * 20_000 + b"[]]}]}"
    return unless(400, await status(server.port, post(server, body)))


async def wrong_shape(server: Server, asked: Asked) -> str | None:
    body = b'{"inputs": [{"name": "x", "shape": [1, 4, 3], "datatype": "FP32", "data": [' + b"0," * 11 + b"0]}]}"
    return unless(400, await status(server.port, post(server, body)))


async def gone(server: Server, asked: Asked) -> str | None:
    """32 clients that leave as soon as their request is sent."""
    for _ in range(32):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection,
        ):
            connection.sendall(post(server, asked.body, asked.header))
        await asyncio.sleep(0)
    return None


def unless(expected: int, code: int) -> str | None:
    """None for the expected status, or for a server that was just stopping."""
    return None if code in (expected, 0, 503) else f"status {code} in place of {expected}"


ATTACKS: dict[str, Attack] = {
    "slow header": slow_headers,
    "reset": reset,
    "bomb": bomb,
    "wrong shape": wrong_shape,
    "gone client": gone,
}


async def attacked(server: Server, kinds: list[Asked], ends: float) -> None:
    """One attack every EVERY_S until the end; those that take longer go on meanwhile."""
    started, tasks = time.monotonic(), []

    async def one(name: str) -> None:
        if why := await ATTACKS[name](server, kinds[0]):
            server.seen.surprises.append(f"{name}: {why}")

    for number in range(1, 10**6):
        at = started + number * EVERY_S
        if at > ends:
            break
        await asyncio.sleep(at - time.monotonic())
        if number % RESTART_EVERY == 2:
            server.seen.attacks["SIGTERM and restart"] += 1
            tasks.append(asyncio.create_task(server.restart()))
        else:
            name = list(ATTACKS)[number % len(ATTACKS)]
            server.seen.attacks[name] += 1
            tasks.append(asyncio.create_task(one(name)))
    await asyncio.gather(*tasks)


async def run(artefact: Path, seconds: float, count: int, clients: int) -> Seen:
    """The whole run. Clients send at times drawn beforehand."""
    seen, draw = Seen(), random.Random(0)
    kinds = requests(artefact)
    limit = RELATIVE_L2[folder.read(artefact).precision]
    server = Server(artefact, seen)
    try:
        while (
            await status(server.port, b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") != 200
        ):
            await asyncio.sleep(0.1)
        started = time.monotonic()
        times = [sorted(started + draw.uniform(0, seconds) for _ in range(count // clients)) for _ in range(clients)]
        for extra in range(count % clients):
            times[extra].append(started + seconds)
        watching = asyncio.create_task(server.watch())
        work = [client(server, kinds, iter(each), limit, random.Random(n)) for n, each in enumerate(times)]
        await asyncio.gather(*work, attacked(server, kinds, started + seconds))
        watching.cancel()
        server.process.send_signal(signal.SIGTERM)
        if await asyncio.to_thread(server.process.wait, PATIENCE_S) != 0:
            seen.surprises.append("the last server did not end with exit code 0")
    finally:
        server.process.kill()
        server.process.wait()
        server.log.close()
    return seen


def table(seen: Seen, seconds: float, clients: int) -> Iterator[str]:
    """Lines of the report in Markdown."""
    asked = sum(seen.outcomes.values())
    yield "| | |"
    yield "| --- | --- |"
    yield f"| requests | {asked} in {seconds:.0f} s from {clients} clients |"
    yield f"| answers | {', '.join(f'{n} {name}' for name, n in seen.outcomes.most_common())} |"
    names = {0: "no connection"}
    yield f"| attempts repeated | {', '.join(f'{n} {names.get(k, k)}' for k, n in sorted(seen.retries.items())) or 0} |"
    for name, values in (("all", seen.latencies), ("answered at the first attempt", seen.undisturbed)):
        p50, p99 = np.quantile(values, [0.5, 0.99])
        yield f"| latency, {name} | p50 {p50:.3f} s, p99 {p99:.3f} s, longest {max(values):.3f} s |"
    health = np.quantile(seen.health_s, [0.5, 0.99, 1])
    yield "| health check, once a second | p50 {:.3f} s, p99 {:.3f} s, longest {:.3f} s |".format(*health)
    yield f"| attacks | {', '.join(f'{n} {name}' for name, n in sorted(seen.attacks.items()))} |"
    yield f"| from SIGTERM to the end | longest {max(seen.stops_s, default=0):.1f} s of {len(seen.stops_s)} |"
    peaks = [max(each) / 2**20 for each in seen.memory if each]
    grown = [(each[-1] - each[0]) / 2**20 for each in seen.memory if len(each) > 10]
    if peaks:
        yield f"| memory of each server, largest | {min(peaks):.0f} to {max(peaks):.0f} MiB |"
    if grown:
        yield f"| memory, last less first | {min(grown):+.1f} to {max(grown):+.1f} MiB |"
    yield f"| surprises | {'; '.join(seen.surprises) or 'none'} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    given = parser.parse_args()
    seen = asyncio.run(run(given.artefact, given.seconds, given.requests, given.clients))
    print("\n".join(table(seen, given.seconds, given.clients)))
    right = seen.outcomes["right"] == sum(seen.outcomes.values()) == given.requests
    return int(not right or bool(seen.surprises))


if __name__ == "__main__":
    sys.exit(main())
