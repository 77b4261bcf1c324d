"""On an NVIDIA GPU: the goldens, a measurement of each backend, memory that runs out, the largest batch.

Run by `make gpu`. No time is judged; what must hold holds on any GPU from compute capability 7.0 on.
"""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import pytest
import torch
from contract import DONE, NOTHING_MEASURED, THROUGHPUT_KEYS
from formula import TRACED, formula_model, golden
from tolerances import RELATIVE_L2, assert_close

from convbench import catalogue, precision
from convbench.checks import timing
from convbench.checks.output import input_sets, relative_error
from convbench.measure.forward import measure
from convbench.measure.largest_batch import search
from convbench.models.counts import count_variant
from convbench.models.gla import implementation
from convbench.schema import Case, Measurement
from convbench.timing.clock import CudaClock, Lane, Rotation, Rules, time_lanes
from convbench.timing.intervals import median_interval

ROOT = Path(__file__).parents[2]
SHORT = Rules(block_s=0.02, warmup_s=0.5, min_s=0.3, cap_s=3, min_blocks=20, half_width=0.005)


def case(**other: object) -> Case:
    known = {"model": "dico_s", "res": 256, "batch": 8, "device": "cuda"} | other
    return Case(**known)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Memory of an earlier test is no part of the next one's peak."""
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


@pytest.mark.parametrize("id", TRACED)
def test_small_outputs_in_strict_float32_are_those_of_the_official_code(id: str) -> None:
    if id.startswith("dig") and implementation("cuda") != "chunked PyTorch":
        pytest.skip("flash-linear-attention computes its products in TF32: compared with ours below")
    stored = golden(id)
    model = formula_model(id).cuda()
    x, t, y = (stored[name].cuda() for name in ("x", "t", "y"))
    with torch.inference_mode(), precision.applied("fp32"):
        assert_close(model(x, t, y).cpu(), stored["out"], "fp32")


@pytest.mark.parametrize("id", TRACED)
def test_small_outputs_in_other_precisions_stay_within_their_gates(id: str) -> None:
    """And really differ from strict FP32, where the GPU has TF32."""
    stored = golden(id)
    model, expected = formula_model(id).cuda(), stored["out_f64"]
    x, t, y = (stored[name].cuda() for name in ("x", "t", "y"))
    errors = {}
    for name, limit in RELATIVE_L2.items():
        if precision.unsupported(name, "cuda"):
            continue
        kind = precision.dtype_of(name)
        with torch.inference_mode(), precision.applied(name):
            out = copy.deepcopy(model).to(kind)(x.to(kind), t, y)
        errors[name] = relative_error(out.float().cpu(), expected)
        assert errors[name] <= limit or (name == "fp32" and id.startswith("dig")), errors
    assert errors["bf16"] > errors["fp16"] > errors["fp32"]
    if "tf32" in errors and not id.startswith("dig"):
        assert errors["tf32"] > 5 * errors["fp32"]


@pytest.mark.parametrize("id", TRACED)
def test_a_gpu_and_a_cpu_agree(id: str) -> None:
    """On other inputs than the goldens, batch 2."""
    model = formula_model(id)
    x, t, y = input_sets(Case(id, 256, 2))[0]
    with torch.inference_mode(), precision.applied("fp32"):
        expected = model(x, t, y)
        found = model.cuda()(x.cuda(), t.cuda(), y.cuda()).cpu()
    assert relative_error(found, expected) <= (2e-3 if id.startswith("dig") else 2 * RELATIVE_L2["fp32"])


@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_a_measurement_agrees_with_itself(backend: str) -> None:
    (result,) = measure([case(backend=backend)], SHORT)
    assert (result.status, result.verdict in ("VALID", "NOISY", "SUSPECT")) == ("ok", True), result.reason
    assert sorted(THROUGHPUT_KEYS - set(asdict(result))) == []
    assert Measurement(**json.loads(json.dumps(asdict(result), allow_nan=False))) == result

    low, high = median_interval(result.block_s)
    assert result.blocks == len(result.block_s) >= SHORT.min_blocks
    assert result.images_per_s == pytest.approx(8 / median(result.block_s), rel=1e-12)
    assert (result.images_per_s_low, result.images_per_s_high) == pytest.approx((8 / high, 8 / low), rel=1e-12)
    counted = count_variant(catalogue.find("dico_s"), 256)
    assert result.flops_per_s == pytest.approx(2 * counted.macs_full * result.images_per_s, rel=1e-12)
    assert result.mfu == pytest.approx(result.flops_per_s / result.peak_flops_per_s, rel=1e-12)
    assert 0 < result.limit_fraction <= 1 / timing.FLOOR_SLACK
    assert 0 < result.latency_s_p50 <= result.latency_s_p90 <= result.latency_s_p99

    assert result.peak_bytes > counted.weight_bytes
    assert result.peak_bytes < torch.cuda.get_device_properties(0).total_memory
    assert result.error_vs_fp32 <= RELATIVE_L2["fp32"]
    assert result.flags["cudnn.allow_tf32"] == result.flags["cuda.matmul.allow_tf32"] == "False"
    assert result.environment["gpus"][0]["name"] == torch.cuda.get_device_properties(0).name


