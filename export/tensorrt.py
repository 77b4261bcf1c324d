"""TensorRT 10 and 11 and TensorRT-RTX behind one adapter: networks always strongly typed, so precision is the graph's.

TensorRT-RTX builds engines without a GPU; running any engine needs one. Every call that reports failure by returning
None is checked, and the words of the library's own log become the error.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convbench
from convbench import packages
from convbench.errors import UsageError
from convbench.schema import Step

from .manifest import ENTRIES
from .shapes import Shapes

_HOME = str(Path(convbench.__file__).parents[1])
ENTRY, TIMING = ENTRIES["tensorrt"], "timing.cache"
LIBRARIES = {  # the name that is imported -> the name that is printed; the first that works is taken
    "tensorrt": "TensorRT",
    "tensorrt_bindings": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
    "tensorrt_rtx_bindings": "TensorRT-RTX",
}


@dataclass(frozen=True)
class Library:
    """One installed TensorRT whose builder works."""

    module: str
    name: str
    version: str

    @property
    def rtx(self) -> bool:
        return self.name == "TensorRT-RTX"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@cache
def library() -> Library:
    """The TensorRT to use. Raises UsageError where there is none, with the command that installs one."""
    reasons = []
    for module, name in LIBRARIES.items():
        if _absent(module):
            continue
        if name == "TensorRT" and not torch.cuda.is_available():
            reasons.append(f"{name} builds on a GPU only, and torch sees none")
            continue
        found, reason = _probe(module)
        if found:
            return Library(module, name, found)
        reasons.append(f"{module}: {reason}")
    if not reasons:
        raise UsageError(packages.missing("tensorrt_rtx_bindings") or "TensorRT is not installed")
    raise UsageError("TensorRT does not work here: " + "; ".join(reasons))


def _absent(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is None


def _probe(module: str) -> tuple[str | None, str]:
    """The version of a library whose builder works, or why it does not."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "convbench.export.tensorrt_probe", module],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_HOME, os.environ.get("PYTHONPATH")]))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found = json.loads(lines[-1]) if lines else {}
    if found.get("builder"):
        return str(found["version"]), ""
    if done.returncode < 0:
        return None, f"it crashes (signal {-done.returncode}); is the NVIDIA driver there?"
    return None, (done.stderr.strip().splitlines() or ["its builder does not start"])[-1][:200]


class _Checked:
    """A library with its log: ``made`` turns every None into an error in the library's own words."""

    def __init__(self, chosen: Library) -> None:
        self.trt: Any = import_module(chosen.module)
        self.chosen = chosen
        said: list[str] = []
        self.said = said
        trt = self.trt

        class Log(trt.ILogger):  # type: ignore[name-defined, misc] # a class of whichever library it is
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    said.append(message)

        self.log = Log()

    def made(self, thing: Any, what: str) -> Any:
        if thing is None or thing is False:
            words = f": {self.said[-1][:300]}" if self.said else ""
            raise UsageError(f"{self.chosen} could not {what}{words}")
        return thing


def build(source: Path, shapes: Shapes, folder: Path, tf32: bool = False, timing: Path | None = None) -> dict[str, Any]:
    """Build an engine from an ONNX file, with one profile from the smallest to the largest input.

    Where there is a GPU it can be given other weights later (``refit``); without one TensorRT-RTX cannot build that.

    Args:
        timing: an earlier timing cache, which makes building quick. The new one lies beside the engine.
    """
    chosen = library()
    checked = _Checked(chosen)
    trt, made = checked.trt, checked.made
    builder = made(trt.Builder(checked.log), "start its builder")
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # the only kind from 11 on
    network = made(builder.create_network(0 if typed is None else 1 << int(typed)), "make a network")
    parser = made(trt.OnnxParser(network, checked.log), "start its parser")
    if not parser.parse_from_file(str(source)):
        told = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise UsageError(
            f"{chosen} cannot read {source.name}: {(told or checked.said or ['no reason given'])[0][:300]}"
        )
    config = made(builder.create_builder_config(), "make a configuration")
    profile = made(builder.create_optimization_profile(), "make a profile")
    ranges = profile_of(shapes)
    for name, sizes in ranges.items():
        profile.set_shape(name, *sizes)
    if config.add_optimization_profile(profile) < 0:
        raise UsageError(f"{chosen} rejects the profile {ranges}")
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # on unless told otherwise
    refit = torch.cuda.is_available()
    if refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    cached = None
    if not chosen.rtx:  # which times nothing when it builds
        content = timing.read_bytes() if timing and timing.is_file() else b""
        cached = made(config.create_timing_cache(content), "make a timing cache")
        made(config.set_timing_cache(cached, False), "take the timing cache")
    engine = made(builder.build_serialized_network(network, config), f"build an engine of {source.name}")
    (folder / ENTRY).write_bytes(memoryview(engine))
    if cached is not None:
        (folder / TIMING).write_bytes(
            memoryview(made(config.get_timing_cache(), "hand out the timing cache").serialize())
        )
    return {"library": str(chosen), "profile": ranges, "refit": refit, "tf32": tf32, "layers": network.num_layers}


