"""Precision that a step was really computed in, from the names of the CUDA kernels that ran.

cuBLAS, cuDNN, CUTLASS and MAGMA write the instruction or the types into the name of a kernel. If a name does not tell
(Triton, generated cuDNN kernels, FP32 emulated on tensor cores), the answer is "unknown", never a guess. The rules
below are tested with names from public profiles in ``tests/data/kernel_names.toml``.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..schema import Measurement, Second, Step
from ..timing.clock import Inputs
from .output import Finding

EXPECTED = {  # label -> precision of convolutions, of matrix products
    "fp32": ("fp32", "fp32"),
    "tf32": ("tf32", "tf32"),
    "torch-default": ("tf32", "fp32"),
    "bf16": ("half", "half"),
    "fp16": ("half", "half"),
}
WORDS = {"fp32": "FP32", "tf32": "TF32", "half": "half precision", "conv": "convolutions", "matmul": "matrix products"}

COARSER = {"fp32": ("tf32", "half"), "tf32": ("half",), "half": ()}
MINOR = 0.02
"""Share of a step's kernel time below which a slower path proves nothing: a library may compute a small or oddly shaped
product in FP32 although TF32 is allowed."""

# Neither a convolution nor a product, or a part of one that does not multiply, or one without a tensor-core form.
NEITHER = re.compile(
    r"memcpy|memset|at::native|triton_(poi|red|per)_|nchwtonhwc|nhwctonchw|transpose|splitkreduce|compute\w*offsets"
    r"|region_transform|fft2d|flip_filter|winograd_nonfused|winograd\w*tiles|gemv(2|nsp|x)|depthwise|grouped_direct|c1_k1"
    r"|sdpa|fmha|flash|attention|attn",
    re.IGNORECASE,
)
CONV = re.compile(r"conv|cudnn|fprop|dgrad|wgrad|winograd|cgemm", re.IGNORECASE)  # cgemm: the products of an FFT
GEMM = re.compile(r"gemm|nvjet|matmul|(^|_)b?mm(_|$)|addmm|cublas", re.IGNORECASE)
NVJET = re.compile(r"nvjet(?:_sm\d+)?_([a-z])[a-z]+_(tf32)?")  # the type of the first factor, one letter
PRECISIONS = (  # the first match counts
    ("unknown", re.compile(r"3xtf32|tf32x3|bf16x\d|fast_?f32", re.IGNORECASE)),
    ("tf32", re.compile(r"tf32", re.IGNORECASE)),
    ("half", re.compile(r"bf16|fp16|(?<![a-z0-9])f16|f16f16|bfloat16|__half|[hs]884|h1688|[hs]161616|[hs]16816|hgemm")),
    ("tf32", re.compile(r"s168[48](?!\d)")),  # half precision uses the same instruction, but its names also say so
    ("fp32", re.compile(r"sgemm|simt|ffma|f32f32_f32f32|scudnn|cgemm|winograd|gemm\w+<(int, )?float")),
)
OPERATORS = {  # the innermost PyTorch operator around the launch
    "": re.compile(r"attention|depthwise"),
    "conv": re.compile(r"conv(olution|_|\d)"),
    "matmul": re.compile(r"::(_?addmm\w*|b?mm|(ba|a)ddbmm|(add)?mv|matmul|linear|_scaled_mm)$"),
}


@dataclass(frozen=True)
class KernelTime:
    """A kernel and the time of all its launches in one step."""

    name: str
    seconds: Second
    calls: int = 1
    operator: str = ""  # that launched it, e.g. aten::cudnn_convolution; "" in a graph or a compiled step

    @property
    def kind(self) -> str:
        """Kind of work, by the operator if known, else by the name: "conv", "matmul", or "" for anything else."""
        if NEITHER.search(self.name) or OPERATORS[""].search(self.operator):
            return ""
        for kind, pattern, text in (
            ("conv", OPERATORS["conv"], self.operator),
            ("matmul", OPERATORS["matmul"], self.operator),
            ("conv", CONV, self.name),
            ("matmul", GEMM, self.name),
        ):
            if pattern.search(text):
                return kind
        return ""

    @property
    def is_sure(self) -> bool:
        """True if the kind is certain: without an operator, a plain product may belong to a 1x1 convolution."""
        return bool(self.operator) or self.kind == "conv"

    @property
    def precision(self) -> str:
        """Precision of the products: "tf32", "fp32", "half" (fp16 and bf16) or "unknown"; "" if there are none."""
        return precision_of(self.name) if self.kind else ""


def precision_of(name: str) -> str:
    """Precision of a convolution or product by its kernel name: "tf32", "fp32", "half" or "unknown"."""
    if nvjet := NVJET.search(name):
        return "tf32" if nvjet[2] else "half" if nvjet[1] in "ht" else "unknown"
    return next((precision for precision, pattern in PRECISIONS if pattern.search(name)), "unknown")


def profile_kernels(step: Step, inputs: Inputs) -> list[KernelTime]:
    """Profile the kernels of one step, longest first; empty if the inputs are not on a CUDA device.

    Call it after all timing: the profiler stays attached to the process and slows down launches.

    Args:
        inputs: x (B, C, H, W), t (B,) and y (B,) or (B, tokens, width), as the step takes them.
    """
    if inputs[0].device.type != "cuda":
        return []
    from torch.profiler import ProfilerActivity, profile

    step(*inputs)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step(*inputs)
        torch.cuda.synchronize()
    return kernel_times(profiler.events() or [])


def kernel_times(events: Iterable[Any]) -> list[KernelTime]:
    """Collect kernels and the operators that launched them from the events of torch.profiler."""
    seconds: Counter[tuple[str, str]] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False):
            seconds[event.name, ""] += event.time_range.elapsed_us() / 1e6
            calls[event.name, ""] += 1
        for kernel in event.kernels:  # an operator lists the kernels it launched, which are also device events
            seconds[kernel.name, event.name] += kernel.duration / 1e6
            calls[kernel.name, event.name] += 1
            seconds[kernel.name, ""] -= kernel.duration / 1e6
            calls[kernel.name, ""] -= 1
    found = [KernelTime(name, seconds[name, by], calls[name, by], by) for name, by in seconds if calls[name, by] > 0]
    return sorted(found, key=lambda each: -each.seconds)


def launch_words(launches: int, row: Measurement) -> str:
    """Describe, for its row, a backend whose kernels Python launches one by one, from its measured rate of launches."""
    shortest = launches / row.rates["launches_per_s"]
    taken = row.batch / row.images_per_s if row.images_per_s else float("nan")
    return (
        f"{launches} launches a step, one by one, take the processor {1e3 * shortest:.1f} ms or more of "
        f"{1e3 * taken:.1f}: compare triton_graphs instead"
    )


def dominant_precisions(kernels: Sequence[KernelTime]) -> dict[str, str]:
    """Precision that takes most of the time of convolutions and of matrix products; "unknown" if there are none."""
    return {kind: _longest(_seconds_by_precision(kernels, kind)) for kind in ("conv", "matmul")}


def _seconds_by_precision(kernels: Sequence[KernelTime], kind: str) -> dict[str, Second]:
    seconds: dict[str, Second] = {}
    for kernel in kernels:
        if kernel.kind == kind:
            seconds[kernel.precision] = seconds.get(kernel.precision, 0.0) + kernel.seconds
    return seconds


def _longest(seconds: dict[str, Second]) -> str:
    return max(seconds, key=lambda precision: seconds[precision], default="unknown")


def check_precision(label: str, kernels: Sequence[KernelTime]) -> Finding | None:
    """Check PREC: kernels ran in the precision of the label. No finding if their names do not tell."""
    total = sum(kernel.seconds for kernel in kernels)
    conv, matmul = EXPECTED[label]
    for kind, expected in (("conv", conv), ("matmul", matmul)):
        certain = [kernel for kernel in kernels if kernel.kind == kind and (kernel.is_sure or conv == matmul)]
        seconds = _seconds_by_precision(certain, kind)
        only_others = {expected, "unknown"}.isdisjoint(seconds)
        for precision in sorted(seconds.keys() - {expected, "unknown"}, key=lambda each: -seconds[each]):
            share = seconds[precision] / total
            if precision in COARSER[expected] or (only_others and share > MINOR):
                longest = max((k for k in certain if k.precision == precision), key=lambda k: k.seconds)
                seen = f"{WORDS[kind]} ran in {WORDS[precision]} for {share:.1%} of the time: {longest.name[:80]}"
                return Finding("PREC", f"the label says {label}, but {seen}", severity="SUSPECT")
    return None