@pytest.mark.parametrize("label", ["tf32", "torch-default", "bf16", "fp16"])
def test_other_precisions_are_measured_under_their_own_label(label: str) -> None:
    if reason := precision.unsupported(label, "cuda"):
        pytest.skip(reason)
    (result,) = measure([case(precision=label)], SHORT)
    assert (result.status, result.verdict in ("VALID", "NOISY", "SUSPECT")) == ("ok", True), result.reason
    assert RELATIVE_L2["fp32"] < result.error_vs_fp32 <= RELATIVE_L2[label]
    assert precision.effective_label(result.flags, label, "cuda") == label


def test_two_backends_in_turns_are_compared() -> None:
    a, b = measure([case(), case(backend="compile")], SHORT)
    assert (a.status, b.status) == ("ok", "ok"), (a.reason, b.reason)
    assert b.compared_with == a.case
    assert len(a.block_s) == len(b.block_s) >= 20
    ratios = [x / y for x, y in zip(a.block_s, b.block_s, strict=True)]
    assert b.ratio == pytest.approx(median(ratios), rel=1e-12)
    assert (b.ratio_low, b.ratio_high) == pytest.approx(median_interval(ratios), rel=1e-12)
    assert b.difference in ("faster", "slower", "same", "unclear")


def test_device_events_and_the_host_clock_agree_on_a_model() -> None:
    model = formula_model("dico_s").cuda()
    sets = [(x.cuda(), t.cuda(), y.cuda()) for x, t, y in input_sets(Case("dico_s", 256, 8))]
    lane = Lane(Rotation(model, sets))
    with torch.inference_mode(), precision.applied("fp32"):
        time_lanes([lane], CudaClock(), replace(SHORT, block_s=0.1))
    assert all(block.total_s <= block.wall_s for block in lane.blocks)  # events lie inside the host's readings
    assert median(block.wall_s / block.total_s for block in lane.blocks) < 1 + timing.CLOCKS_AGREE


def test_memory_that_runs_out_is_a_status_and_the_next_case_runs() -> None:
    """Past the estimate: measure() is asked directly, for four times what the GPU has."""
    counted = count_variant(catalogue.find("dico_s"), 256)
    batch = 4 * torch.cuda.get_device_properties(0).total_memory // counted.peak_activation_bytes
    (result,) = measure([case(batch=batch)], SHORT)
    assert (result.status, result.verdict, result.images_per_s) == ("out_of_memory", None, None)
    assert "out of memory" in result.reason and "\n" not in result.reason
    torch.cuda.empty_cache()
    (result,) = measure([case()], SHORT)
    assert result.status == "ok", result.reason


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    """On a part of the memory, so that trials are short."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2 * 2**30 / total))
    try:
        fitting: list[int] = []
        search(case(batch=0), fitting.append)
        assert fitting == sorted(set(fitting))
        largest = fitting[-1]
        assert largest > 1
        model = formula_model("dico_s").cuda()
        with torch.inference_mode(), precision.applied("fp32"):
            x, t, y = (v.cuda() for v in input_sets(Case("dico_s", 256, largest))[0])
            assert model(x, t, y).shape == (largest, 8, 32, 32)
            x, t, y = (v.cuda() for v in input_sets(Case("dico_s", 256, 2 * largest))[0])
            with pytest.raises(torch.OutOfMemoryError):
                model(x, t, y)
    finally:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)


def convbench(*args: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "convbench", "throughput", "--model", "dico_s", "--device", "cuda", *args]
    return subprocess.run([*line, "--format", "json"], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_line_measures_on_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    done = convbench("--res", "256", "--cap", "1s", "--out", str(out))
    assert done.returncode == DONE, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["batch"], row["device"], row["threads"], row["status"]) == (32, "cuda", None, "ok")
    assert row["verdict"] in ("VALID", "NOISY", "SUSPECT")
    assert row["smallest_difference"] >= 0.01
    again = convbench("--res", "256", "--cap", "1s", "--out", str(out))
    assert "0 cases to measure, 1 already in the file" in again.stderr
    assert json.loads(again.stdout)[0]["images_per_s"] == row["images_per_s"]


def test_a_batch_that_cannot_fit_is_skipped_in_words() -> None:
    done = convbench("--res", "512", "--batch", "100000000")
    (row,) = json.loads(done.stdout)
    assert (done.returncode, row["status"]) == (NOTHING_MEASURED, "skipped")
    assert row["reason"].startswith("needs about ") and row["reason"].endswith(" GiB are free")
