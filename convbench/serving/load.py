"""Load for a server that speaks the KServe v2 protocol: how long answers take, and how many images it returns.

In an open loop requests are sent at times drawn beforehand (a Poisson process), whether or not the server keeps up, and
a latency is counted from the time a request was meant to be sent: a server that stalls is not excused from the
requests it held up (G. Tene, "How NOT to Measure Latency"). In a closed loop each client waits for its answer first.
"""

import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from convbench.errors import NothingMeasured, UsageError

from . import connection, description
from .connection import Connections

Row = dict[str, Any]
WARM_UP = 3  # requests before the first that counts
STEPS = 7  # of a bisection: the rate is then known to 1 %
MOST_CLIENTS = 16  # that show how much a server can do at all
MOST_WORDS = 16  # different failures that are told apart


@dataclass(frozen=True)
class Asked:
    """One request, ready to be sent again and again."""

    path: str
    header: str
    body: bytes
    images: int

    @property
    def most_bytes(self) -> int:
        """Limit of an answer: sixteen times the request, as JSON takes more than bytes, and what describes it."""
        return min(connection.ANSWER_BYTES, connection.JSON_BYTES + 16 * len(self.body))


@dataclass
class Seen:
    """Answers to the requests of one run. Times in seconds."""

    latencies: list[float]
    late: list[float]  # how much later than meant each was sent: the client's own delay
    failures: Counter[str]
    elapsed: float

    def fail(self, words: str) -> None:
        """Count a failure by its message; beyond MOST_WORDS different messages, as one of other failures."""
        known = words in self.failures or len(self.failures) < MOST_WORDS
        self.failures[words if known else "other failures"] += 1


async def prepare(to: Connections, model: str | None, batch: int, side: int | None) -> Asked:
    """Ask the server what it takes, and make a request of ``batch`` images of it."""
    if model is None:
        models = await to.ask("POST", "/v2/repository/index")
        if not isinstance(models, list) or not all(map(description.is_named, models)):
            raise UsageError("the server's list of models does not follow the KServe v2 protocol: specify --model")
        names = [each["name"] for each in models]
        if len(names) != 1:
            raise UsageError(f"the server has {', '.join(names[:20]) or 'no models'}: specify one with --model")
        (model,) = names
    described = await to.ask("GET", f"/v2/models/{quote(model, safe='', errors='replace')}")
    values = np.random.default_rng(0)
    entries, tensors = [], []
    for name, datatype, shape in description.inputs(described, model, batch, side):
        value = np.ones(shape) if len(shape) < 3 else values.standard_normal(shape)
        tensors.append(value.astype(description.DTYPES[datatype]).tobytes())
        parameters = {"binary_data_size": len(tensors[-1])}
        entries.append({"name": name, "shape": shape, "datatype": datatype, "parameters": parameters})
    head = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode()
    header = f"Inference-Header-Content-Length: {len(head)}\r\nContent-Type: application/octet-stream\r\n"
    asked = Asked(
        f"/v2/models/{quote(model, safe='', errors='replace')}/infer", header, b"".join([head, *tensors]), batch
    )
    for _ in range(WARM_UP):
        status, content = await to.request("POST", asked.path, asked.body, asked.header, asked.most_bytes)
        if status != 200:
            raise UsageError(f"{model} refuses a request of {batch} images: {connection.error_of(content)}")
    return asked


async def _send(to: Connections, asked: Asked, meant: float, seen: Seen) -> None:
    seen.late.append(time.perf_counter() - meant)
    try:
        status, content = await to.request("POST", asked.path, asked.body, asked.header, asked.most_bytes)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        seen.fail(type(error).__name__)
        return
    if status == 200:
        seen.latencies.append(time.perf_counter() - meant)
    else:
        seen.fail(f"{status}: {connection.error_of(content)}")


