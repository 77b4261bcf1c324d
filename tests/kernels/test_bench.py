"""The bench of the kernels without a GPU: its plan, its arithmetic, what it keeps and resumes; and the command line.

What only a GPU can show, timing itself, is in test_kernels_gpu.py.
"""

import csv
import io
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract import DONE, FAILED, NOTHING_MEASURED, USAGE

from convbench import store
from convbench.cli import COMMANDS, main
from convbench.errors import UsageError
from convbench.kernels import aot
from convbench.kernels import check as checking
from convbench.kernels.bench import bench, stopwatch
from convbench.kernels.ops.gate_residual import KERNELS as GATE
from convbench.kernels.ops.group_norm import KERNELS as NORM
from convbench.kernels.schema import Shape
from convbench.schema import Case, Measurement

ROOT = Path(__file__).parents[2]
KERNELS = (*NORM, *GATE)
SHAPE = Shape("dic_xl", 256, 1, channels=384, height=32, width=32)
U = 32 * 32 * 384 * 2  # bytes of one pass over a sample in half precision


def timing(seconds: float) -> bench.Timing:
    return bench.Timing(seconds, 0.9 * seconds, 1.2 * seconds)


MEASURED = bench.Measured(
    cold=timing(50e-6),
    hot=timing(40e-6),
    eager=timing(150e-6),
    compiled=timing(75e-6),
    why_not_compiled="",
    copy_bytes_per_s=4e12,
    peak_flops_per_s=6e14,
    error=1.6e-3,
    error_eager=2.5e-3,
)


def plan(**other: Any) -> list[bench.Work]:
    known = {"precisions": ["bf16"], "batches": (32, 64), "resolutions": (256, 512)} | other
    return bench.plan(KERNELS, **known)


def test_the_plan_holds_every_cell_once_and_the_important_first() -> None:
    works = plan()
    assert len({work.id for work in works}) == len(works) == 2 * 3 * 2 * 2  # kernels, levels, batches, resolutions
    assert [work.shape.level for work in works] == sorted(work.shape.level for work in works)
    assert [(w.shape.res, w.batch, w.kernel.name) for w in works[:4]] == [
        (256, 64, "group_norm_gelu"),
        (256, 64, "gate_residual"),
        (256, 32, "group_norm_gelu"),
        (256, 32, "gate_residual"),
    ]
    assert {work.batch for work in works if work.compiled} == {64}
    assert plan(resolutions=(1024,)) == []


def test_two_precisions_come_one_after_the_other() -> None:
    works = plan(precisions=["bf16", "fp32"])
    assert [work.precision for work in works] == ["bf16"] * 24 + ["fp32"] * 24


def test_the_plan_says_how_long_it_takes() -> None:
    works = plan()
    seconds = sum(work.expected_s for work in works)
    assert seconds == pytest.approx(24 * bench.ROW_S + 12 * bench.COMPILE_S)
    assert bench.summary(works, 0, 1e4) == f"24 rows to measure, about {seconds:.0f} s."
    told = bench.summary(works[:2], 22, 5)
    assert "2 rows to measure" in told
    assert "22 already in the file" in told
    assert "torch.compile is left out of the last rows to stay near 5 s" in told


def test_the_bytes_are_those_of_the_passes() -> None:
    """Against counts by hand: 3 U for both ops of a DiC block, and what a sample and a channel add."""
    norm, gate = (bench.Work(kernel, SHAPE, 32, "bf16", True) for kernel in KERNELS)
    assert norm.min_bytes == 32 * 3 * U + (2 * 32 + 3) * 384 * 2
    assert gate.min_bytes == 32 * 3 * U + (32 + 1) * 384 * 2
    assert replace(gate, precision="fp32").min_bytes == 2 * gate.min_bytes


