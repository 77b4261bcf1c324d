"""This machine made to look like the one with a GPU, in the processes of a test: its packages, and a stand-in for CUDA.

``environment`` gives the variables of such a process. The stand-in computes on the CPU whatever is asked of "cuda": it
shows that the program runs to its end, stops in time and resumes. No number of it means anything.
"""

import importlib.abc
import importlib.metadata
import importlib.util
import itertools
import os
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NAME = "STAND-IN, not a GPU"
SUPPORT = Path(__file__).parent
TABLE = SUPPORT.parent / "data" / "gpu_machine.toml"


def environment(folder: Path, cuda: bool = False) -> dict[str, str]:
    """Variables of a process on that machine; ``folder`` gets its sitecustomize.py, and the log of its CUDA calls."""
    lines = ["import other_machine", "other_machine.block_packages()"]
    lines += ["other_machine.pretend_cuda()"] if cuda else []
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    others = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    return {**others, "PYTHONPATH": f"{folder}{os.pathsep}{SUPPORT}", "CUDA_CALLS": str(folder / "calls")}


def normal(name: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def absent() -> set[str]:
    """Top-level modules of everything installed here that the other machine does not have."""
    there = {normal(name) for name in tomllib.loads(TABLE.read_text("utf-8"))["packages"]}
    owners = importlib.metadata.packages_distributions()
    return {module for module, names in owners.items() if not there & {normal(name) for name in names}}


class _Blocked(importlib.abc.MetaPathFinder):
    def __init__(self, modules: set[str]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in self.modules:
            raise ModuleNotFoundError(f"No module named '{name}' on the other machine", name=name)


def block_packages() -> None:
    """Refuse to import what the other machine does not have."""
    gone = absent() - {"convbench", "_virtualenv"}
    sys.meta_path.insert(0, _Blocked(gone))
    find = importlib.util.find_spec  # asked for what is installed, it must not raise
    importlib.util.find_spec = lambda name, package=None: (  # type: ignore[assignment]
        None if name.partition(".")[0] in gone else find(name, package)
    )


class _Afterwards(importlib.abc.MetaPathFinder):
    """Calls a function on a module once it has been imported."""

    def __init__(self, then: dict[str, Callable[[Any], None]]) -> None:
        self.then = then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        then = self.then.pop(name, None)
        if then is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec and spec.loader
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def pretend_cuda() -> None:
    """Stand in for CUDA as soon as torch is imported, and make the sizes of the benches small."""
    sizes: dict[str, dict[str, Any]] = {
        "convbench.kernels.bench.stopwatch": {
            "COPY_BYTES": 2**12,
            "PRODUCT_SIDE": dict.fromkeys(("fp32", "fp16", "bf16"), 16),
        },
        "convbench.kernels.bench.graph_timing": {"LAUNCHES": 2, "REPLAYS": 2, "WARM_UP_S": 0.01},
    }
    then: dict[str, Callable[[Any], None]] = {
        name: lambda module, values=values: vars(module).update(values)  # type: ignore[misc]
        for name, values in sizes.items()
    }
    then["torch"] = _stand_in
    then["convbench.timing.calibration"] = _fixed_rates
    then["convbench.kernels.bench.products"] = _two_places
    sys.meta_path.insert(0, _Afterwards(then))


def _fixed_rates(module: Any) -> None:
    module.calibrate = lambda device, precision, repeats=5: module.Rates(1e15, 1e15, 1e15, 1e15, 1e9)


def _two_places(module: Any) -> None:
    places = module.places
    module.places = lambda: itertools.islice(places(), 0, 5, 4)
    known = module.candidates
    module.candidates = lambda gpu, itemsize: known(gpu, itemsize)[:2]


class Event:
    """Of a device that has finished its work when a call returns."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self, stream: object = None) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end.at - self.at) + 1e-6


class Graph:
    """Operators as they were recorded; replaying runs them again on the same tensors, into the same results."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def reset(self) -> None:
        self.calls.clear()

    def replay(self) -> None:
        import torch

        for function, args, kwargs, out in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(_tensors(out), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    with torch.inference_mode():
                        old.copy_(new)


def _tensors(value: Any) -> list[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, tuple | list) else []


def _stand_in(torch: Any) -> None:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    def moved(value: Any) -> Any:
        if isinstance(value, str | torch.device) and str(value).startswith("cuda"):
            return torch.device("cpu") if isinstance(value, torch.device) else "cpu"
        return type(value)(map(moved, value)) if type(value) in (tuple, list) else value

    class OnCpu(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.Tensor.cuda:
                return args[0]
            if function is torch.Tensor.record_stream:
                return None
            return function(*map(moved, args), **{key: moved(each) for key, each in (kwargs or {}).items()})

    class Recording(TorchDispatchMode):
        def __init__(self, graph: Graph) -> None:
            super().__init__()
            self.graph = graph

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            self.graph.calls.append((function, args, kwargs or {}, out))  # reshape and the like may copy: all of them
            return out

    class Generator:
        real = torch.Generator

        def __new__(cls, device: object = "cpu") -> Any:
            return cls.real(moved(device))

    @contextmanager
    def captured(graph: Graph, **_: Any) -> Iterator[None]:
        with Recording(graph):
            yield

    @contextmanager
    def on_stream(stream: object) -> Iterator[None]:
        yield

    @contextmanager
    def forked() -> Iterator[None]:
        state = torch.get_rng_state()
        try:
            yield
        finally:
            torch.set_rng_state(state)

    facts = SimpleNamespace(
        **{"name": NAME, "major": 9, "minor": 0, "total_memory": 2**37, "L2_cache_size": 2**16, "uuid": ""},
        **{"multi_processor_count": 132, "pci_domain_id": 0, "pci_bus_id": 0, "pci_device_id": 0},
    )
    stream = SimpleNamespace(wait_stream=lambda other: None, cuda_stream=1)
    harmless: dict[str, Any] = {"is_available": lambda: True, "device_count": lambda: 1, "Event": Event}
    using = {  # calls that give the process a context on a real GPU, or may
        "get_device_properties": lambda index=0: facts,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: NAME,
        "current_device": lambda: 0,
        "mem_get_info": lambda device=None: (2**36, 2**37),
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: 1,
        "memory_stats": dict,
        "Stream": lambda *_, **__: stream,
        "current_stream": lambda device=None: stream,
        "stream": on_stream,
        "graph": captured,
        "CUDAGraph": Graph,
    }

    def told(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            with open(os.environ["CUDA_CALLS"], "a") as log:
                log.write(f"{name}\t{' '.join(sys.orig_argv[1:])}\n")
            return call(*args, **kwargs)

        return noted

    for name, call in harmless.items():
        setattr(torch.cuda, name, call)
    for name, call in using.items():
        setattr(torch.cuda, name, told(name, call))
    torch.Generator = Generator
    torch.random.fork_rng = forked
    torch.compile = lambda model, **_: model
    OnCpu().__enter__()
