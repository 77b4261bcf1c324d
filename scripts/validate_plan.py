#!/usr/bin/env python3
"""Compare what plan-capacity simulates with a real server under load: the table of docs/howto/plan-capacity.md.

    python scripts/validate_plan.py ARTEFACT [--server serve|triton] [--client load|aiperf] [--seconds 60]

It serves an ONNX artefact on one thread, with `convbench serve` or with the tritonserver that `make serving` installs,
measures the seconds of each batch through the server, and offers requests of one image at 30, 60, 90 and 120 % of the
capacity that these seconds give. The client is the loop of `convbench load`, with the very arrivals that the simulation
gets, or NVIDIA's aiperf, an independent program, with a Poisson process of its own (CONVBENCH_AIPERF names its
command; `pip install aiperf` in an environment apart). Run it alone: a neighbour is in one of both only.

    python scripts/validate_plan.py ARTEFACT --server triton --stalls 30

counts how often a server leaves a request waiting although it has nothing else to do: of three requests the third comes
while the second runs.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import numpy as np  # noqa: E402
import triton_server  # noqa: E402

from convbench.reports.capacity.queueing import BatchServer, simulate  # noqa: E402
from convbench.serving import connection, description, load  # noqa: E402
from convbench.serving.triton import repository  # noqa: E402
from convbench.timing.intervals import percentile  # noqa: E402

LOADS = (0.3, 0.6, 0.9, 1.2)
DELAY_S = 0.005
QUEUE = 256
REPEATS = 15
SEEDS = 21  # simulations where the client draws its own arrivals: their median, and in brackets the least and the most


@dataclass(frozen=True)
class Answered:
    """What a client saw."""

    images_per_s: float
    p99_s: float
    failed: int


@contextmanager
def convbench_serve(artefact: Path, most: int) -> Iterator[str]:
    """Address of a running `convbench serve`."""
    command = [sys.executable, "-m", "convbench", "serve", str(artefact), "--port", "0", "--threads", "1"]
    command += ["--max-batch", str(most), "--max-delay", f"{DELAY_S}s", "--queue", str(QUEUE)]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr
        line = server.stderr.readline()
        found = re.search(r" at (http://\S+);", line)
        assert found, line
        yield found[1]
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def triton(artefact: Path, most: int) -> Iterator[str]:
    """Address of a running tritonserver with what `convbench deploy` writes for its Python backend."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = repository.Deployment("python", max_batch=most, max_delay_s=DELAY_S, queue=QUEUE, threads=1)
        repository.deploy(artefact, folder / "models", wanted)
        backends = triton_server.backends(folder / "backends")
        with triton_server.running(folder / "models", backends, folder / "log") as (http, _, _):
            yield f"http://127.0.0.1:{http}"


async def _prepared(address: str, batch: int, as_json: bool) -> tuple[connection.Connections, load.Asked]:
    """A request of ``batch`` images, its tensors as bytes or, as aiperf has to send them, as JSON."""
    to = connection.to(address)
    asked = await load.prepare(to, None, batch, None)
    if as_json:
        model = asked.path.split("/")[3]
        described = await to.ask("GET", f"/v2/models/{model}")
        draw = np.random.default_rng(0)
        inputs = []
        for name, datatype, shape in description.inputs(described, model, batch, None):
            value = np.ones(shape) if len(shape) < 3 else draw.standard_normal(shape).round(4)
            data = value.astype(description.DTYPES[datatype]).ravel().tolist()
            inputs.append({"name": name, "shape": shape, "datatype": datatype, "data": data})
        body = json.dumps({"inputs": inputs}).encode()
        asked = load.Asked(asked.path, "Content-Type: application/json\r\n", body, batch)
    return to, asked


async def batch_seconds(address: str, batch: int, as_json: bool) -> float:
    """Median seconds of a request that fills a batch, by one client: the batch's work and that of its transport."""
    to, asked = await _prepared(address, batch, as_json)
    try:
        found = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            status, _ = await to.request("POST", asked.path, asked.body, asked.header)
            assert status == 200
            found.append(time.perf_counter() - started)
        return median(found)
    finally:
        to.close()


def curve(address: str, most: int, as_json: bool) -> list[float]:
    """Seconds of batches of 1, 2, 4 … images, with straight lines between them; without the wait of incomplete ones."""
    sizes = sorted({2**n for n in range(most.bit_length()) if 2**n <= most} | {most})
    seconds = {size: asyncio.run(batch_seconds(address, size, as_json)) for size in sizes}
    known = {size: taken - (DELAY_S if size < most else 0.0) for size, taken in seconds.items()}
    found = []
    for size in range(1, most + 1):
        low, high = max(each for each in sizes if each <= size), min(each for each in sizes if each >= size)
        share = 0.0 if low == high else (size - low) / (high - low)
        found.append((1 - share) * known[low] + share * known[high])
    return found


def by_load(address: str, rate: float, seconds: float) -> Answered:
    """Offer requests with the loop of `convbench load`."""
    (row,) = load.run(address, None, 1, None, seconds, rate=rate)
    return Answered(row["images_per_s"], row["latency_s_p99"] or 0.0, row["failed"])


# aiperf insists on a tokenizer, and would download one: this knows no word, as its counts of tokens mean nothing here.
TOKENIZER = {
    "tokenizer.json": {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"},
    },
    "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?"},
}


