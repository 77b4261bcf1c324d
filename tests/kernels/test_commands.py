"""``convbench kernels``: its commands, their tables, exit codes and messages; a simulated GPU where one is needed."""

import csv
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contract import DONE, FAILED, INTERRUPTED, NOTHING_MEASURED, USAGE
from simulated_bench import SHAPE, SimulatedGpu, pass_bytes

from convbench.cli import main
from convbench.kernels.aot import compiler
from convbench.kernels.bench import stopwatch
from convbench.kernels.bench.plan import plan
from convbench.kernels.bench.rows import Unmeasured
from convbench.kernels.ops.gate_residual import KERNELS as GATE

ROOT = Path(__file__).parents[2]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def convbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(line: str, *more: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(line), *map(str, more)])
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, shown.out, shown.err

    return run


def test_the_list_names_every_kernel(convbench: Run) -> None:
    code, out, _ = convbench("kernels --format json")
    rows = {row["kernel"]: row for row in json.loads(out)}
    assert code == DONE
    assert set(rows) >= {"depthwise_gelu", "depthwise_7x7", "layer_norm_modulate", "group_norm_gelu", "gate_residual"}
    assert rows["gate_residual"]["min_bytes"] == 3 * pass_bytes(SHAPE) + 2 * 384 * 2
    assert rows["gate_residual"]["families"] == "DiC"
    assert all(row["replaces"] and row["summary"] for row in rows.values())
    _, table, _ = convbench("kernels")
    assert all(name in table for name in rows)
    assert "least MB" in " ".join(table.split())


