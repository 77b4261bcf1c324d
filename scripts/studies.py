#!/usr/bin/env python3
"""Does convbench tell the truth about itself? Seven studies, with their counts, and one of a model.

    python scripts/studies.py aa       20 A/A comparisons: how many say "same"
    python scripts/studies.py slowed   20 comparisons with a step slowed by 10 %: how many say "faster"
    python scripts/studies.py kills    a sweep of 24 cases, killed ten times at random: what the file holds
    python scripts/studies.py fold     EDM2 with folded weights over EDM2 as released, interleaved, in CPU seconds
    python scripts/studies.py simulate 1,000 runs with recorded noise and each bias: the table of docs/protocol.md
    python scripts/studies.py honest   200 A/A comparisons of five models: how many say "faster" or "slower"
    python scripts/studies.py cheats   every backend of tests/support/cheats.py, 20 times: how many are caught
    python scripts/studies.py history  histories of 1,000 commits without and with a step: docs/howto/keep-history.md

`honest 50` makes 50 comparisons; `cheats 5` runs each backend five times, `cheats 5 skips_zeros` that one alone. All
but `simulate` measure this machine and take minutes. Run them alone: on a shared core they measure the neighbour.
"""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import cheats  # noqa: E402
import simulated_history  # noqa: E402
import simulated_runs  # noqa: E402
import tiny  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from convbench.counting import Count  # noqa: E402
from convbench.measure import forward, opening  # noqa: E402
from convbench.run.throughput import throughput  # noqa: E402
from convbench.schema import Backend, Case, Measurement, Step  # noqa: E402
from convbench.timing.clock import Rules  # noqa: E402

RUNS = 20
SLOWDOWN = 0.10
MODEL, RES = "dico_s", 128
FIVE = ("dic", "dico", "fcdm", "dit", "uvit")  # families
HONEST, CAUGHT = 200, 20
SHORT = Rules(block_s=0.02, warmup_s=0.2, min_s=0.4, cap_s=2.0, min_blocks=20, half_width=0.02)
LONGER = Rules(block_s=0.02, warmup_s=0.2, min_s=1.5, cap_s=3.0, min_blocks=20, half_width=0.02)  # for drifts


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


def fold(pairs: int = 16) -> None:
    """Time EDM2-XXS at 256 pixels as released and folded, in CPU seconds of one thread: neighbours take none."""
    import torch

    from convbench import models
    from convbench.checks.output import input_sets
    from convbench.timing.compare import DELTA, compare_blocks

    torch.set_num_threads(1)
    networks = [models.create(id, res=256) for id in ("edm2_xxs", "edm2_xxs@weights=folded")]
    inputs = input_sets(Case("edm2_xxs", 256, 1))[0]
    seconds: list[list[float]] = [[], []]
    for pair in range(pairs + 2):
        for which, network in enumerate(networks):
            start = time.process_time()
            with torch.inference_mode():
                network(*inputs)
            if pair >= 2:  # the first two warm up
                seconds[which].append(time.process_time() - start)
        if pair >= 2:
            released, folded = (times[-1] for times in seconds)
            print(f"fold {pair - 1:2}: {released:.4f} s, folded {folded:.4f} s, {released / folded:.3f}", flush=True)
    found = compare_blocks(*seconds, DELTA["cpu"])
    print(f"fold: {found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}] {found.difference}")


def twice(model: str, res: int, backend: str, rules: Rules) -> list[Measurement]:
    """A case and its A/A repeat, timed interleaved in this process."""
    cases = [Case(model, res, 2, backend, threads=1, repeat=repeat) for repeat in (1, 2)]
    rows = forward.measure(cases, rules)
    if failed := [row.reason for row in rows if row.status not in ("ok", "wrong")]:
        sys.exit(f"{model}, {backend}: {failed[0]}")
    return rows


def codes(row: Measurement) -> set[str]:
    """The reason codes of a row."""
    return {part.partition(":")[0] for part in row.reason.split("; ") if part}


def honest(runs: int) -> None:
    """A/A comparisons of five models of equal numbers, and their words."""
    words: dict[str, Counter[str]] = {family: Counter() for family in FIVE}
    codes_seen: Counter[str] = Counter()
    for run in range(runs):
        family = FIVE[run % len(FIVE)]
        first, second = twice(f"tiny:{family}", tiny.RES[family], "eager", SHORT)
        words[family][str(second.difference)] += 1
        codes_seen.update(codes(first))
        ratio = f"{second.ratio:.4f} [{second.ratio_low:.4f}, {second.ratio_high:.4f}]" if second.ratio else "-"
        print(f"{run + 1:3} {family}: {ratio} {second.difference} {first.verdict} {first.reason}", flush=True)
    print("| A/A of | same | unclear | faster or slower |\n| --- | --- | --- | --- |")
    for family, found in [*words.items(), ("all", sum(words.values(), Counter()))]:
        print(f"| {family} | {found['same']} | {found['unclear']} | {found['faster'] + found['slower']} |")
    print("first rows with a reason:", dict(codes_seen))


def cheated(runs: int, names: Sequence[str]) -> None:
    """Runs of each cheat on five models: how many were caught, by codes of its own and not by a neighbour's noise."""
    print("| cheat | caught | by |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        cheats.FOLDER[:] = [Path(folder)]
        for name in names or cheats.CHEATS:
            own = cheats.CHEATS[name]
            caught, seen = 0, Counter[str]()
            for run in range(runs):
                family = FIVE[run % len(FIVE)]
                row = twice(f"tiny:{family}", tiny.RES[family], f"cheats:{name}", LONGER)[0]
                found = codes(row) & own if row.verdict in ("SUSPECT", "INVALID") else set[str]()
                caught += bool(found)
                seen.update(found)
                print(f"{name} {family}: {row.verdict} {row.reason}", file=sys.stderr, flush=True)
            by = ", ".join(f"{code} {count}" for code, count in seen.most_common())
            print(f"| {name} | {caught} of {runs} | {by} |", flush=True)


if __name__ == "__main__":
    # One network and one set of rates for each case of a study: only the timing is repeated.
    opening.calibrate = functools.cache(opening.calibrate)  # type: ignore[attr-defined]
    known: dict[tuple[str, int], Count] = {}
    count = opening.count_variant  # type: ignore[attr-defined]
    opening.count_variant = lambda variant, res: (  # type: ignore[attr-defined]
        known[variant.id, res]
        if (variant.id, res) in known
        else known.setdefault((variant.id, res), count(variant, res))
    )
    if sys.argv[1:] == ["aa"]:
        compare("A/A", "eager", "same")
    elif sys.argv[1:] == ["slowed"]:
        compare("slowed", "studies:slowed", "faster")
    elif sys.argv[1:] == ["kills"]:
        kills()
    elif sys.argv[1:] == ["fold"]:
        fold()
    elif sys.argv[1:2] == ["honest"]:
        honest(int(sys.argv[2]) if sys.argv[2:] else HONEST)
    elif sys.argv[1:2] == ["cheats"]:
        cheated(int(sys.argv[2]) if sys.argv[2:] else CAUGHT, sys.argv[3:])
    elif sys.argv[1:] == ["simulate"]:
        print(simulated_runs.table(1000))
    elif sys.argv[1:] == ["history"]:
        print(simulated_history.table(20, 1000, 200))
    else:
        sys.exit(__doc__)
