"""Every fused kernel on an NVIDIA GPU: against float64 at the shapes of the XL networks, bit for bit twice, past 2^31
elements, at ragged sizes, and as the bench runs it. Run by `make gpu`; Triton comes with torch for CUDA."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convbench import precision
from convbench.cli import main
from convbench.kernels import all_kernels, product_tiles
from convbench.kernels.accuracy import check_accuracy, outputs
from convbench.kernels.bench.plan import AT_LARGEST_BATCH, Work
from convbench.kernels.bench.rows import Unmeasured, measured_row
from convbench.kernels.bench.stopwatch import Stopwatch
from convbench.kernels.language import HAS_TRITON, missing_triton
from convbench.kernels.schema import DTYPES, Kernel
from convbench.timing.calibration import calibrate

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason=missing_triton())

PRODUCTS = ("pointwise", "pointwise_gelu", "pointwise_squares", "pointwise_scaled_residual", "pointwise_residual")
EVERY = pytest.mark.parametrize("kernel", all_kernels(), ids=lambda kernel: kernel.name)
PRECISIONS = pytest.mark.parametrize("label", DTYPES)


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """No TF32 unless a test asks for it, and no memory left of an earlier test."""
    torch.cuda.empty_cache()
    with precision.applied("fp32"), torch.inference_mode():
        yield
    torch.cuda.empty_cache()


@EVERY
@PRECISIONS
def test_an_op_errs_no_more_than_eager_does(kernel: Kernel, label: str) -> None:
    rows = [check_accuracy(kernel, shape, label, "cuda") for shape in kernel.shapes]
    wrong = [
        f"{row['where']}: {row['error']:.2e}, allowed {row['error_limit']:.2e}" for row in rows if row["status"] != "ok"
    ]
    assert not wrong, "\n".join(wrong)


@EVERY
@PRECISIONS
def test_ragged_maps_and_channels(kernel: Kernel, label: str) -> None:
    """9 x 13 pixels and channels that no block divides."""
    first = kernel.shapes[0]
    shape = replace(first, channels=72, out_channels=40 if first.out_channels else 0, height=9, width=13)
    row = check_accuracy(kernel, shape, label, "cuda")
    assert row["status"] == "ok", row


@EVERY
@PRECISIONS
def test_the_same_bits_twice(kernel: Kernel, label: str) -> None:
    """No sum depends on the order in which programs finish."""
    arguments = kernel.inputs(kernel.shapes[0], 8, DTYPES[label], "cuda", 0)
    first = outputs(kernel.op(*arguments))
    for _ in range(5):
        for a, b in zip(first, outputs(kernel.op(*arguments)), strict=True):
            assert torch.equal(a, b)


@EVERY
def test_every_element_is_written(kernel: Kernel) -> None:
    arguments = kernel.inputs(kernel.shapes[0], 3, torch.float16, "cuda", 0)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new tensors with NaN
    try:
        found = outputs(kernel.op(*arguments))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(each.isfinite().all() for each in found)


@EVERY
def test_offsets_past_two_to_the_31(kernel: Kernel) -> None:
    """The last sample of a batch of more than 2^31 elements is what it is alone."""
    shape = kernel.shapes[0]
    batch = 2**31 // (max(shape.channels, shape.out_channels) * shape.pixels) + 2
    needed = 12 * 2**31 * 2  # drawn in float32, then in half precision, in and out
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free GPU memory")
    arguments = kernel.inputs(shape, batch, torch.float16, "cuda", 0)
    last = tuple(a[-1:] if isinstance(a, Tensor) and a.shape[0] == batch else a for a in arguments)
    for whole, alone in zip(outputs(kernel.op(*arguments)), outputs(kernel.op(*last)), strict=True):
        torch.testing.assert_close(whole[-1:], alone, rtol=1e-3, atol=1e-3)


@EVERY
def test_products_follow_the_tf32_switch(kernel: Kernel) -> None:
    """Where there is a product: off, it is FP32; on, it is coarser, as torch's own."""
    if not kernel.shapes[0].out_channels:
        pytest.skip("no product in it")
    arguments = kernel.inputs(kernel.shapes[0], 2, torch.float32, "cuda", 0)
    exact = outputs(kernel.reference(*(a.double() if isinstance(a, Tensor) else a for a in arguments)))[0]
    errors = []
    for label in ("fp32", "tf32"):
        with precision.applied(label):
            found = outputs(kernel.op(*arguments))[0]
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] < 5e-6 < 2e-5 < errors[1] < 2e-3