def test_a_row_is_arithmetic_on_what_was_measured() -> None:
    work = bench.Work(GATE[0], SHAPE, 32, "bf16", True)
    row = bench.row_of(work, MEASURED, {"gpu": "simulated", "registers": 52})
    least = work.min_bytes
    assert row["case"] == "gate_residual/dic_xl/256px/level1/384/b32/bf16"
    assert row["bytes_per_s"] == pytest.approx(least / 50e-6)
    assert row["copy_fraction"] == pytest.approx(least / 50e-6 / 4e12)
    assert row["copy_fraction_hot"] == pytest.approx(least / 40e-6 / 4e12)
    assert (row["over_eager"], row["over_compile"]) == (pytest.approx(3.0), pytest.approx(1.5))
    assert (row["cold_s"], row["cold_s_p20"], row["cold_s_p80"]) == pytest.approx((50e-6, 45e-6, 60e-6))
    assert row["roofline_fraction"] == row["copy_fraction"]  # no products: the memory is the roof
    assert (row["status"], row["gpu"], row["registers"]) == ("ok", "simulated", 52)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_the_roof_of_a_product_is_the_lower_one() -> None:
    busy = replace(GATE[0], flops=lambda shape, batch: 15_000_000_000)
    row = bench.row_of(bench.Work(busy, SHAPE, 32, "bf16", True), MEASURED, {})
    assert row["flops_per_s"] == pytest.approx(15e9 / 50e-6)
    assert row["roofline_fraction"] == pytest.approx(15e9 / 6e14 / 50e-6)
    assert row["roofline_fraction"] > row["copy_fraction"]


def test_without_compile_its_columns_are_unknown() -> None:
    measured = replace(MEASURED, compiled=None, why_not_compiled="torch.compile is measured at the largest batch")
    row = bench.row_of(plan()[0], measured, {})
    assert row["compile_s"] is None
    assert row["over_compile"] is None
    assert row["reason"] == "torch.compile is measured at the largest batch"


def test_an_output_of_nan_is_wrong_and_not_a_number() -> None:
    row = bench.row_of(plan()[0], replace(MEASURED, error=float("inf")), {})
    assert (row["status"], row["error"]) == ("wrong", None)
    assert "not finite" in row["reason"]
    json.dumps(row, allow_nan=False)


class Simulated:
    """A GPU whose rows take the seconds that the plan expects, or as many times that."""

    def __init__(self, slower: float = 1.0) -> None:
        self.now, self.slower = 0.0, slower
        self.asked: list[tuple[str, bool]] = []
        self.fails: dict[str, Exception] = {}

    def measure(self, work: bench.Work, with_compile: bool) -> bench.Measured:
        self.asked.append((work.id, with_compile))
        self.now += self.slower * (bench.ROW_S + (bench.COMPILE_S if with_compile else 0))
        if work.id in self.fails:
            raise self.fails[work.id]
        return MEASURED if with_compile else replace(MEASURED, compiled=None)

    def run(self, works: list[bench.Work], out: Path | None = None, budget: float = 1e6) -> list[dict[str, Any]]:
        return list(bench.run(works, out, self.measure, lambda work: {"gpu": "x"}, lambda: self.now, budget))


def test_rows_are_kept_and_not_measured_again(tmp_path: Path) -> None:
    works, out = plan(), tmp_path / "rows.jsonl"
    first = Simulated().run(works[:5], out)
    again = Simulated()
    rows = again.run(works[:8], out)
    assert [id for id, _ in again.asked] == [work.id for work in works[5:8]]
    assert [row["case"] for row in rows] == [work.id for work in works[:8]]
    assert [{key: row[key] for key in first[0]} for row in rows[:5]] == first
    assert set(rows[0]) - set(first[0]) == {"schema"}  # nothing of a network's measurement
    assert len(out.read_text().splitlines()) == 8


def test_a_torn_line_is_measured_again(tmp_path: Path) -> None:
    works, out = plan(), tmp_path / "rows.jsonl"
    Simulated().run(works[:3], out)
    out.write_bytes(out.read_bytes()[:-30])
    again = Simulated()
    again.run(works[:3], out)
    assert [id for id, _ in again.asked] == [works[2].id]
    assert len(bench.held_rows(out)) == 3


def test_one_row_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    works, out = plan()[:4], tmp_path / "rows.jsonl"
    gpu = Simulated()
    gpu.fails[works[1].id] = bench.Unmeasured("out_of_memory", "CUDA out of memory")
    rows = gpu.run(works, out)
    assert [row["status"] for row in rows] == ["ok", "out_of_memory", "ok", "ok"]
    assert rows[1]["reason"] == "CUDA out of memory"
    again = Simulated()
    assert [row["status"] for row in again.run(works, out)] == ["ok"] * 4
    assert [id for id, _ in again.asked] == [works[1].id]  # a failed row is tried again


def test_an_interruption_keeps_what_is_measured(tmp_path: Path) -> None:
    works, out = plan(), tmp_path / "rows.jsonl"
    gpu = Simulated()
    gpu.fails[works[2].id] = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        gpu.run(works, out)
    assert list(bench.held_rows(out)) == [work.id for work in works[:2]]


