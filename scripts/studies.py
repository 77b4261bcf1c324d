#!/usr/bin/env python3
"""Does convbench tell the truth about itself? Five studies, with their counts.

    python scripts/studies.py aa       20 A/A comparisons: how many say "same"
    python scripts/studies.py slowed   20 comparisons with a step slowed by 10 %: how many say "faster"
    python scripts/studies.py kills    a sweep of 24 cases, killed ten times at random: what the file holds
    python scripts/studies.py simulate 1,000 runs with recorded noise and each bias: the table of docs/protocol.md
    python scripts/studies.py history  histories of 1,000 commits without and with a step: docs/howto/keep-history.md

The first three measure this machine and take minutes. Run them alone: on a shared core they measure the neighbour.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import simulated_history  # noqa: E402
import simulated_runs  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from convbench.run.throughput import throughput  # noqa: E402
from convbench.schema import Backend, Case, Step  # noqa: E402

RUNS = 20
SLOWDOWN = 0.10
MODEL, RES = "dico_s", 128


@contextmanager
def _open_slowed(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    """Eager, and then a wait of a tenth of the time that the step took."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        start = time.perf_counter()
        out: Tensor = model(x, t, y)
        end = time.perf_counter()
        while time.perf_counter() < end + SLOWDOWN * (end - start):
            pass
        return out

    yield step


slowed = Backend(name="slowed", summary="eager, slowed by 10 %", open=_open_slowed)


def compare(title: str, other: str, wanted: str) -> None:
    """Compare eager with another backend RUNS times, each in fresh processes."""
    os.environ["PYTHONPATH"] = str(ROOT / "scripts")  # the worker finds the slowed backend here
    words = []
    for run in range(RUNS):
        row = next(row for row in throughput(MODEL, RES, compare_with=other) if row["ratio"])
        words.append(row["difference"])
        low, high = row["ratio_low"], row["ratio_high"]
        print(f"{title} {run + 1:2}: {row['ratio']:.4f} [{low:.4f}, {high:.4f}] {words[-1]}", flush=True)
    print(f"{title}: {words.count(wanted)} of {RUNS} say {wanted}")


def kills() -> None:
    """Start a sweep, kill it ten times with SIGKILL, let it end, and look at the file."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sweep.jsonl"
        command = [
            sys.executable,
            "-m",
            "convbench",
            "throughput",
            "--model",
            "dico_s,fcdm_s,dit_s_2",
            "--res",
            "64,128",
        ]
        command += ["--batch", "1,2", "--threads", "1", "--precision", "fp32,bf16", "--cap", "0.2", "--out", str(out)]
        rng = random.Random(0)
        for kill in range(10):
            sweep = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(5, 45))
            sweep.send_signal(signal.SIGKILL)
            sweep.wait()
            lines = out.read_bytes().count(b"\n") if out.exists() else 0
            print(f"kill {kill + 1:2}: {lines} rows in the file", flush=True)
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cases = [json.loads(line)["case"] for line in out.read_bytes().splitlines()]
        print(f"kills: {len(cases)} rows, {len(cases) - len(set(cases))} duplicates, every line whole")


if __name__ == "__main__":
    if sys.argv[1:] == ["aa"]:
        compare("A/A", "eager", "same")
    elif sys.argv[1:] == ["slowed"]:
        compare("slowed", "studies:slowed", "faster")
    elif sys.argv[1:] == ["kills"]:
        kills()
    elif sys.argv[1:] == ["simulate"]:
        print(simulated_runs.table(1000))
    elif sys.argv[1:] == ["history"]:
        print(simulated_history.table(20, 1000, 200))
    else:
        sys.exit(__doc__)
