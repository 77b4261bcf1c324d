"""The bench of the kernels without a GPU: its plan, its arithmetic, its loop that resumes from a file, its stopwatch.

What only a GPU can show, timing itself, is in tests/gpu/test_kernels.py.
"""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from simulated_bench import MEASURED, SHAPE, SimulatedGpu, pass_bytes

from convbench import store
from convbench.kernels import all_kernels
from convbench.kernels.aot.budgets import budgeted
from convbench.kernels.bench import graph_timing, rows, stopwatch
from convbench.kernels.bench.plan import AT_LARGEST_BATCH, COMPILE_S, ROW_S, Work, plan, summary
from convbench.kernels.ops.gate_residual import KERNELS as GATE
from convbench.kernels.ops.group_norm import KERNELS as NORM
from convbench.run.kernels import held_timings
from convbench.schema import Case, KernelTiming, Measurement

KERNELS = (*NORM, *GATE)


def planned(**other: Any) -> list[Work]:
    known = {"precisions": ["bf16"], "batches": (32, 64), "resolutions": (256, 512)} | other
    return plan(KERNELS, **known)


def test_the_plan_holds_every_cell_once_and_the_important_first() -> None:
    works = planned()
    assert len({work.id for work in works}) == len(works) == 2 * 3 * 2 * 2  # kernels, levels, batches, resolutions
    assert [work.shape.level for work in works] == sorted(work.shape.level for work in works)
    assert [(w.shape.res, w.batch, w.kernel.name) for w in works[:4]] == [
        (256, 64, "group_norm_gelu"),
        (256, 64, "gate_residual"),
        (256, 32, "group_norm_gelu"),
        (256, 32, "gate_residual"),
    ]
    assert {work.batch for work in works if not work.without_compile} == {64}
    assert planned(resolutions=(1024,)) == []


def test_two_precisions_come_one_after_the_other() -> None:
    works = planned(precisions=["bf16", "fp32"])
    assert [work.precision for work in works] == ["bf16"] * 24 + ["fp32"] * 24


def test_the_plan_says_how_long_it_takes() -> None:
    works = planned()
    seconds = sum(work.expected_s for work in works)
    assert seconds == pytest.approx(24 * ROW_S + 12 * COMPILE_S)
    assert summary(works, 0, 1e4) == f"24 rows to measure, about {seconds:.0f} s."
    told = summary(works[:2], 22, 5)
    assert "2 rows to measure" in told
    assert "22 already in the file" in told
    assert "the last rows skip torch.compile to stay near 5 s" in told


def test_the_bytes_are_those_of_the_passes() -> None:
    """Against counts by hand: three passes for both operations of a DiC block, and vectors of samples and channels."""
    norm, gate = (Work(kernel, SHAPE, 32, "bf16") for kernel in KERNELS)
    assert norm.min_bytes == 32 * 3 * pass_bytes(SHAPE) + (2 * 32 + 3) * 384 * 2
    assert gate.min_bytes == 32 * 3 * pass_bytes(SHAPE) + (32 + 1) * 384 * 2
    assert replace(gate, precision="fp32").min_bytes == 2 * gate.min_bytes


def test_a_row_is_arithmetic_on_what_was_measured() -> None:
    work = Work(GATE[0], SHAPE, 32, "bf16")
    row = rows.measured_row(work, MEASURED, {"gpu": "simulated", "registers": 52})
    least = work.min_bytes
    assert row.case == "gate_residual/dic_xl/256px/level1/384/b32/bf16"
    assert row.bytes_per_s == pytest.approx(least / 50e-6)
    assert row.copy_fraction == pytest.approx(least / 50e-6 / 4e12)
    assert row.copy_fraction_hot == pytest.approx(least / 40e-6 / 4e12)
    assert (row.over_eager, row.over_compile) == (pytest.approx(3.0), pytest.approx(1.5))
    assert (row.cold_s, row.cold_s_p20, row.cold_s_p80) == pytest.approx((50e-6, 45e-6, 60e-6))
    assert row.roofline_fraction == row.copy_fraction  # no products: the memory is the roof
    assert (row.status, row.gpu, row.registers) == ("ok", "simulated", 52)
    assert KernelTiming.from_json(json.loads(json.dumps(row.to_json(), allow_nan=False))) == row


def test_the_roof_of_a_product_is_the_lower_one() -> None:
    busy = replace(GATE[0], flops=lambda shape, batch: 15_000_000_000)
    row = rows.measured_row(Work(busy, SHAPE, 32, "bf16"), MEASURED, {})
    assert row.flops_per_s == pytest.approx(15e9 / 50e-6)
    assert row.roofline_fraction == pytest.approx(15e9 / 6e14 / 50e-6)
    assert row.roofline_fraction > row.copy_fraction


def test_without_compile_its_columns_are_unknown() -> None:
    measured = replace(MEASURED, compiled=None, why_not_compiled=AT_LARGEST_BATCH)
    row = rows.measured_row(planned()[0], measured, {})
    assert row.compile_s is None
    assert row.over_compile is None
    assert row.reason == AT_LARGEST_BATCH