async def open_loop(to: Connections, asked: Asked, rate: float, duration_s: float, seed: int = 0) -> Seen:
    """Requests at times of a Poisson process of ``rate`` a second, over ``duration_s``."""
    draw = random.Random(seed)
    seen = Seen([], [], Counter(), 0.0)
    started = time.perf_counter()
    meant = started + draw.expovariate(rate)
    async with asyncio.TaskGroup() as group:
        while meant < started + duration_s:
            if (left := meant - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            group.create_task(_send(to, asked, meant, seen))
            meant += draw.expovariate(rate)
    seen.elapsed = max(time.perf_counter() - started, duration_s)
    return seen


async def closed_loop(to: Connections, asked: Asked, clients: int, duration_s: float) -> Seen:
    """Each of ``clients`` sends the next request when it has the answer to the last."""
    seen = Seen([], [], Counter(), 0.0)
    started = time.perf_counter()

    async def client() -> None:
        while (now := time.perf_counter()) < started + duration_s:
            await _send(to, asked, now, seen)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    seen.elapsed = time.perf_counter() - started
    return seen


def percentile(values: list[float], share: float) -> float | None:
    """The smallest value that at least ``share`` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def row(seen: Seen, asked: Asked, rate: float | None, clients: int | None) -> Row:
    """Summary of a run."""
    answered = len(seen.latencies)
    return {
        "rate": rate,
        "concurrency": clients,
        "batch": asked.images,
        "duration_s": seen.elapsed,
        "requests": answered + sum(seen.failures.values()),
        "failed": sum(seen.failures.values()),
        "failures": dict(seen.failures),
        "requests_per_s": answered / seen.elapsed,
        "images_per_s": answered * asked.images / seen.elapsed,
        "latency_s_p50": percentile(seen.latencies, 0.5),
        "latency_s_p90": percentile(seen.latencies, 0.9),
        "latency_s_p99": percentile(seen.latencies, 0.99),
        "late_s": None if rate is None else percentile(seen.late, 0.99),
    }


def run(
    address: str,
    model: str | None,
    batch: int,
    side: int | None,
    duration_s: float,
    rate: float | None = None,
    clients: int | None = None,
    slo_s: float | None = None,
    report: Callable[[str], None] = lambda what: None,
) -> list[Row]:
    """One row for a rate or a number of clients; with ``slo_s`` one for each rate that was tried, the best one last.

    Raises UsageError for a server that cannot be asked, NothingMeasured where no request was answered.
    """

    async def measured() -> list[Row]:
        to = connection.to(address)
        try:
            asked = await prepare(to, model, batch, side)
            if slo_s is not None:
                return await bounded(to, asked, duration_s, slo_s, report)
            if rate is not None:
                report(f"{rate:g} requests/s for {duration_s:g} s")
                return [row(await open_loop(to, asked, rate, duration_s), asked, rate, None)]
            report(f"{clients} clients for {duration_s:g} s")
            return [row(await closed_loop(to, asked, clients or 1, duration_s), asked, None, clients or 1)]
        finally:
            to.close()

    rows = asyncio.run(measured())
    if all(each["latency_s_p50"] is None for each in rows):
        raise NothingMeasured(f"no request was answered: {', '.join(rows[-1]['failures']) or 'none was sent'}")
    return rows


async def bounded(
    to: Connections, asked: Asked, duration_s: float, slo_s: float, report: Callable[[str], None]
) -> list[Row]:
    """Bisect for the highest rate whose 99th percentile stays within ``slo_s``, below what the server can do at all."""
    report(f"{MOST_CLIENTS} clients for {duration_s:g} s: the most it can do")
    most = row(await closed_loop(to, asked, MOST_CLIENTS, duration_s), asked, None, MOST_CLIENTS)
    low, high = 0.0, most["requests_per_s"]
    rows, best = [most | {"within": None}], None
    for step in range(STEPS):
        rate = high if step == 0 else (low + high) / 2
        if rate <= 0:
            break
        report(f"step {step + 1} of {STEPS}: {rate:.4g} requests/s for {duration_s:g} s")
        tried = row(await open_loop(to, asked, rate, duration_s, seed=step), asked, rate, None)
        p99 = tried["latency_s_p99"]
        good = not tried["failed"] and p99 is not None and p99 <= slo_s
        rows.append(tried | {"within": "yes" if good else "no"})
        if good:
            low, best = rate, rows[-1]
            if step == 0:
                break
        else:
            high = rate
    if best is not None:
        rows.remove(best)
        rows.append(best)
    return rows
