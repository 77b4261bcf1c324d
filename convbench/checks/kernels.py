"""Which precision a step was really computed in, told by the names of the CUDA kernels that ran.

cuBLAS, cuDNN, CUTLASS and MAGMA write the instruction or the types into a kernel's name. Where a name does not tell
(Triton's, cuDNN's generated ones, FP32 emulated by tensor cores), the answer is "unknown" and never a guess. The rules
below are held against names from public profiles in ``tests/data/kernel_names.toml``.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..schema import Second, Step
from ..timing.clock import Inputs
from .output import Finding

EXPECTED = {  # label -> what multiplies in convolutions, in matrix products
    "fp32": ("fp32", "fp32"),
    "tf32": ("tf32", "tf32"),
    "torch-default": ("tf32", "fp32"),
    "bf16": ("half", "half"),
    "fp16": ("half", "half"),
}
WORDS = {"fp32": "FP32", "tf32": "TF32", "half": "half precision", "conv": "convolutions", "matmul": "matrix products"}

MINOR = 0.02
"""Share of a step's kernel time below which it proves nothing that the fast path was not taken: a library may leave
one small or oddly shaped product to FP32 though TF32 is allowed."""

# Neither convolution nor product, or a part of one that does not multiply, or one that never has a tensor-core form.
NEITHER = re.compile(
    r"memcpy|memset|at::native|triton_(poi|red|per)_|nchwtonhwc|nhwctonchw|transpose|splitkreduce|compute\w*offsets"
    r"|region_transform|fft2d|flip_filter|winograd_nonfused|winograd\w*tiles|gemv(2|nsp|x)|depthwise|grouped_direct|c1_k1"
    r"|sdpa|fmha|flash|attention|attn",
    re.IGNORECASE,
)
CONV = re.compile(r"conv|cudnn|fprop|dgrad|wgrad|winograd|cgemm", re.IGNORECASE)  # cgemm: the products of an FFT
GEMM = re.compile(r"gemm|nvjet|matmul|(^|_)b?mm(_|$)|addmm|cublas", re.IGNORECASE)
NVJET = re.compile(r"nvjet(?:_sm\d+)?_([a-z])[a-z]+_(tf32)?")  # the type of the first factor, one letter
PRECISIONS = (  # the first that fits
    ("unknown", re.compile(r"3xtf32|tf32x3|bf16x\d|fast_?f32", re.IGNORECASE)),
    ("tf32", re.compile(r"tf32", re.IGNORECASE)),
    ("half", re.compile(r"bf16|fp16|(?<![a-z0-9])f16|f16f16|bfloat16|__half|[hs]884|h1688|[hs]161616|[hs]16816|hgemm")),
    ("tf32", re.compile(r"s168[48](?!\d)")),  # the same instruction serves half precision, which then says so
    ("fp32", re.compile(r"sgemm|simt|ffma|f32f32_f32f32|scudnn|cgemm|winograd|gemm\w+<(int, )?float")),
)
OPERATORS = {  # of PyTorch, the innermost around the launch
    "": re.compile(r"attention|depthwise"),
    "conv": re.compile(r"conv(olution|_|\d)"),
    "matmul": re.compile(r"::(_?addmm\w*|b?mm|(ba|a)ddbmm|(add)?mv|matmul|linear|_scaled_mm)$"),
}


@dataclass(frozen=True)
class KernelTime:
    """One kernel in one step, with all its launches."""

    name: str
    seconds: Second
    calls: int = 1
    operator: str = ""  # what launched it, such as aten::cudnn_convolution; "" in a graph or a compiled step

    @property
    def kind(self) -> str:
        """ "conv", "matmul", or "" for anything else. The operator knows; without one, the name is all there is."""
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
        """Whether the kind is certain: without an operator, a plain product may be a 1x1 convolution's."""
        return bool(self.operator) or self.kind == "conv"

    @property
    def precision(self) -> str:
        """What is multiplied: "tf32", "fp32", "half" (fp16 and bf16 alike) or "unknown"; "" if nothing is."""
        return precision_of(self.name) if self.kind else ""


def precision_of(name: str) -> str:
    """The same from the name of a convolution or product."""
    if nvjet := NVJET.search(name):
        return "tf32" if nvjet[2] else "half" if nvjet[1] in "ht" else "unknown"
    return next((precision for precision, pattern in PRECISIONS if pattern.search(name)), "unknown")


def kernel_names(step: Step, inputs: Inputs) -> list[KernelTime]:
    """The kernels of one step, the longest first; empty where the inputs are not on a CUDA device.

    Call it after everything that is timed: the profiler stays attached to the process and slows launches.
    """
    if inputs[0].device.type != "cuda":
        return []
    from torch.profiler import ProfilerActivity, profile

    step(*inputs)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step(*inputs)
        torch.cuda.synchronize()
    return times_of(profiler.events() or [])


def times_of(events: Iterable[Any]) -> list[KernelTime]:
    """Kernels and what launched them, from the events of torch.profiler."""
    seconds: Counter[tuple[str, str]] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False):
            seconds[event.name, ""] += event.time_range.elapsed_us() / 1e6
            calls[event.name, ""] += 1
        for kernel in event.kernels:  # of an operator: those it launched, which are device events of their own too
            seconds[kernel.name, event.name] += kernel.duration / 1e6
            calls[kernel.name, event.name] += 1
            seconds[kernel.name, ""] -= kernel.duration / 1e6
            calls[kernel.name, ""] -= 1
    found = [KernelTime(name, seconds[name, by], calls[name, by], by) for name, by in seconds if calls[name, by] > 0]
    return sorted(found, key=lambda each: -each.seconds)


def classify(kernels: Sequence[KernelTime]) -> dict[str, str]:
    """What convolutions and matrix products took most of their time in; "unknown" also where there was none."""
    return {kind: _main(_shares(kernels, kind)) for kind in ("conv", "matmul")}


def _shares(kernels: Sequence[KernelTime], kind: str) -> dict[str, Second]:
    shares: dict[str, Second] = {}
    for kernel in kernels:
        if kernel.kind == kind:
            shares[kernel.precision] = shares.get(kernel.precision, 0.0) + kernel.seconds
    return shares


def _main(shares: dict[str, Second]) -> str:
    return max(shares, key=lambda precision: shares[precision], default="unknown")


def evidence(label: str, kernels: Sequence[KernelTime]) -> Finding | None:
    """PREC: kernels of another precision ran than the label says. No finding where the names do not tell."""
    total = sum(kernel.seconds for kernel in kernels)
    conv, matmul = EXPECTED[label]
    for kind, expected in (("conv", conv), ("matmul", matmul)):
        told = [kernel for kernel in kernels if kernel.kind == kind and (kernel.is_sure or conv == matmul)]
        shares = _shares(told, kind)
        only_others = {expected, "unknown"}.isdisjoint(shares)
        for precision in sorted(shares.keys() - {expected, "unknown"}, key=lambda each: -shares[each]):
            share = shares[precision] / total
            if _coarser(precision, expected) or (only_others and share > MINOR):
                longest = max((k for k in told if k.precision == precision), key=lambda k: k.seconds)
                seen = f"{WORDS[kind]} ran in {WORDS[precision]} for {share:.1%} of the time: {longest.name[:80]}"
                return Finding("PREC", f"the label says {label}, but {seen}", severity="SUSPECT")
    return None


def _coarser(precision: str, than: str) -> bool:
    order = ("fp32", "tf32", "half")
    return order.index(precision) > order.index(than)