def profile_of(shapes: Shapes) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The smallest, usual and largest shape of each input."""
    low, high = shapes.batch
    usual = min(high, max(low, 8))
    least, most = shapes.sides or (shapes.side, shapes.side)
    caption = shapes.takes.caption or ()
    sizes = ((low, least), (usual, shapes.side), (high, most))
    return {
        "x": tuple((b, shapes.takes.channels, side, side) for b, side in sizes),
        "t": tuple((b,) for b, _ in sizes),
        "y": tuple((b, *caption) for b, _ in sizes),
    }


def target() -> dict[str, str]:
    """Requirements of an engine that is built here."""
    chosen = library()
    found = {"device": "cuda", "library": str(chosen)}
    if torch.cuda.is_available():
        return {**found, "gpu": torch.cuda.get_device_name(), "capability": _capability()}
    return {**found, "gpu": "any that the library supports", "capability": "any"}


def _capability() -> str:
    return ".".join(map(str, torch.cuda.get_device_capability()))


def require_runnable(wanted: dict[str, str]) -> None:
    """Raise UsageError, by name, on another GPU or with another version than the engine was built for."""
    if not torch.cuda.is_available():
        raise UsageError(f"running this engine of {wanted['library']} needs an NVIDIA GPU, and torch sees none here")
    if str(library()) != wanted["library"]:
        raise UsageError(
            f"this engine was built by {wanted['library']} and does not run with {library()}: install that version, or "
            f"export it again"
        )
    here = torch.cuda.get_device_name()
    if wanted["capability"] != "any" and (wanted["gpu"], wanted["capability"]) != (here, _capability()):
        raise UsageError(
            f"this engine was built for {wanted['gpu']} (compute capability {wanted['capability']}), "
            f"here is {here} ({_capability()}): export it again here"
        )


@contextmanager
def opened(file: Path, graphs: bool = True) -> Iterator[Step]:
    """An engine as a step on device tensors. With ``graphs``, one CUDA graph for each shape of input."""
    checked = _Checked(library())
    runtime = checked.made(checked.trt.Runtime(checked.log), "start its runtime: is the NVIDIA driver there?")
    engine = checked.made(runtime.deserialize_cuda_engine(file.read_bytes()), f"open {file.name}")
    yield _Runner(checked, engine, graphs).step


class _Runner:
    """Buffers and graphs of an engine, one set for each shape: a graph keeps the addresses it was captured with."""

    def __init__(self, checked: _Checked, engine: Any, graphs: bool) -> None:
        self.checked, self.engine, self.graphs = checked, engine, graphs
        self.stream = torch.cuda.Stream()
        self.ready: dict[tuple[int, ...], tuple[dict[str, Tensor], Any, Any]] = {}

    def step(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        key = tuple(x.shape)
        if key not in self.ready:
            self.ready[key] = self._prepare(x, t, y)
        buffers, context, graph = self.ready[key]
        for name, value in (("x", x), ("t", t), ("y", y)):
            buffers[name].copy_(value)  # also from half precision
        if graph is not None:
            graph.replay()  # on the caller's stream, behind the copies
        else:
            self._enqueue(context, torch.cuda.current_stream())
        return buffers["out"]

    def _prepare(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Any, Any]:
        made = self.checked.made
        context = made(self.engine.create_execution_context(), "make an execution context: is there memory left?")
        buffers = {"x": x.float().clone(), "t": t.float().clone(), "y": y.clone()}
        for name, value in buffers.items():
            made(context.set_input_shape(name, tuple(value.shape)), f"take {name} of shape {tuple(value.shape)}")
        buffers["out"] = torch.empty(tuple(context.get_tensor_shape("out")), device=x.device)
        for name, value in buffers.items():
            made(context.set_tensor_address(name, value.data_ptr()), f"take the address of {name}")
        # Once outside the capture: the first call allocates and, in TensorRT-RTX, compiles.
        self.stream.wait_stream(torch.cuda.current_stream())
        self._enqueue(context, self.stream)
        self.stream.synchronize()
        if not self.graphs:
            return buffers, context, None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._enqueue(context, self.stream)
        return buffers, context, graph

    def _enqueue(self, context: Any, stream: torch.cuda.Stream) -> None:
        self.checked.made(context.execute_async_v3(stream.cuda_stream), "start the engine")


def refit(engine_file: Path, source: Path, out: Path) -> None:
    """Write an engine with the weights of another ONNX file of the same network. Needs a GPU, builds nothing.

    Raises UsageError where the engine was built without that (no GPU there), or weights are missing.
    """
    checked = _Checked(library())
    trt, made = checked.trt, checked.made
    runtime = made(trt.Runtime(checked.log), "start its runtime: is the NVIDIA driver there?")
    engine = made(runtime.deserialize_cuda_engine(engine_file.read_bytes()), f"open {engine_file.name}")
    if not engine.refittable:
        raise UsageError(f"{engine_file} cannot take other weights: it was built without a GPU; export it again")
    refitter = made(trt.Refitter(engine, checked.log), "start its refitter")
    parser = made(trt.OnnxParserRefitter(refitter, checked.log), "start its parser")
    made(parser.refit_from_file(str(source)), f"take the weights of {source.name}")
    if left := refitter.get_missing_weights():
        raise UsageError(f"{source.name} lacks weights of the engine: {', '.join(left[:3])}")
    made(refitter.refit_cuda_engine(), "put the weights into the engine")
    out.write_bytes(memoryview(made(engine.serialize(), "write the engine")))