@pytest.mark.parametrize("slower", [0.5, 1.0, 1.5])
def test_compile_gives_way_when_time_runs_out(slower: float) -> None:
    works, gpu = plan(), Simulated(slower)
    rows = gpu.run(works, budget=45)
    assert len(rows) == 24
    wanted = [work.id for work in works if work.compiled]
    done = [id for id, with_compile in gpu.asked if with_compile]
    assert done == wanted[: len(done)]  # the important ones
    assert 0 < len(done) < len(wanted) or slower < 1
    assert gpu.now <= 45 * max(1.0, slower)
    left_out = [row for row in rows if row["case"] in wanted and row["compile_s"] is None]
    assert len(left_out) == len(wanted) - len(done)
    assert all(row["reason"] == "torch.compile left out: the run would have outlasted 45 s" for row in left_out)


def test_a_file_of_networks_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    store.append(out, Measurement.of(Case("dic_xl", 256, 1)))
    with pytest.raises(UsageError, match="holds measurements of networks, not of kernels"):
        bench.held_rows(out)


def test_buffers_outgrow_three_caches() -> None:
    megabyte = 2**20
    for size in (1, 7 * megabyte, 60 * megabyte, 500 * megabyte):
        sets = stopwatch.buffer_sets(size, 60 * megabyte)
        assert (sets - 1) * size >= 3 * 60 * megabyte or sets == 2
        count = stopwatch.launches(sets)
        assert count >= stopwatch.LAUNCHES
        assert count % sets == 0
    assert stopwatch.buffer_sets(500 * megabyte, 60 * megabyte) == 2


def test_the_bytes_of_a_buffer_set_are_those_of_its_tensors() -> None:
    values = (torch.zeros(3, 4), 7, None, torch.zeros(5, dtype=torch.float16))
    assert stopwatch.tensor_bytes(values) == 48 + 10
    assert stopwatch.tensor_bytes((values, torch.zeros(1))) == 62


def test_a_timing_is_the_median_between_its_quantiles() -> None:
    assert stopwatch.timing_of([3.0, 1.0, 2.0, 5.0, 4.0]) == bench.Timing(3.0, 1.0, 4.0)


def test_which_kernels_run_on_the_fp32_units_is_said_of_kernels_that_exist() -> None:
    from convbench.kernels import all_kernels

    known = {kernel.name for kernel in all_kernels()}
    assert set(bench.ON_CORES) <= known
    assert {name for name in known if name.startswith("depthwise")} == set(bench.ON_CORES)