def test_an_output_of_nan_is_wrong_and_not_a_number() -> None:
    row = rows.measured_row(planned()[0], replace(MEASURED, error=float("inf")), {})
    assert (row.status, row.error) == ("wrong", None)
    assert "not finite" in row.reason
    json.dumps(row.to_json(), allow_nan=False)


def test_rows_are_kept_and_not_measured_again(tmp_path: Path) -> None:
    works, out = planned(), tmp_path / "rows.jsonl"
    first = SimulatedGpu().run(works[:5], out)
    again = SimulatedGpu()
    kept = again.run(works[:8], out)
    assert [id for id, _ in again.asked] == [work.id for work in works[5:8]]
    assert [row.case for row in kept] == [work.id for work in works[:8]]
    assert kept[:5] == first
    assert len(out.read_text().splitlines()) == 8


def test_a_torn_line_is_measured_again(tmp_path: Path) -> None:
    works, out = planned(), tmp_path / "rows.jsonl"
    SimulatedGpu().run(works[:3], out)
    out.write_bytes(out.read_bytes()[:-30])
    again = SimulatedGpu()
    again.run(works[:3], out)
    assert [id for id, _ in again.asked] == [works[2].id]
    assert len(held_timings(out).rows) == 3


def test_one_row_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    works, out = planned()[:4], tmp_path / "rows.jsonl"
    gpu = SimulatedGpu()
    gpu.fails[works[1].id] = rows.Unmeasured("out_of_memory", "CUDA out of memory")
    found = gpu.run(works, out)
    assert [row.status for row in found] == ["ok", "out_of_memory", "ok", "ok"]
    assert found[1].reason == "CUDA out of memory"
    again = SimulatedGpu()
    assert [row.status for row in again.run(works, out)] == ["ok"] * 4
    assert [id for id, _ in again.asked] == [works[1].id]  # a failed row is tried again


def test_an_interruption_keeps_what_is_measured(tmp_path: Path) -> None:
    works, out = planned(), tmp_path / "rows.jsonl"
    gpu = SimulatedGpu()
    gpu.fails[works[2].id] = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        gpu.run(works, out)
    assert [row.case for row in held_timings(out).rows] == [work.id for work in works[:2]]


@pytest.mark.parametrize("slower", [0.5, 1.0, 1.5])
def test_compile_gives_way_when_time_runs_out(slower: float) -> None:
    works, gpu = planned(), SimulatedGpu(slower)
    found = gpu.run(works, budget=45)
    assert len(found) == 24 if slower <= 1 else 16 < len(found) < 24  # the last ones are left for the next run
    wanted = [work.id for work in works if not work.without_compile]
    done = [id for id, with_compile in gpu.asked if with_compile]
    assert done == wanted[: len(done)]  # the important ones
    assert (0 < len(done) < len(wanted)) == (slower >= 1)
    assert gpu.now <= 45 + slower * (ROW_S + COMPILE_S)
    wanted = [id for id in wanted if id in {row.case for row in found}]
    left_out = [row for row in found if row.case in wanted and row.compile_s is None]
    assert len(left_out) == len(wanted) - len(done)
    assert all(row.reason == "torch.compile skipped: the run would exceed 45 s" for row in left_out)


def test_rows_of_networks_may_share_the_file(tmp_path: Path) -> None:
    works, out = planned()[:2], tmp_path / "run.jsonl"
    store.append(out, Measurement.of(Case("dic_xl", 256, 1)))
    SimulatedGpu().run(works, out)
    assert [row.kind for row in store.rows_of(out)] == ["throughput", "kernel", "kernel"]
    assert [row.case for row in held_timings(out).rows] == [work.id for work in works]


def test_buffers_outgrow_three_caches() -> None:
    megabyte = 2**20
    for size in (1, 7 * megabyte, 60 * megabyte, 500 * megabyte):
        sets = graph_timing.buffer_sets(size, 60 * megabyte)
        assert (sets - 1) * size >= 3 * 60 * megabyte or sets == 2
        count = graph_timing.launches(sets)
        assert count >= graph_timing.LAUNCHES
        assert count % sets == 0
    assert graph_timing.buffer_sets(500 * megabyte, 60 * megabyte) == 2


def test_the_bytes_of_a_buffer_set_are_those_of_its_tensors() -> None:
    values = (torch.zeros(3, 4), 7, None, torch.zeros(5, dtype=torch.float16))
    assert graph_timing.tensor_bytes(values) == 48 + 10
    assert graph_timing.tensor_bytes((values, torch.zeros(1))) == 62


def test_a_timing_is_the_median_between_its_quantiles() -> None:
    assert graph_timing.timing_of([3.0, 1.0, 2.0, 5.0, 4.0]) == rows.Timing(3.0, 1.0, 4.0)


def test_the_kernels_on_the_fp32_units_are_the_depthwise_ones() -> None:
    known = {kernel.name for kernel in all_kernels()}
    assert set(stopwatch.ON_CUDA_CORES) <= known
    assert {name for name in known if name.startswith("depthwise")} == set(stopwatch.ON_CUDA_CORES)


