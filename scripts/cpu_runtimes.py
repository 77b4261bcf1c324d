#!/usr/bin/env python3
"""All runtimes of a processor on the same networks: the table and the picture of docs/results.md.

    python scripts/cpu_runtimes.py                                  every cell of the table, three processes each
    python scripts/cpu_runtimes.py --model dic_s --batch 1,8 --threads 1,2 --processes 1
    python scripts/cpu_runtimes.py --summary                        ratios, ranking and picture of what is stored

A cell is a network, a batch and a number of threads. Each of its processes proves every runtime against eager and
times all of them interleaved, so that a neighbour on the machine slows them alike; what the file holds already is not
measured again. Ratios are medians of pairs of blocks, with their 95 % intervals.
"""

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from convbench import backends  # noqa: E402
from convbench.environment import cores  # noqa: E402
from convbench.files import write_whole  # noqa: E402
from convbench.measure.annotated import with_ratio  # noqa: E402
from convbench.measure.feasible import unsupported  # noqa: E402
from convbench.measure.forward import measure  # noqa: E402
from convbench.reports.plots import ratio_bars  # noqa: E402
from convbench.reports.plots.figures import svg  # noqa: E402
from convbench.reports.runs import read_runs  # noqa: E402
from convbench.schema import Case  # noqa: E402
from convbench.store import append, read  # noqa: E402
from convbench.timing.clock import Rules  # noqa: E402
from convbench.timing.compare import DELTA, compare_blocks  # noqa: E402

OUT = ROOT / "results" / "cpu-runtimes" / "rows.jsonl"
PICTURE = ROOT / "docs" / "cpu-runtimes.svg"
MODELS = "dic_s,dico_s,fcdm_s,dit_s_2,dic_b,dico_b,fcdm_b,dit_b_2"
RUNTIMES = "eager,winograd,aoti,onnxruntime,openvino,ncnn,mnn,ncnn_direct,mnn_direct"
OURS, FIRST = "winograd", "eager"
RES = 256
# Blocks of one step or more; on a shared machine many short blocks, and no end of patience for a narrow interval.
RULES = Rules(block_s=0.05, warmup_s=0.2, min_s=1, cap_s=6, min_blocks=15, half_width=0.03)

Cell = tuple[Any, ...]  # model, batch, threads, process


def measured(model: str, batch: int, threads: int, process: int, runtimes: list[str], out: Path) -> None:
    """Measure one cell in this process, and append a row for each runtime with its ratio over eager."""
    cases = [Case(model, RES, batch, name, threads=threads, repeat=process) for name in runtimes]
    cases = [case for case in cases if unsupported(case) is None]
    rows = measure(cases, RULES)
    first = next((row for row in rows if row.backend == FIRST and row.status == "ok"), None)
    for row in rows:
        compared = first is not None and row is not first and row.status == "ok"
        found = compare_blocks(first.block_s, row.block_s, DELTA["cpu"]) if first and compared else None
        bare = replace(row, compared_with=None, ratio=None, ratio_low=None, ratio_high=None, difference=None)
        append(out, with_ratio(row, first.case, found) if first and found else bare)
        print(f"{row.case}: {row.status} {row.verdict or ''} {row.images_per_s or 0:.2f} images/s", flush=True)


def cells_of(rows: list[dict[str, Any]]) -> dict[Cell, dict[str, dict[str, Any]]]:
    """Rows by runtime, by model, batch, threads and process."""
    cells: dict[Cell, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok":
            cells.setdefault((row["model"], row["batch"], row["threads"], row["repeat"]), {})[row["backend"]] = row
    return cells


def lead(cells: dict[Cell, dict[str, dict[str, Any]]]) -> list[str]:
    """Our kernels over the fastest other runtime of each cell and process, from the paired blocks, in Markdown."""
    lines = ["| model | batch | threads | process | fastest other | ours over it | 95 % | load |", "|" + " --- |" * 8]
    for (model, batch, threads, process), found in sorted(cells.items()):
        others = {name: row for name, row in found.items() if name != OURS}
        if OURS not in found or not others:
            continue
        best = max(others.values(), key=lambda row: row["images_per_s"])
        ratio = compare_blocks(best["block_s"], found[OURS]["block_s"], DELTA["cpu"])
        load = found[OURS]["load"].get("load_average")
        parts = [model, batch, threads, process, best["backend"], f"{ratio.ratio:.2f}"]
        lines.append(line_of([*parts, f"{ratio.low:.2f}-{ratio.high:.2f}", load and f"{load:.1f}"]))
    return lines


def ranking(cells: dict[Cell, dict[str, dict[str, Any]]]) -> list[str]:
    """Models of the same batch and threads in eager mode, and each by its fastest runtime: ranks and images/s."""
    lines = ["| batch | threads | model | eager | rank | fastest | images/s | rank |", "|" + " --- |" * 8]
    conditions = sorted({(batch, threads) for _, batch, threads, process in cells if process == 1})
    for batch, threads in conditions:
        speeds = {}
        for (model, *rest), found in cells.items():
            if rest == [batch, threads, 1] and FIRST in found:
                best = max(found.values(), key=lambda row: row["images_per_s"])
                speeds[model] = found[FIRST]["images_per_s"], best["images_per_s"], best["backend"]
        places = [sorted(speeds, key=lambda model: -speeds[model][kind]) for kind in (0, 1)]
        for model in places[1] if len(speeds) > 1 else []:
            eager, fastest, name = speeds[model]
            ranks = [place.index(model) + 1 for place in places]
            lines.append(line_of([batch, threads, model, f"{eager:.1f}", ranks[0], name, f"{fastest:.1f}", ranks[1]]))
    return lines


def line_of(parts: list[Any]) -> str:
    return f"| {' | '.join(map(str, parts))} |"


def report(out: Path) -> None:
    """Print both tables and draw the ratios over eager."""
    cells = cells_of(read(out))
    print("\n".join([*lead(cells), "", *ranking(cells)]))
    figure = ratio_bars.ratio_bars(
        ratio_bars.to_counterparts(read_runs([out]).frame), "Runtimes of a processor over eager PyTorch"
    )
    write_whole(PICTURE, svg(figure).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODELS)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--threads", default=",".join(map(str, sorted({1, cores()}))))
    parser.add_argument("--runtimes", default=RUNTIMES)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--summary", action="store_true", help="only the tables and the picture")
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)  # one cell, in this process
    asked = parser.parse_args()
    runtimes = asked.runtimes.split(",")
    for name in runtimes:
        backends.require(name)
    if asked.process:
        return measured(asked.model, int(asked.batch), int(asked.threads), asked.process, runtimes, asked.out)
    if not asked.summary:
        axes = (range(1, asked.processes + 1), *(text.split(",") for text in (asked.model, asked.batch, asked.threads)))
        for process, model, batch, threads in itertools.product(*axes):
            held = {row["case"] for row in (read(asked.out) if asked.out.exists() else [])}
            case = Case(model, RES, int(batch), FIRST, threads=int(threads), repeat=process)
            if case.id in held:
                continue
            cell = ["--model", model, "--batch", batch, "--threads", threads, "--process", str(process)]
            line = [sys.executable, __file__, *cell, "--runtimes", asked.runtimes, "--out", str(asked.out)]
            if subprocess.run(line, check=False, cwd=ROOT).returncode:
                print(f"{json.dumps(cell)} failed", file=sys.stderr)
    report(asked.out)


if __name__ == "__main__":
    main()
