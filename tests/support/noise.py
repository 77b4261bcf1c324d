"""Float32 noise of networks over instruction sets and threads: the source of the limits in tolerances.py.

Every golden is computed under several instruction sets and numbers of threads, one process for each instruction set.
Printed for each: the largest difference and the root mean square of the difference to the stored output of the official
implementation, and to our own output in float64. About an hour on two cores.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

INSTRUCTIONS = {
    "sse": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}
THREADS = (1, 2)


def main(ids: list[str]) -> None:
    from formula import IDS

    for id in ids or IDS:
        for name, variables in INSTRUCTIONS.items():
            subprocess.run([sys.executable, __file__, "--one", id, name], env={**os.environ, **variables}, check=True)


def one(id: str, instructions: str) -> None:
    import torch
    from formula import formula_model, golden
    from torch import Tensor, nn

    from convbench.catalogue import find

    stored = golden(id)
    model = formula_model(id, find(id).res)
    takes_tables = find(id).fixed_res
    wide: dict[str, Tensor] = {}

    def outputs(
        network: nn.Module, kind: torch.dtype = torch.float32
    ) -> Iterator[tuple[str, Callable[[], Tensor], Tensor]]:
        t, y = stored["t"], caption(stored)
        y = y.to(kind) if y.is_floating_point() else y
        yield "out", lambda: network(stored["x"].to(kind), t, y), stored["out"]
        if "out_64" in stored:
            yield "out_64", lambda: network(stored["x_64"].to(kind), t, y), stored["out_64"]
        if "out_cfg" in stored:
            half = stored["x_cfg"][:2].to(kind)

            def guided() -> Tensor:
                out = network(torch.cat([half, half]), stored["t_cfg"], stored["y_cfg"])
                found = out[2:, :3] + 1.5 * (out[:2, :3] - out[2:, :3])
                return torch.cat([torch.cat([found, found]), out[:, 3:]], dim=1)

            yield "out_cfg", guided, stored["out_cfg"]

    def note(case: str, threads: int, found: Tensor, expected: Tensor, exact: Tensor) -> None:
        row = {"id": id, "instructions": instructions, "case": case, "threads": threads}
        for name, reference in (("stored", expected), ("float64", exact)):
            difference = found.double() - reference.double()
            row[f"{name}_max"] = difference.abs().max().item()
            row[f"{name}_rms"] = difference.square().mean().sqrt().item()
        print(json.dumps(row), flush=True)

    with torch.inference_mode():
        file = Path(f"/tmp/noise_{id}.pt")
        if file.exists():
            wide = torch.load(file)
        else:
            double = copy.deepcopy(model).double()
            wide = {case: run() for case, run, _ in outputs(double, torch.float64)}
            del double
            torch.save(wide, file)
        for threads in THREADS:
            torch.set_num_threads(threads)
            for case, run, expected in outputs(model):
                note(case, threads, run(), expected, wide[case])
        if not takes_tables:
            model = model.to(memory_format=torch.channels_last)
            x = stored["x"].to(memory_format=torch.channels_last)
            note("channels_last", 2, model(x, stored["t"], stored["y"]), stored["out"], wide["out"])


def caption(stored):
    import numpy as np
    import torch
    from fill import generator

    if "y" in stored:
        return stored["y"]
    return torch.from_numpy(generator("y").standard_normal((2, 1, 120, 4096), dtype=np.float32))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        main(sys.argv[1:])