class Event:
    """Of a GPU that is the host: work is done when it returns."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end.at - self.at) + 1e-3


class Timeless(Event):
    """One that does not read the clock."""

    def record(self) -> None:
        self.at = 0.0


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
    work = Work(kernel, replace(SHAPE, channels=24, height=5, width=7), 4, precision, AT_LARGEST_BATCH)
    measured = host_gpu.time(work)
    assert measured.compiled is None
    assert measured.why_not_compiled == AT_LARGEST_BATCH
    assert 0 < measured.cold.p20 <= measured.cold.p50 <= measured.cold.p80
    assert measured.copy_bytes_per_s > 0
    assert set(host_gpu.peaks) == {precision}
    assert 0 < measured.error <= 1.05 * measured.error_eager

    size = 4 * 24 * 35 * (4 if precision == "fp32" else 2)
    sets = graph_timing.buffer_sets(3 * size + (24 + 4 * 72) * size // 3360, 2**16)
    cold = calls["op"][2 + 3 : -graph_timing.LAUNCHES - 1]  # after the error, the size, three to warm up
    assert len(cold) == graph_timing.launches(sets)
    assert len(set(cold)) == sets
    assert cold[:sets] == cold[sets : 2 * sets]
    assert len(set(calls["op"][-graph_timing.LAUNCHES :])) == 1  # hot
    assert calls["eager"][-len(cold) :] == cold


def test_the_stopwatch_measures_compile_too(host_gpu: stopwatch.Stopwatch, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(GATE[0], replace(SHAPE, channels=24, height=5, width=7), 4, "bf16")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    assert host_gpu.time(work).compiled is not None

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no\ncompiler")

    monkeypatch.setattr(torch, "compile", fails)
    measured = host_gpu.time(work)
    assert measured.compiled is None
    assert measured.why_not_compiled == "torch.compile failed: RuntimeError: no compiler"
    broken = replace(work, kernel=replace(work.kernel, op=fails), without_compile=AT_LARGEST_BATCH)
    with pytest.raises(rows.Unmeasured, match="RuntimeError: no compiler"):
        host_gpu.time(broken)

    def greedy(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")

    with pytest.raises(rows.Unmeasured, match=r"^CUDA out of memory$") as caught:
        host_gpu.time(replace(broken, kernel=replace(work.kernel, op=greedy)))
    assert caught.value.status == "out_of_memory"


def test_graphs_are_warmed_up_and_replayed_interleaved(
    host_gpu: stopwatch.Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the clock of an idle GPU has risen; then a replay of each in every round."""
    said: list[str] = []
    graphs = [graph_timing.Graph(SimpleNamespace(replay=partial(said.append, name)), 1) for name in "ab"]  # type: ignore[arg-type]
    now = iter(0.04 * n for n in range(10_000))
    monkeypatch.setattr(graph_timing.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(torch.cuda, "Event", Timeless)
    graph_timing.time_interleaved(graphs)
    assert 0.1 <= graph_timing.WARM_UP_S <= 0.2
    warm = len(said) - 2 * graph_timing.REPLAYS
    assert warm == 2 * 4  # 0.16 s
    assert "".join(said) == "ab" * (len(said) // 2)


def test_the_copy_and_the_launch_are_timed_in_the_rounds_of_the_operation(
    host_gpu: stopwatch.Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []

    def timed(graphs: Any) -> list[rows.Timing]:
        rounds.append(len(graphs))
        return [rows.Timing(1e-6 * n, 1e-6 * n, 1e-6 * n) for n in range(1, len(graphs) + 1)]

    monkeypatch.setattr(stopwatch, "time_interleaved", timed)
    work = Work(GATE[0], replace(SHAPE, channels=24, height=5, width=7), 4, "bf16", AT_LARGEST_BATCH)
    measured = host_gpu.time(work)
    assert rounds == [5, 1]  # cold, hot, eager, copy, launch; then the products, once for each precision
    assert measured.copy_bytes_per_s == pytest.approx(2 * 2**12 / 4e-6)
    assert (measured.cold.p50, measured.launch_s) == pytest.approx((1e-6, 5e-6))


def test_no_row_starts_after_the_budget(tmp_path: Path) -> None:
    """What it did not reach is measured by the next run."""
    works, out = planned(), tmp_path / "kernels.jsonl"
    gpu = SimulatedGpu(slower=20)
    found = gpu.run(works, out, budget=100)
    assert 0 < len(found) == len(gpu.asked) < len(works)
    assert gpu.now <= 100 + 20 * (ROW_S + COMPILE_S)
    rest = SimulatedGpu()
    assert len(rest.run(works, out)) == len(works)
    assert len(rest.asked) == len(works) - len(found)


def test_the_facts_are_those_of_the_gpu_and_the_gate(host_gpu: stopwatch.Stopwatch) -> None:
    pytest.importorskip("triton", reason="the facts name its version")
    facts = stopwatch.facts(Work(GATE[0], SHAPE, 32, "bf16"))
    assert (facts["gpu"], facts["target"]) == ("host", "sm_90")
    assert facts["registers"] == budgeted("gate_residual", "bf16", "sm_90", facts["triton"]).get("registers")
    assert json.loads(json.dumps(facts)) == facts