def by_aiperf(address: str, rate: float, seconds: float) -> Answered:
    """Offer requests with aiperf."""

    async def one() -> load.Asked:
        to, asked = await _prepared(address, 1, True)
        to.close()
        return asked

    asked = asyncio.run(one())
    with tempfile.TemporaryDirectory() as name:
        payload, out, words = (Path(name) / each for each in ("payload.json", "out", "words"))
        session = {"session_id": "one", "payloads": [json.loads(asked.body)]}
        payload.write_text(json.dumps({"data": [session]}))
        words.mkdir()
        for file, content in TOKENIZER.items():
            (words / file).write_text(json.dumps(content))
        command = [os.environ.get("CONVBENCH_AIPERF", "aiperf"), "profile", "--model", "any", "--url", address]
        command += ["--endpoint-type", "raw", "--custom-endpoint", asked.path, "--tokenizer", str(words)]
        command += [
            "--extra-inputs",
            "response_field:outputs[0].name",
        ]  # it takes an answer without words for a failure
        command += ["--custom-dataset-type", "inputs-json", "--input-file", str(payload)]
        command += ["--request-rate", str(rate), "--arrival-pattern", "poisson", "--random-seed", "0"]
        command += ["--benchmark-duration", str(seconds), "--artifact-dir", str(out), "--ui", "none"]
        command += ["--workers-max", "1", "--record-processors", "1", "--no-gpu-telemetry", "--no-server-metrics"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=name)
        (report,) = list(out.rglob("profile_export_aiperf.json")) or [None]
        assert report, f"aiperf wrote no report: {done.stdout[-1500:]} {done.stderr[-1500:]}"
        found = json.loads(report.read_text())
    failed = int((found.get("error_request_count") or {"avg": 0})["avg"])
    return Answered(found["request_throughput"]["avg"], found["request_latency"]["p99"] / 1e3, failed)


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """The times at which ``load.open_loop`` sends its requests, with seed 0."""
    draw = random.Random(seed)
    at, found = draw.expovariate(rate), []
    while at < seconds:
        found.append(at)
        at += draw.expovariate(rate)
    return found


def expected(server: BatchServer, rate: float, seconds: float, seeds: int) -> list[Answered]:
    """Simulate ``seeds`` runs, in the order of their p99."""
    found = []
    for seed in range(seeds):
        run = simulate(server, arrivals(rate, seconds, seed))
        speed = len(run.latencies_s) / max(run.ended_s, seconds)
        found.append(Answered(speed, percentile(run.latencies_s, 0.99) or 0.0, run.refused))
    return sorted(found, key=lambda each: each.p99_s)


async def count_stalls(address: str, batch_s: float, times: int) -> int:
    """Count how often the third of three requests waits longer for its batch than two batches take."""
    to, asked = await _prepared(address, 1, False)

    async def ended(after_s: float) -> float:
        await asyncio.sleep(after_s)
        status, _ = await to.request("POST", asked.path, asked.body, asked.header)
        assert status == 200
        return time.perf_counter()

    found = 0
    try:
        for _ in range(times):
            started = time.perf_counter()
            *_, last = await asyncio.gather(*(ended(share * batch_s) for share in (0.0, 0.4, 1.4)))
            found += last - started > 5 * batch_s  # three batches, one after the other
            await asyncio.sleep(batch_s)
    finally:
        to.close()
    return found


SERVERS = {"serve": convbench_serve, "triton": triton}
HEADS = (
    "server",
    "client",
    "load",
    "offered/s",
    "images/s",
    "simulated",
    "ratio",
    "p99 s",
    "simulated",
    "ratio",
    "failed",
)
CLIENTS = {"load": by_load, "aiperf": by_aiperf}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--server", choices=list(SERVERS), default="serve")
    parser.add_argument("--client", choices=list(CLIENTS), default="load")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--stalls", type=int, default=0, metavar="TIMES")
    asked = parser.parse_args()
    as_json = asked.client == "aiperf"
    with SERVERS[asked.server](asked.artefact, asked.max_batch) as address:
        if asked.stalls:
            found = asyncio.run(count_stalls(address, curve(address, 1, False)[0], asked.stalls))
            print(f"{asked.server}: the third request waited for nothing in {found} of {asked.stalls} times")
            return
        print(f"load of the machine before: {os.getloadavg()[0]:.2f}\n")
        print(f"| {' | '.join(HEADS)} |")
        print("| --- | --- |" + " ---: |" * 9)
        for share in LOADS:
            before = curve(address, asked.max_batch, as_json)
            rate = share * len(before) / before[-1]
            seen = CLIENTS[asked.client](address, rate, asked.seconds)
            after = curve(address, asked.max_batch, as_json)
            service = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
            server = BatchServer(service, delay_s=DELAY_S, queue=QUEUE)
            drawn = expected(server, rate, asked.seconds, SEEDS if as_json else 1)
            simulated, least, most = drawn[len(drawn) // 2], drawn[0].p99_s, drawn[-1].p99_s
            spread = f" ({least:.3f}-{most:.3f})" if len(drawn) > 1 else ""
            print(
                f"| {asked.server} | {asked.client} | {share:.0%} | {rate:.2f} "
                f"| {seen.images_per_s:.2f} | {simulated.images_per_s:.2f} "
                f"| {seen.images_per_s / simulated.images_per_s:.2f} "
                f"| {seen.p99_s:.3f} | {simulated.p99_s:.3f}{spread} | {seen.p99_s / simulated.p99_s:.2f} "
                f"| {seen.failed} |",
                flush=True,
            )
    print(f"\nload of the machine after: {os.getloadavg()[0]:.2f}; {json.dumps({'max_batch': asked.max_batch})}")


if __name__ == "__main__":
    main()