def test_the_check_says_which_path_it_checked(convbench: Run) -> None:
    code, out, err = convbench("kernels check --kernel gate_residual,response_factors --precision fp32,bf16")
    assert code == DONE, err
    assert "PyTorch reference" in out
    assert "No GPU is available" in out
    assert "[4 of 4] response_factors bf16" in err
    code, out, _ = convbench("kernels check --kernel gate_residual --format csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["precision"] for row in rows] == ["fp32", "fp16", "bf16"]
    assert {row["status"] for row in rows} == {"ok"}


def test_a_check_that_fails_ends_with_one(convbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(GATE[0], op=lambda x, *others: x)
    monkeypatch.setattr("convbench.kernels.registry.all_kernels", lambda: (wrong,))
    code, out, _ = convbench("kernels check --precision bf16")
    assert code == FAILED
    assert "wrong" in out


ROWS = [
    {
        "kernel": "gate_residual",
        "configuration": "gate_residual 32x128",
        "precision": "bf16",
        "target": target,
        "triton": "3.9.0",
        "error": None,
        "seconds": 0.2,
        "registers": 64,
        "stack": 0,
        "local": 0,
        "shared": 512,
        "instructions": 336,
        "spills": 0,
        "loads": 10,
        "loads_128": 8,
        "mma": 0,
        "cached": False,
    }
    for target in ("sm_80", "sm_90")
]


def test_the_compile_table(convbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        compiler, "compile_for", lambda target, *_, **__: [row for row in ROWS if row["target"] == target]
    )
    code, out, _ = convbench("kernels compile --target sm_80,sm_90 --kernel gate_residual")
    assert code == DONE
    assert "Triton 3.9.0" in out
    lines = [line.split() for line in out.splitlines() if "sm_" in line]
    assert [line[-9:] for line in lines] == [
        ["sm_80", "64", "0", "0", "0.5", "8", "10", "0", "0.2"],
        ["sm_90", "64", "0", "0", "0.5", "8", "10", "0", "0.2"],
    ]
    code, out, _ = convbench("kernels compile --target sm_90 --kernel gate_residual --format json")
    assert json.loads(out) == [ROWS[1]]
    bad = {key: ROWS[0][key] for key in ("kernel", "configuration", "precision", "target", "triton")}
    monkeypatch.setattr(compiler, "compile_for", lambda *_, **__: [{**bad, "error": "PTXASError: no"}])
    code, out, _ = convbench("kernels compile --target sm_80 --kernel gate_residual")
    assert code == FAILED
    assert "gate_residual gate_residual 32x128 bf16 sm_80 does not compile: PTXASError: no" in out


def test_the_bench_needs_a_gpu(convbench: Run) -> None:
    code, out, err = convbench("kernels bench")
    assert (code, out) == (NOTHING_MEASURED, "")
    assert err.count("\n") == 1
    assert "convbench: kernels bench needs an NVIDIA GPU, and none is available" in err


def test_the_plan_needs_no_gpu(convbench: Run) -> None:
    line = "kernels bench --kernel gate_residual --res 256 --batch 1,2 --dry-run --format json"
    code, out, err = convbench(line)
    rows = json.loads(out)
    assert code == DONE
    assert {(row["kernel"], row["batch"], row["on"]) for row in rows} == {("gate_residual", n, None) for n in (1, 2)}
    assert f"{len(rows)} rows to measure" in err
    code, out, _ = convbench(f"{line} --launcher ray --on h100,a100 --out x.jsonl")
    assert (code, len(json.loads(out))) == (DONE, 2 * len(rows))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--check", "No such option '--check'"),
        ("frobnicate", "unknown command 'frobnicate' of kernels; choose from list, check, bench, products, compile"),
        ("--kernel nonsense", "unknown kernel 'nonsense'; choose from channel_gates, "),
        ("check --precision tf32", "unknown kernel precision 'tf32'; choose from fp32, fp16, bf16"),
        ("compile --target sm_12", "unknown GPU target 'sm_12'; choose from sm_80, "),
        ("--batch 4", "No such option '--batch'"),
        ("list --out rows.jsonl", "No such option '--out'"),
        ("bench --batch 0", "--res and --batch must be at least 1"),
        ("bench --res -1", "--res and --batch must be at least 1"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(convbench: Run, line: str, said: str) -> None:
    code, out, err = convbench(f"kernels {line}")
    assert (code, out, err.count("\n")) == (USAGE, "", 1)
    assert said in err


@pytest.fixture
def on_a_gpu(convbench: Run, monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    """The command with a simulated GPU under it."""
    gpu = SimulatedGpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(stopwatch, "Stopwatch", lambda: gpu)
    return gpu


def test_the_bench_table(convbench: Run, on_a_gpu: SimulatedGpu, tmp_path: Path) -> None:
    line = f"kernels bench --kernel gate_residual --res 256 --out {tmp_path / 'rows.jsonl'}"
    code, out, err = convbench(line)
    assert code == DONE, err
    assert err.startswith("6 rows to measure, about 17 s.\n")
    assert "[6 of 6] gate_residual/dic_xl/256px/level3/1536/b32/bf16" in err
    assert "cold µs" in " ".join(out.split())
    assert "dic_xl 256 px level 1: 384 at 32x32" in out
    code, out, err = convbench(f"{line} --format json")
    assert (code, len(json.loads(out)), len(on_a_gpu.asked)) == (DONE, 6, 6)
    assert err.startswith("0 rows to measure, about 0 s; 6 already in the file.")


def test_a_bench_of_nothing_and_one_where_all_fails(convbench: Run, on_a_gpu: SimulatedGpu) -> None:
    code, _, err = convbench("kernels bench --kernel gate_residual --res 1024")
    assert (code, "the kernels have no shapes for this --res; choose from 256, 512" in err) == (USAGE, True)
    works = plan(GATE, ["bf16"], [8], [256])
    on_a_gpu.fails = {work.id: Unmeasured("failed", "no such instruction") for work in works}
    code, out, err = convbench("kernels bench --kernel gate_residual --res 256 --batch 8")
    assert code == NOTHING_MEASURED
    assert "gate_residual/dic_xl/256px/level1/384/b8/bf16: failed, no such instruction" in out
    assert "no kernel could be measured" in err


@pytest.mark.parametrize("command", ["", "list", "check", "bench", "compile"])
def test_help_loads_no_torch(command: str) -> None:
    program = (
        "import sys; from convbench.cli import contents\n"
        f"try: contents.main(['kernels', *{command.split()}, '--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False False\n")


def test_an_interrupted_bench_shows_what_it_has(convbench: Run, on_a_gpu: SimulatedGpu, tmp_path: Path) -> None:
    works = plan(GATE, ["bf16"], [8], [256])
    on_a_gpu.fails = {works[2].id: KeyboardInterrupt()}
    out_file = tmp_path / "rows.jsonl"
    code, out, _ = convbench(f"kernels bench --kernel gate_residual --res 256 --batch 8 --out {out_file} --format json")
    assert (code, [row["case"] for row in json.loads(out)]) == (INTERRUPTED, [work.id for work in works[:2]])
    assert len(out_file.read_text().splitlines()) == 2


@pytest.mark.parametrize("line", ["", "--kernel pointwise", "--format csv", "--kernel pointwise --format json"])
def test_the_list_is_the_default(convbench: Run, line: str) -> None:
    assert convbench(f"kernels {line}") == convbench(f"kernels list {line}")
