"""Precision from kernel names: names from public profiles, simulated profiles and, on a GPU, real ones."""

import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent, Kernel

from convbench.checks.kernels import (
    EXPECTED,
    KernelTime,
    check_precision,
    dominant_precisions,
    kernel_times,
    launch_words,
    profile_kernels,
)
from convbench.precision import TF32_FLAGS
from convbench.schema import Measurement

DATA = tomllib.loads((Path(__file__).parents[1] / "data" / "kernel_names.toml").read_text("utf-8"))
NAMES = [kernel for source in DATA["source"] for kernel in source["kernels"]]

TF32_CONV = "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16_stage4"
FP32_CONV = "cudnn_infer_ampere_scudnn_128x64_relu_xregs_large_nn_v1"
HALF_CONV = "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64"
TF32_GEMM = "cutlass_80_tensorop_s1688gemm_256x64_16x4_nn_align4"
FP32_GEMM = "ampere_sgemm_128x64_nt"
HALF_GEMM = "nvjet_tst_128x24_64x11_2x1_v_bz_TNT"
TRITON_GEMM = "triton_tem_fused_addmm_0"
DEPTHWISE = "void at::native::conv_depthwise2d_forward_kernel<5, float, int>"
LAYOUT = "void cudnn::ops::nchwToNhwcKernel<float, float, float, (bool)1, (bool)1, (cudnnKernelDataType_t)2>"


def ran(**milliseconds: float) -> list[KernelTime]:
    """Build a profile with the names above."""
    return [KernelTime(globals()[name], each / 1e3) for name, each in milliseconds.items()]


@pytest.mark.parametrize("known", NAMES, ids=lambda known: known["name"][:60])
def test_a_name_from_a_public_profile(known: dict[str, str]) -> None:
    kernel = KernelTime(known["name"], 1.0)
    assert {"matmul": "gemm"}.get(kernel.kind, kernel.kind) == known["of"]
    assert kernel.precision == known["precision"]


def test_the_names_cover_every_kind_and_precision() -> None:
    assert {(known["of"], known["precision"]) for known in NAMES} == {
        ("", ""),
        *((of, told) for of in ("conv", "gemm") for told in ("tf32", "fp32", "half", "unknown")),
    }
    assert all(source["where"] for source in DATA["source"])


def test_the_operator_determines_the_kind_of_a_product() -> None:
    assert KernelTime(TF32_GEMM, 1.0).kind == "matmul"
    assert not KernelTime(TF32_GEMM, 1.0).is_sure
    for operator, kind in (
        ("aten::cudnn_convolution", "conv"),
        ("aten::_convolution", "conv"),
        ("aten::addmm", "matmul"),
        ("aten::bmm", "matmul"),
        ("aten::_addmm_activation", "matmul"),
        ("aten::_scaled_dot_product_efficient_attention", ""),
        ("aten::_conv_depthwise2d", ""),
    ):
        assert KernelTime(TF32_GEMM, 1.0, operator=operator).kind == kind
    assert KernelTime(LAYOUT, 1.0, operator="aten::cudnn_convolution").kind == ""
    assert KernelTime("an_unknown_name", 1.0, operator="aten::cudnn_convolution").precision == "unknown"


def test_every_label_has_switches() -> None:
    assert EXPECTED.keys() == TF32_FLAGS.keys()


def test_the_dominant_precision_takes_most_of_the_time() -> None:
    assert dominant_precisions(ran(TF32_CONV=90, FP32_CONV=5, FP32_GEMM=3, LAYOUT=50)) == {
        "conv": "tf32",
        "matmul": "fp32",
    }
    assert dominant_precisions(ran(HALF_CONV=1, TRITON_GEMM=9, HALF_GEMM=8)) == {"conv": "half", "matmul": "unknown"}
    assert dominant_precisions(ran(DEPTHWISE=9)) == {"conv": "unknown", "matmul": "unknown"}


@pytest.mark.parametrize(
    ("label", "profile"),
    [
        ("fp32", {"FP32_CONV": 9, "FP32_GEMM": 9, "LAYOUT": 1}),
        ("tf32", {"TF32_CONV": 9, "TF32_GEMM": 9}),
        ("tf32", {"TF32_CONV": 9, "FP32_CONV": 8, "TF32_GEMM": 1}),  # the library's choice, layer by layer
        ("tf32", {"TF32_CONV": 99, "FP32_GEMM": 1}),  # one small product proves nothing
        ("tf32", {"TRITON_GEMM": 9, "FP32_GEMM": 9}),  # the Triton kernel may have used TF32
        ("tf32", {"DEPTHWISE": 9}),  # depthwise convolutions have no tensor-core form
        ("torch-default", {"TF32_CONV": 9, "FP32_GEMM": 9}),
        ("torch-default", {"TF32_CONV": 9, "TF32_GEMM": 9}),  # may be a 1x1 convolution: the operator is unknown
        ("bf16", {"HALF_CONV": 9, "HALF_GEMM": 9, "FP32_GEMM": 1}),  # a time embedding in FP32
        ("fp16", {}),
        ("fp32", {"TRITON_GEMM": 9}),
    ],
)
def test_a_matching_profile_gives_no_finding(label: str, profile: dict[str, float]) -> None:
    assert check_precision(label, ran(**profile)) is None


