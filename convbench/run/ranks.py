"""A case on several devices at once: torchrun starts ``python -m convbench.run.ranks ORDER ROW`` for each rank."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import read_json, write_whole
from ..sampling.shards import World
from ..schema import Case
from ..timing.clock import Rules
from .launchers.cores import core_slots


def world_row(case: Case, rules: Rules) -> dict[str, Any]:
    """Start the ranks of a case on this machine; return their row. Raises RuntimeError with what one of them said."""
    with tempfile.TemporaryDirectory(prefix="convbench-ranks-") as folder:
        order, row = Path(folder, "order.json"), Path(folder, "row.json")
        order.write_text(json.dumps({"case": asdict(case), "rules": asdict(rules)}))
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.world}"]
        ranks = [*start, "-m", __name__, str(order), str(row)]
        done = subprocess.run(ranks, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, check=False)
        if not row.exists():
            lines = done.stderr.decode("utf-8", "replace").splitlines()
            said = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
            raise RuntimeError(said[-1].strip() if said else f"torchrun ended with exit code {done.returncode}")
        found: dict[str, Any] = read_json(row)
        return found


def main() -> None:
    """Measure as one of the ranks."""
    import torch.distributed as dist

    from ..measure.world import measure

    order, row = (Path(argument) for argument in sys.argv[1:3])
    asked: Mapping[str, Any] = read_json(order)
    case, world = Case(**asked["case"]), World.of_torchrun()
    if case.device == "cuda":
        world.take_gpu()
    else:
        os.sched_setaffinity(0, rank_slots(case)[world.local_rank])
    dist.init_process_group("gloo")  # carries a few numbers; nothing that is timed passes through it
    found = measure(case, Rules(**asked["rules"]), world)
    if found:
        write_whole(row, json.dumps(found.to_json()).encode())
    dist.barrier()
    dist.destroy_process_group()


def rank_slots(case: Case) -> list[tuple[int, ...]]:
    """Cores of each rank of a case on this machine. Raises UsageError where ranks would share them."""
    slots = core_slots(case.threads or 1)
    if len(slots) < case.world:
        raise UsageError(
            f"--world {case.world} with {case.threads} threads each needs {case.world * (case.threads or 1)} cores of "
            f"their own; this machine has {len(slots) * (case.threads or 1)} for them: cores would be shared"
        )
    return [slot.cpus for slot in slots]


if __name__ == "__main__":
    main()
