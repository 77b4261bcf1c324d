#!/usr/bin/env python3
"""Compare what plan-capacity simulates with a real server under load: the table of docs/howto/plan-capacity.md.

    python scripts/validate_plan.py ARTEFACT [--seconds 60] [--max-batch 8]

It serves an ONNX artefact with `convbench serve` on one thread, measures the seconds of each batch through the server,
and offers requests of one image at 30, 60, 90 and 120 % of the capacity that these seconds give, with the loop of
`convbench load`. The simulation gets the very arrivals that it draws. Run it alone: a neighbour is in one of both only.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from convbench.reports.capacity.queueing import BatchServer, simulate  # noqa: E402
from convbench.serving import connection, load  # noqa: E402
from convbench.timing.intervals import percentile  # noqa: E402

LOADS = (0.3, 0.6, 0.9, 1.2)
DELAY_S = 0.005
QUEUE = 256
REPEATS = 15


async def batch_seconds(address: str, batch: int) -> float:
    """Median seconds of a request that fills a batch, by one client: the batch's work and that of its transport."""
    to = connection.to(address)
    try:
        asked = await load.prepare(to, None, batch, None)
        found = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            status, _ = await to.request("POST", asked.path, asked.body, asked.header)
            assert status == 200
            found.append(time.perf_counter() - started)
        return median(found)
    finally:
        to.close()


def curve(address: str, most: int) -> list[float]:
    """Seconds of batches of 1, 2, 4 … images, with straight lines between them; without the wait of incomplete ones."""
    sizes = sorted({2**n for n in range(most.bit_length()) if 2**n <= most} | {most})
    known = {size: asyncio.run(batch_seconds(address, size)) - (DELAY_S if size < most else 0.0) for size in sizes}
    found = []
    for size in range(1, most + 1):
        low, high = max(each for each in sizes if each <= size), min(each for each in sizes if each >= size)
        share = 0.0 if low == high else (size - low) / (high - low)
        found.append((1 - share) * known[low] + share * known[high])
    return found


def arrivals(rate: float, seconds: float) -> list[float]:
    """The times at which ``load.open_loop`` sends its requests."""
    draw = random.Random(0)
    at, found = draw.expovariate(rate), []
    while at < seconds:
        found.append(at)
        at += draw.expovariate(rate)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-batch", type=int, default=8)
    asked = parser.parse_args()
    command = [sys.executable, "-m", "convbench", "serve", str(asked.artefact), "--port", "0", "--threads", "1"]
    command += ["--max-batch", str(asked.max_batch), "--max-delay", f"{DELAY_S}s", "--queue", str(QUEUE)]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr
        line = server.stderr.readline()
        found = re.search(r" at (http://\S+);", line)
        assert found, line
        address = found[1]
        print(f"load of the machine before: {os.getloadavg()[0]:.2f}\n")
        print("| load | offered /s | images/s | simulated | ratio | p99 s | simulated | ratio | sent late s |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for share in LOADS:
            before = curve(address, asked.max_batch)
            capacity = len(before) / before[-1]
            rate = share * capacity
            (row,) = load.run(address, None, 1, None, asked.seconds, rate=rate)
            after = curve(address, asked.max_batch)
            service = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
            times = arrivals(rate, asked.seconds)
            simulated = simulate(BatchServer(service, delay_s=DELAY_S, queue=QUEUE), times)
            tail = percentile(simulated.latencies_s, 0.99) or 0.0
            speed = len(simulated.latencies_s) / max(simulated.ended_s, asked.seconds)
            ratios = [row["images_per_s"] / speed, (row["latency_s_p99"] or 0.0) / tail]
            print(
                f"| {share:.0%} | {rate:.2f} | {row['images_per_s']:.2f} | {speed:.2f} | {ratios[0]:.2f} "
                f"| {row['latency_s_p99']:.3f} | {tail:.3f} | {ratios[1]:.2f} | {row['late_s']:.3f} |",
                flush=True,
            )
        print(f"\nload of the machine after: {os.getloadavg()[0]:.2f}; {json.dumps({'max_batch': asked.max_batch})}")
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    main()