@pytest.mark.parametrize("kernel", [k for k in all_kernels() if k.name in PRODUCTS], ids=lambda kernel: kernel.name)
def test_every_configuration_of_a_product(kernel: Kernel) -> None:
    """Of this generation of GPUs, at the first and the last level, where a sample has few pixels; twice the same."""
    gpu = product_tiles.generation(torch.cuda.get_device_capability()) or product_tiles.OTHER_GPUS
    wrong = []
    for tile in product_tiles.candidates(gpu, 2):
        for shape in (kernel.shapes[0], max(kernel.shapes, key=lambda shape: (shape.level, -shape.res))):
            with product_tiles.using(tile) as launched:
                row = check_accuracy(kernel, shape, "bf16", "cuda")
                arguments = kernel.inputs(shape, 3, torch.bfloat16, "cuda", 0)
                pairs = zip(outputs(kernel.op(*arguments)), outputs(kernel.op(*arguments)), strict=True)
                same = all(torch.equal(*pair) for pair in pairs)
            assert all(used.persistent == tile.persistent for used in launched)
            if row["status"] != "ok" or not same:
                wrong.append(f"{tile.label} at {shape.label}: {row['error']}, same bits: {same}")
    assert not wrong, "\n".join(wrong)


def work_of(name: str, **other: Any) -> Work:
    kernel = next(kernel for kernel in all_kernels() if kernel.name == name)
    known = {"kernel": kernel, "shape": kernel.shapes[0], "batch": 8, "precision": "bf16"} | other
    return Work(**known)


def test_the_bench_measures() -> None:
    watch, work = Stopwatch(), work_of("gate_residual")
    measured = watch.time(work)
    assert measured.why_not_compiled == ""
    assert measured.compiled is not None
    for timing in (measured.cold, measured.hot, measured.eager, measured.compiled):
        assert 0 < timing.p20 <= timing.p50 <= timing.p80 < 1e-2
    assert measured.error <= measured.error_eager
    assert measured.copy_bytes_per_s == pytest.approx(calibrate("cuda", "bf16").copy_bytes_per_s, rel=0.15)
    row = measured_row(work, measured, {})
    assert row.copy_fraction is not None and 0 < row.copy_fraction < 1.25
    assert json.loads(json.dumps(row.to_json(), allow_nan=False)) == row.to_json()


def test_a_kernel_that_fails_is_one_row() -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("nothing of the kind")

    work = work_of("gate_residual", without_compile=AT_LARGEST_BATCH)
    broken = replace(work, kernel=replace(work.kernel, op=fails))
    with pytest.raises(Unmeasured, match="RuntimeError: nothing of the kind") as caught:
        Stopwatch().time(broken)
    assert caught.value.status == "failed"
    row = Stopwatch().measure(broken)
    assert (row.case, row.status) == (broken.id, "failed")


@pytest.fixture
def convbench(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    def run(*args: object) -> tuple[int, list[dict[str, Any]]]:
        with pytest.raises(SystemExit) as ended:
            main(["kernels", *map(str, args), "--format", "json"])
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int), shown.err
        return ended.value.code, json.loads(shown.out)

    return run


def test_the_command_checks_on_the_gpu(convbench: Callable[..., tuple[int, list[dict[str, Any]]]]) -> None:
    code, rows = convbench("check", "--kernel", "gate_residual")
    assert code == 0
    assert {(row["device"], row["path"], row["status"]) for row in rows} == {("cuda", "Triton", "ok")}


def test_the_command_benches_and_resumes(
    convbench: Callable[..., tuple[int, list[dict[str, Any]]]], tmp_path: Path
) -> None:
    asked = ("bench", "--kernel", "gate_residual", "--res", 256, "--batch", 8, "--out", tmp_path / "rows.jsonl")
    code, rows = convbench(*asked)
    assert code == 0
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert all(row["gpu"] == torch.cuda.get_device_properties(0).name for row in rows)
    again, held = convbench(*asked)
    assert (again, [row["cold_s"] for row in held]) == (0, [row["cold_s"] for row in rows])
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3
