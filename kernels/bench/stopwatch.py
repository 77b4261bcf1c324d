"""Measurement of one operation on a GPU: its times, its error, and the copy and product rates to compare with."""

from datetime import UTC, datetime
from typing import Any

import torch

from ... import __version__, precision
from ...schema import KernelTiming
from ..accuracy import BATCH, Arguments, errors
from ..aot.budgets import budgeted
from ..schema import DTYPES
from .graph_timing import buffer_sets, capture, tensor_bytes, time_interleaved
from .plan import Work
from .rows import Measured, Unmeasured, row_for

COPY_BYTES = 2**30
COPIES = 4
PRODUCT_SIDE = {"fp32": 4096, "fp16": 8192, "bf16": 8192}
ON_CUDA_CORES = ("depthwise_gelu", "depthwise_7x7", "depthwise_3x3")  # their arithmetic runs on the FP32 units


class Stopwatch:
    """Measures one piece of work after another on one GPU."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = device
        self.cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
        self.source = torch.randn(COPY_BYTES // 4, device=device)
        self.target = torch.empty_like(self.source)
        self.smallest = torch.zeros(1, device=device)  # its launch takes nothing but what every launch takes
        self.peaks: dict[str, float] = {}

    def measure(self, work: Work) -> KernelTiming:
        """Measure one piece of work and return its row."""
        return row_for(work, self.time, facts)

    def time(self, work: Work) -> Measured:
        """Time one piece of work. Raises Unmeasured where memory runs out or the operation fails."""
        try:
            with torch.inference_mode(), precision.applied(work.precision):
                return self._time(work)
        except torch.OutOfMemoryError as error:
            raise Unmeasured("out_of_memory", str(error).partition(".")[0]) from None
        except Exception as error:  # a kernel that does not compile or launch here; the row says so
            raise Unmeasured("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        finally:
            torch.compiler.reset()
            torch.cuda.empty_cache()

    def _time(self, work: Work) -> Measured:
        kernel, dtype = work.kernel, DTYPES[work.precision]
        error, error_eager, _ = errors(kernel, kernel.inputs(work.shape, BATCH, dtype, self.device, 0))

        def buffers(seed: int) -> Arguments:
            return kernel.inputs(work.shape, work.batch, dtype, self.device, seed)

        first = buffers(1)
        count = buffer_sets(tensor_bytes(first) + tensor_bytes(kernel.op(*first)), self.cache_bytes)
        sets = [first, *(buffers(seed) for seed in range(2, count + 1))]
        graphs = {
            "cold": capture(kernel.op, sets, keep=count),
            "hot": capture(kernel.op, [first], keep=1),
            "eager": capture(kernel.eager, sets, keep=count),
        }
        why_not = work.without_compile
        if not why_not:
            try:
                graphs["compile"] = capture(torch.compile(kernel.eager, dynamic=False), sets, keep=count)
            except Exception as failure:  # the other columns are good without it
                why_not = f"torch.compile failed: {type(failure).__name__}: {' '.join(str(failure).split())[:150]}"
        # In the same rounds as the operation, so that both see the same clocks and the same heat.
        graphs["copy"] = capture(self.target.copy_, [(self.source,)], keep=1, count=COPIES)
        graphs["launch"] = capture(self.smallest.add_, [(1,)], keep=1)
        timed = dict(zip(graphs, time_interleaved(list(graphs.values())), strict=True))
        return Measured(
            cold=timed["cold"],
            hot=timed["hot"],
            eager=timed["eager"],
            compiled=timed.get("compile"),
            why_not_compiled=why_not,
            launch_s=timed["launch"].p50,
            copy_bytes_per_s=2 * COPY_BYTES / timed["copy"].p50,
            peak_flops_per_s=self.peak("fp32" if kernel.name in ON_CUDA_CORES else work.precision),
            error=error,
            error_eager=error_eager,
        )

    def peak(self, label: str) -> float:
        """FLOP/s of a large product of the library in that precision, without TF32."""
        if label not in self.peaks:
            n = PRODUCT_SIDE[label]
            a, b = (torch.randn(n, n, device=self.device).to(DTYPES[label]) for _ in range(2))
            (timing,) = time_interleaved([capture(torch.mm, [(a, b)], keep=1, count=4)])
            self.peaks[label] = 2 * n**3 / timing.p50
        return self.peaks[label]


def facts(work: Work) -> dict[str, Any]:
    """Conditions of the measurement; registers and stack are those of the stored budgets, null where there are none."""
    import triton

    gpu = torch.cuda.get_device_properties(0)
    target = f"sm_{gpu.major}{gpu.minor}"
    stored = budgeted(work.kernel.name, work.precision, target, triton.__version__)
    return {
        "gpu": gpu.name,
        "target": target,
        "registers": stored.get("registers"),
        "stack": stored.get("stack"),
        "sm_clock_hz": sm_clock(),
        "convbench": __version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def sm_clock() -> float | None:
    """SM clock in Hz, just after the work; None where NVML or its Python package is missing."""
    try:
        return 1e6 * torch.cuda.clock_rate()
    except Exception:  # pynvml raises classes of its own
        return None