class Event:
    """Of a GPU that is the host: work is done when it returns."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end.at - self.at) + 1e-3


class HostGraph:
    def replay(self) -> None:
        """What it was captured from has run already."""


@pytest.fixture
def host_gpu(monkeypatch: pytest.MonkeyPatch) -> stopwatch.Stopwatch:
    """The stopwatch as it is, on the calls of torch.cuda that it makes."""
    facts = {"name": "host", "major": 9, "minor": 0, "L2_cache_size": 2**16}
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stands_in in {
        "get_device_properties": lambda index: SimpleNamespace(**facts),
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: nullcontext(),
        "graph": lambda graph: nullcontext(),
        "CUDAGraph": HostGraph,
        "Event": Event,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stands_in)
    monkeypatch.setattr(stopwatch, "COPY_BYTES", 2**12)
    monkeypatch.setattr(stopwatch, "PRODUCT_SIDE", dict.fromkeys(("fp32", "fp16", "bf16"), 16))
    return stopwatch.Stopwatch("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_stopwatch_calls_each_form_on_rotating_buffers(host_gpu: stopwatch.Stopwatch, precision: str) -> None:
    calls: dict[str, list[int]] = {"op": [], "eager": []}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: torch.Tensor, *others: Any) -> Any:
            calls[name].append(x.data_ptr())
            return function(x, *others)

        return call

    (kernel,) = GATE
    kernel = replace(kernel, op=counted("op", kernel.op), eager=counted("eager", kernel.eager))
    work = bench.Work(kernel, replace(SHAPE, channels=24, height=5, width=7), 4, precision, False)
    measured = host_gpu.measure(work, False)
    assert measured.compiled is None
    assert measured.why_not_compiled == "torch.compile is measured at the largest batch"
    assert 0 < measured.cold.p20 <= measured.cold.p50 <= measured.cold.p80
    assert measured.copy_bytes_per_s > 0
    assert set(host_gpu.peaks) == {precision}
    assert 0 < measured.error <= 1.05 * measured.error_eager

    size = 4 * 24 * 35 * (4 if precision == "fp32" else 2)
    sets = stopwatch.buffer_sets(3 * size + (24 + 4 * 72) * size // 3360, 2**16)
    cold = calls["op"][2 + 3 : -stopwatch.LAUNCHES - 1]  # behind the error, the size, three to warm up
    assert len(cold) == stopwatch.launches(sets)
    assert len(set(cold)) == sets
    assert cold[:sets] == cold[sets : 2 * sets]
    assert len(set(calls["op"][-stopwatch.LAUNCHES :])) == 1  # hot
    assert calls["eager"][-len(cold) :] == cold


def test_the_stopwatch_measures_compile_beside_it(
    host_gpu: stopwatch.Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench.Work(GATE[0], replace(SHAPE, channels=24, height=5, width=7), 4, "bf16", True)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    assert host_gpu.measure(work, True).compiled is not None

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no\ncompiler")

    monkeypatch.setattr(torch, "compile", fails)
    measured = host_gpu.measure(work, True)
    assert measured.compiled is None
    assert measured.why_not_compiled == "torch.compile failed: RuntimeError: no compiler"
    broken = replace(work, kernel=replace(work.kernel, op=fails))
    with pytest.raises(bench.Unmeasured, match="RuntimeError: no compiler"):
        host_gpu.measure(broken, False)

    def greedy(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")

    with pytest.raises(bench.Unmeasured, match=r"^CUDA out of memory$") as caught:
        host_gpu.measure(replace(work, kernel=replace(work.kernel, op=greedy)), False)
    assert caught.value.status == "out_of_memory"


def test_the_facts_are_those_of_the_gpu_and_the_gate(host_gpu: stopwatch.Stopwatch) -> None:
    pytest.importorskip("triton", reason="the facts name its version")
    facts = stopwatch.facts(bench.Work(GATE[0], SHAPE, 32, "bf16", True))
    assert (facts["gpu"], facts["target"]) == ("host", "sm_90")
    assert facts["registers"] == aot.budgeted("gate_residual", "bf16", "sm_90", facts["triton"]).get("registers")
    assert json.loads(json.dumps(facts)) == facts


# The check


def test_a_wrong_op_is_found() -> None:
    (kernel,) = GATE
    small = replace(SHAPE, channels=24, height=5, width=7)
    assert checking.check(kernel, small, "fp32", "cpu")["status"] == "ok"
    wrong = replace(kernel, op=lambda x, *others: kernel.op(x, *others) * (1 + 1e-6))
    row = checking.check(wrong, small, "fp32", "cpu")
    assert row["status"] == "wrong"
    assert row["error"] == pytest.approx(1e-6, rel=0.1)
    assert row["error"] > row["error_limit"]
    nothing = replace(kernel, op=lambda x, *others: torch.full_like(x, float("nan")))
    assert checking.check(nothing, small, "bf16", "cpu")["status"] == "wrong"


# The command line

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
    assert rows["gate_residual"]["min_bytes"] == 3 * U + 2 * 384 * 2
    assert rows["gate_residual"]["families"] == "DiC"
    assert all(row["replaces"] and row["summary"] for row in rows.values())
    _, table, _ = convbench("kernels")
    assert all(name in table for name in rows)
    assert "least MB" in " ".join(table.split())


def test_the_check_says_which_path_it_checked(convbench: Run) -> None:
    code, out, err = convbench("kernels --check --kernel gate_residual,response_factors --precision fp32,bf16")
    assert code == DONE, err
    assert "PyTorch reference" in out
    assert "No GPU here" in out
    assert "[4/4] response_factors bf16" in err
    code, out, _ = convbench("kernels --check --kernel gate_residual --format csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["precision"] for row in rows] == ["fp32", "fp16", "bf16"]
    assert {row["status"] for row in rows} == {"ok"}


def test_a_check_that_fails_ends_with_one(convbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(GATE[0], op=lambda x, *others: x)
    monkeypatch.setattr("convbench.kernels.all_kernels", lambda: (wrong,))
    code, out, _ = convbench("kernels --check --precision bf16")
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
    monkeypatch.setattr(aot, "compile_for", lambda target, *_, **__: [row for row in ROWS if row["target"] == target])
    code, out, _ = convbench("kernels --compile sm_80,sm_90 --kernel gate_residual")
    assert code == DONE
    assert "Triton 3.9.0" in out
    lines = [line.split() for line in out.splitlines() if "sm_" in line]
    assert [line[-9:] for line in lines] == [
        ["sm_80", "64", "0", "0", "0.5", "8", "10", "0", "0.2"],
        ["sm_90", "64", "0", "0", "0.5", "8", "10", "0", "0.2"],
    ]
    code, out, _ = convbench("kernels --compile sm_90 --kernel gate_residual --format json")
    assert json.loads(out) == [ROWS[1]]
    bad = {key: ROWS[0][key] for key in ("kernel", "configuration", "precision", "target", "triton")}
    monkeypatch.setattr(aot, "compile_for", lambda *_, **__: [{**bad, "error": "PTXASError: no"}])
    code, out, _ = convbench("kernels --compile sm_80 --kernel gate_residual")
    assert code == FAILED
    assert "gate_residual gate_residual 32x128 bf16 sm_80 does not compile: PTXASError: no" in out


def test_the_bench_needs_a_gpu(convbench: Run) -> None:
    code, out, err = convbench("kernels --bench")
    assert (code, out) == (NOTHING_MEASURED, "")
    assert err.count("\n") == 1
    assert "needs an NVIDIA GPU, and there is none here" in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--check --bench", "--check, --compile and --bench are three commands"),
        ("--check --compile sm_80", "--check, --compile and --bench are three commands"),
        ("--kernel nonsense", "unknown kernel 'nonsense': there are depthwise_gelu, "),
        ("--check --precision tf32", "unknown precision 'tf32' of a kernel: there are fp32, fp16, bf16"),
        ("--compile sm_12", "unknown GPU target 'sm_12': there are sm_80, "),
        ("--batch 4", "--res, --batch and --out belong to --bench"),
        ("--bench --batch 0", "--res and --batch take whole numbers from 1 on"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(convbench: Run, line: str, said: str) -> None:
    code, out, err = convbench(f"kernels {line}")
    assert (code, out, err.count("\n")) == (USAGE, "", 1)
    assert said in err


@pytest.fixture
def on_a_gpu(convbench: Run, monkeypatch: pytest.MonkeyPatch) -> Simulated:
    """The command with a simulated GPU under it."""
    gpu = Simulated()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(stopwatch, "Stopwatch", lambda: gpu)
    monkeypatch.setattr(stopwatch, "facts", lambda work: {"gpu": "simulated", "registers": 52})
    return gpu


def test_the_bench_table(convbench: Run, on_a_gpu: Simulated, tmp_path: Path) -> None:
    line = f"kernels --bench --kernel gate_residual --res 256 --out {tmp_path / 'rows.jsonl'}"
    code, out, err = convbench(line)
    assert code == DONE, err
    assert err.startswith("6 rows to measure, about ")
    assert "[6/6] gate_residual/dic_xl/256px/level3/1536/b32/bf16" in err
    assert "cold µs" in " ".join(out.split())
    assert "dic_xl 256 px level 1: 384 at 32x32" in out
    code, out, err = convbench(f"{line} --format json")
    assert (code, len(json.loads(out)), len(on_a_gpu.asked)) == (DONE, 6, 6)
    assert "0 rows to measure" in err


def test_a_bench_of_nothing_and_one_where_all_fails(convbench: Run, on_a_gpu: Simulated) -> None:
    code, _, err = convbench("kernels --bench --kernel gate_residual --res 1024")
    assert (code, "the kernels' shapes are those of 256, 512 px" in err) == (USAGE, True)
    works = bench.plan(GATE, ["bf16"], [8], [256])
    on_a_gpu.fails = {work.id: bench.Unmeasured("failed", "no such instruction") for work in works}
    code, out, err = convbench("kernels --bench --kernel gate_residual --res 256 --batch 8")
    assert code == NOTHING_MEASURED
    assert "gate_residual/dic_xl/256px/level1/384/b8/bf16: failed, no such instruction" in out
    assert "no kernel could be measured" in err


def test_help_loads_no_torch() -> None:
    program = (
        "import sys; from convbench.cli import contents\n"
        "try: contents.main(['kernels', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False False\n")
    assert "kernels" in COMMANDS