@pytest.mark.parametrize(
    ("label", "profile", "text"),
    [
        ("fp32", {"TF32_CONV": 9, "FP32_GEMM": 1}, "convolutions ran in TF32 for 90.0% of the time: sm80_xmma_fprop"),
        ("fp32", {"FP32_CONV": 999, "TF32_GEMM": 1}, "matrix products ran in TF32 for 0.1% of the time: cutlass_80"),
        ("fp32", {"HALF_GEMM": 1}, "matrix products ran in half precision for 100.0% of the time: nvjet_tst"),
        ("tf32", {"FP32_CONV": 6, "FP32_GEMM": 4}, "convolutions ran in FP32 for 60.0% of the time: cudnn_infer"),
        ("tf32", {"TF32_CONV": 6, "FP32_GEMM": 4}, "matrix products ran in FP32 for 40.0% of the time: ampere_sgemm"),
        ("tf32", {"TF32_CONV": 6, "HALF_CONV": 4}, "convolutions ran in half precision for 40.0% of the time: sm90"),
        ("torch-default", {"FP32_CONV": 5, "FP32_GEMM": 5}, "convolutions ran in FP32 for 50.0% of the time: cudnn"),
        ("bf16", {"TF32_CONV": 5, "HALF_GEMM": 5}, "convolutions ran in TF32 for 50.0% of the time: sm80_xmma"),
        ("fp16", {"HALF_CONV": 5, "FP32_GEMM": 5}, "matrix products ran in FP32 for 50.0% of the time: ampere"),
    ],
)
def test_a_different_precision_is_a_finding(label: str, profile: dict[str, float], text: str) -> None:
    found = check_precision(label, ran(**profile))
    assert found and found.code == "PREC" and found.severity == "SUSPECT"
    assert found.text.startswith(f"the label says {label}, but {text}")


def test_a_slower_path_counts_beyond_a_share_and_the_longest_is_named() -> None:
    def product(name: str, seconds: float) -> KernelTime:
        return KernelTime(name, seconds, operator="aten::addmm")

    rest = KernelTime(LAYOUT, 49.0)
    assert check_precision("tf32", [product(FP32_GEMM, 1.0), rest]) is None  # exactly 2 %
    assert check_precision("tf32", [product(FP32_GEMM, 1.01), rest]) is not None
    for tf32, half, word in ((3.0, 2.0, "TF32 for 60.0%"), (2.0, 3.0, "half precision for 60.0%")):
        found = check_precision("fp32", [product(TF32_GEMM, tf32), product(HALF_GEMM, half)])
        assert found and f"matrix products ran in {word}" in found.text
    found = check_precision("fp32", [product(TF32_GEMM, 1.0), product(f"{TF32_GEMM}_longer", 2.0)])
    assert found and found.text.endswith(f"{TF32_GEMM}_longer"[:80])


def test_torch_default_is_checked_by_operator() -> None:
    product = KernelTime(TF32_GEMM, 1.0, operator="aten::addmm")
    pointwise = KernelTime(TF32_GEMM, 1.0, operator="aten::cudnn_convolution")
    assert check_precision("torch-default", [pointwise]) is None
    found = check_precision("torch-default", [product])
    assert found and "matrix products ran in TF32" in found.text


def event(name: str, device: str, start: float, end: float, **more: Any) -> FunctionEvent:
    """Build an event as the profiler does; times in microseconds."""
    kind = getattr(torch.autograd.DeviceType, device)
    return FunctionEvent(1, name, 1, start, end, device_type=kind, **more)


def test_kernel_times_of_profiler_events() -> None:
    convolution = event("aten::cudnn_convolution", "CPU", 0, 50)
    convolution.kernels = [Kernel(TF32_GEMM, 0, 30.0), Kernel(LAYOUT, 0, 5.0)]
    events = [
        convolution,
        event("cudaLaunchKernel", "CPU", 1, 2),
        event("ProfilerStep#1", "CUDA", 0, 100, is_user_annotation=True),
        event(TF32_GEMM, "CUDA", 10, 40),
        event(LAYOUT, "CUDA", 40, 45),
        event(TF32_GEMM, "CUDA", 50, 90),  # part of a graph: no operator
        event(TF32_GEMM, "CUDA", 90, 100),
    ]
    assert kernel_times(events) == [
        KernelTime(TF32_GEMM, pytest.approx(50e-6), 2, ""),
        KernelTime(TF32_GEMM, pytest.approx(30e-6), 1, "aten::cudnn_convolution"),
        KernelTime(LAYOUT, pytest.approx(5e-6), 1, "aten::cudnn_convolution"),
    ]


def test_a_real_profile_without_a_gpu_has_no_kernels() -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.ones(4, 4) @ torch.ones(4, 4)
    events = profiler.events()
    assert "aten::mm" in {each.name for each in events}
    assert kernel_times(events) == []


def test_profiling_on_a_cpu_runs_no_step() -> None:
    calls = SimpleNamespace(count=0)

    def step(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.count += 1
        return x

    x = torch.zeros(1)
    assert profile_kernels(step, (x, x, x)) == [] and calls.count == 0


def test_a_row_of_a_backend_that_python_launches_says_what_that_takes() -> None:
    row = Measurement(
        **{"case": "x", "model": "dico_xl", "res": 256, "batch": 8},
        images_per_s=800.0,
        rates={"launches_per_s": 2e5},
    )
    assert launch_words(850, row) == (
        "850 launches a step, one by one, take the processor 4.2 ms or more of 10.0: compare triton_graphs instead"
    )
    slow = replace(row, images_per_s=0.008, rates={"launches_per_s": 1.0})
    assert " take the processor 850000.0 ms or more of 1000000.0: " in launch_words(850, slow)
