#!/usr/bin/env python3
"""Patch-parallel inference on this machine's processors, over gloo: error against one process, and bytes moved.

    python scripts/patch_parallel.py                          DiC-S, DiCo-S and FCDM-S at 1024 px, two ranks
    python scripts/patch_parallel.py --model dico_s --res 256 --ranks 4 --json

The errors are relative L2 errors of the output: of the strips against one process in fp64; in fp32 of the strips and of
one process against that, and of the strips against one process. Bytes and messages are those that the rank with most
neighbours sends in one forward pass of one image in fp32; in half precision, half as many bytes. The speeds are
MODELLED, not measured: T(n) = T(1) / n + messages x latency + bytes / bandwidth, with the links of catalogue/links.toml
and T(1) = 2 MACs / (SHARE x the bf16 peak of the data sheet). They say where an exchange would cost more than it saves.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHARE = 0.4  # of the peak that a network reaches: an assumption
KEYS = ("halo_bytes", "halo_messages", "reduced_bytes", "reductions")
CATALOGUE = ROOT / "convbench" / "catalogue"


def measured(models: list[str], res: int, ranks: int, out: Path) -> None:
    """One rank, under torchrun: compute in strips; the first also computes alone and writes the rows."""
    import torch
    import torch.distributed as dist

    from convbench import catalogue
    from convbench.checks.output import input_sets, worst_error
    from convbench.measure import patches
    from convbench.models import create
    from convbench.models.counts import count_variant
    from convbench.schema import Case

    dist.init_process_group("gloo")
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
    rank, rows = dist.get_rank(), []
    for model in models:
        variant = catalogue.find(model)
        x, t, y = input_sets(Case(model, res, 1))[0]
        patches.require_splittable(variant, x.shape[2], ranks)
        row: dict[str, Any] = {"model": model, "res": res, "ranks": ranks}
        oracle = torch.empty(0)
        for kind in (torch.float64, torch.float32):
            network, x = create(model, res=res).to(kind), x.to(kind)
            with torch.inference_mode():
                output, traffic = patches.forward(network, x, t, y, rank, ranks)
                if rank == 0:
                    alone = network(x, t, y)
                    row[f"error_{str(kind)[6:]}"] = worst_error(output, alone)
                    if kind == torch.float64:
                        oracle = alone
                    else:
                        row |= {"from_fp64": worst_error(output, oracle), "alone_from_fp64": worst_error(alone, oracle)}
            if kind == torch.float32:
                sent = torch.tensor([getattr(traffic, key) for key in KEYS])
                dist.all_reduce(sent, dist.ReduceOp.MAX)
                row |= dict(zip(KEYS, sent.tolist(), strict=True))
        rows.append(row | {"macs": count_variant(variant, res).macs})
    if rank == 0:
        out.write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


def modelled(row: dict[str, Any]) -> dict[str, float]:
    """Speed of the ranks over one GPU by the formula of this script's head, in bf16, for each link. MODELLED."""
    links = tomllib.loads((CATALOGUE / "links.toml").read_text("utf-8"))
    devices = tomllib.loads((CATALOGUE / "devices.toml").read_text("utf-8"))
    found = {}
    for key, link in links.items():
        alone_s = 2 * row["macs"] / (SHARE * devices[link["device"]]["flops_per_s"]["bf16"])
        messages = row["halo_messages"] / max(1, min(2, row["ranks"] - 1)) + row["reductions"]  # both sides at once
        moved_s = (row["halo_bytes"] + row["reduced_bytes"] * (row["ranks"] - 1)) / 2 / link["bytes_per_s"]
        found[key] = alone_s / (alone_s / row["ranks"] + messages * link["latency_s"] + moved_s)
    return found


def rows_of(models: list[str], res: int, ranks: int) -> list[dict[str, Any]]:
    """Start the ranks and return their rows."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "rows.json")
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", __file__]
        worker = ["--rank-of", str(out), "--model", ",".join(models), "--res", str(res), "--ranks", str(ranks)]
        done = subprocess.run([*start, *worker], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "Error: " in line]
            sys.exit(lines[0].partition("Error: ")[2] if lines else done.stderr[-2000:])
        rows: list[dict[str, Any]] = json.loads(out.read_text())
    return [row | {f"modelled_speedup_{link}": speed for link, speed in modelled(row).items()} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dic_s,dico_s,fcdm_s")
    parser.add_argument("--res", type=int, default=1024)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank_of:
        measured(asked.model.split(","), asked.res, asked.ranks, asked.rank_of)
        return
    rows = rows_of(asked.model.split(","), asked.res, asked.ranks)
    if asked.json:
        print(json.dumps(rows, indent=1))
        return
    errors = ["fp64", "fp32, from fp64", "one process, from fp64", "fp32"]
    head = ["model", "px", "ranks", *errors, "halo MB", "messages", "reduced kB", "sums"]
    head += ["NVLink, modelled", "PCIe, modelled"]
    print(f"| {' | '.join(head)} |")
    print(f"| {' | '.join(['---', *['---:'] * (len(head) - 1)])} |")
    for row in rows:
        cells = [row["model"], row["res"], row["ranks"]]
        cells += [f"{row[key]:.1e}" for key in ("error_float64", "from_fp64", "alone_from_fp64", "error_float32")]
        cells += [
            f"{row['halo_bytes'] / 1e6:.2f}",
            row["halo_messages"],
            f"{row['reduced_bytes'] / 1e3:.1f}",
            row["reductions"],
        ]
        cells += [f"{row[f'modelled_speedup_{link}']:.2f}x" for link in ("nvlink", "pcie")]
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
