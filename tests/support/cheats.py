"""Backends that cheat the benchmark, one way each. None may get a number that is VALID or NOISY: docs/cheats.md.

``CHEATS`` maps each to the codes of which one has to appear. In a test's own process "cheats:NAME" names them. Those
that look up results sleep besides, so that they are twice as fast as eager and no faster than the machine can be.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convbench.checks.output import input_sets
from convbench.schema import Backend, Case, Step
from convbench.timing.clock import CpuClock

Inputs = tuple[Tensor, Tensor, Tensor]
Make = Callable[[nn.Module, Case, Inputs], Step]
PROVED = 5  # calls of a step before it is timed, for a batch of 2: four input sets and a permuted batch
FOLDER: list[Path] = []  # where keeps_on_disk keeps its results, between processes
SLOWER = 0.5  # of the time of a step, by which one that depends on the order is slowed
FAST_S = 1.5  # how long fast_at_first is fast
now = time.perf_counter  # tests on a made-up clock replace it, and spin

CHEATS: dict[str, set[str]] = {}


def cheat(*codes: str) -> Callable[[Make], Backend]:
    """A backend whose step the function returns, and the codes that find it."""

    def made(make: Make) -> Backend:
        @contextmanager
        def open(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
            yield make(model, case, inputs)

        CHEATS[make.__name__] = set(codes)
        return Backend(make.__name__, (make.__doc__ or "").strip(), open)

    return made


def key_of(inputs: tuple[Tensor, ...]) -> bytes:
    """What tells inputs apart."""
    return hashlib.sha256(b"".join(v.float().numpy().tobytes() for v in inputs)).digest()


def seconds_of(model: nn.Module, inputs: Inputs) -> float:
    """The least of ten forward passes: of fewer, a stall makes a cheat that waits as slow as the network."""
    model(*inputs)
    times = []
    for _ in range(10):
        start = now()
        model(*inputs)
        times.append(now() - start)
    return min(times)


def spin(seconds: float) -> None:
    """Be busy for so long."""
    end = now() + seconds
    while now() < end:
        pass


# A patched timer


@contextmanager
def _slow_clocks(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    """Every clock of the process advances at half the speed, from when the backend is opened."""
    names: list[tuple[Any, str]] = [(time, "perf_counter"), (time, "monotonic"), (time, "time"), (CpuClock, "now")]
    names += [(CpuClock, "second"), (time, "perf_counter_ns"), (time, "monotonic_ns")]
    before = [(owner, name, vars(owner)[name]) for owner, name in names]

    def halved(clock: Callable[[], float]) -> Any:
        start = clock()
        kind = type(start)
        return staticmethod(lambda: start + kind((clock() - start) / 2))

    try:
        for owner, name, known in before:
            slow = halved(getattr(known, "__func__", known))
            setattr(owner, name, slow if owner is CpuClock else slow.__func__)
        yield model
    finally:
        for owner, name, known in before:
            setattr(owner, name, known)


halves_the_clocks = Backend("halves_the_clocks", (_slow_clocks.__doc__ or "").strip(), _slow_clocks)
CHEATS["halves_the_clocks"] = {"CLK"}


# Results that are kept


@cheat("SUM", "FRESH")
def returns_the_first_output(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Computes while it is proved, and then hands out the first output."""
    calls = 0

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls, first
        calls += 1
        if calls <= PROVED:
            out: Tensor = model(x, t, y)
            first = out if calls == 1 else first
            return out
        return first

    first = torch.empty(0)
    return step


@cheat("FLOOR", "FRESH")
def keeps_results(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Computes each input set once and looks it up from then on."""
    kept: dict[bytes, Tensor] = {}

    def step(*given: Tensor) -> Tensor:
        key = key_of(given)
        if key not in kept:
            kept[key] = model(*given)
        return kept[key]

    return step


@cheat("FRESH")
def keeps_results_and_waits(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """The same, and a wait for half the time of a step, so that its speed looks possible."""
    pause, inner = seconds_of(model, inputs) / 2, keeps_results_step(model)

    def step(*given: Tensor) -> Tensor:
        out, known = inner(*given)
        if known:
            spin(pause)
        return out

    return step


def keeps_results_step(model: nn.Module) -> Callable[..., tuple[Tensor, bool]]:
    """A step that also says whether it looked its output up."""
    kept: dict[bytes, Tensor] = {}

    def step(*given: Tensor) -> tuple[Tensor, bool]:
        key = key_of(given)
        known = key in kept
        if not known:
            kept[key] = model(*given)
        return kept[key], known

    return step


@cheat("FRESH")
def computes_beforehand(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Work moved before the timed region: knows how inputs are drawn, and has all outputs when it is opened."""
    pause, inner = seconds_of(model, inputs) / 2, keeps_results_step(model)
    for x, t, y in input_sets(case):
        inner(x.to(inputs[0].dtype), t, y)

    def step(*given: Tensor) -> Tensor:
        out, known = inner(*given)
        if known:
            spin(pause)
        return out

    return step


@cheat("FRESH")
def keeps_on_disk(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """A cache that persists: what an earlier process computed for the same inputs is read from a file."""
    pause = seconds_of(model, inputs) / 2

    def step(*given: Tensor) -> Tensor:
        path = FOLDER[0] / f"{case.model.replace(':', '.')}-{key_of(given).hex()}.pt"
        if path.exists():
            spin(pause)
            return torch.load(path)  # type: ignore[no-any-return]
        out: Tensor = model(*given)
        torch.save(out.clone(), path)
        return out

    return step


# Outputs that are not there yet


class Lazy(Tensor):
    """A tensor that is computed when somebody looks at it."""

    make: Callable[[], Tensor]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def done(value: Any) -> Any:
            return value.make() if isinstance(value, Lazy) else value

        return func(*map(done, args), **{key: done(value) for key, value in (kwargs or {}).items()})


@cheat("LAZY")
def computes_when_read(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Returns at once a tensor that is computed when it is used."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out = torch.empty(0).as_subclass(Lazy)
        out.make = lambda: model(x, t, y)
        return out

    return step


@contextmanager
def _another_thread(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    """Returns at once a buffer that a thread fills later, from when it is timed on: another stream, on a CPU.

    The thread computes the latest of what it was asked for.
    """
    calls, ended, asked = 0, threading.Event(), threading.Event()
    shape = model(*inputs).shape
    latest: list[tuple[Tensor, Inputs]] = []

    def work() -> None:
        while not ended.is_set():
            if asked.wait(0.05):
                asked.clear()
                buffer, given = latest[-1]
                with torch.inference_mode():
                    buffer.copy_(model(*given))

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls <= PROVED:
            return model(x, t, y)  # type: ignore[no-any-return]
        buffer = torch.zeros(shape)
        latest[:] = [(buffer, (x, t, y))]
        asked.set()
        return buffer

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield step
    finally:
        ended.set()
        worker.join()


computes_in_another_thread = Backend(
    "computes_in_another_thread", (_another_thread.__doc__ or "").strip(), _another_thread
)
CHEATS["computes_in_another_thread"] = {"SUM", "FLOOR"}


@cheat("SUM", "FRESH")
def skips_while_timed(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Work moved behind the timed region: right before and afterwards, and three of four steps compute nothing."""
    calls = 0

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > PROVED and calls % 4 and not torch.equal(x, inputs[0]):
            return torch.zeros(case.batch, *shape)
        return model(x, t, y)  # type: ignore[no-any-return]

    shape = model(*inputs).shape[1:]
    return step


# Short cuts


@cheat("ZERO")
def skips_zeros(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Knows the output for zeros."""
    known: list[Tensor] = []

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if known and not x.any():
            return known[0]
        out: Tensor = model(x, t, y)
        known.extend([] if x.any() else [out])
        return out

    return step


@cheat("REF")
def underflows(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Scales its inputs until nothing is left of them, and the outputs back."""
    return lambda x, t, y: model(x * 1e-30 * 1e-15, t, y) * 1.0


@cheat("REF")
def lets_small_weights_vanish(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Rounds the smaller half of every matrix to zero, to skip it."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter[parameter.abs() < parameter.abs().median()] = 0.0
    return model


def _rounded(model: nn.Module, rounded: Callable[[Tensor], Tensor]) -> Step:
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(rounded(parameter))
    return model


@cheat("REF")
def computes_in_tf32(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """fp32 by its label, and weights of ten bits."""
    return _rounded(model, lambda w: (w.view(torch.int32) & ~0x1FFF).view(torch.float32))


@cheat("REF")
def computes_in_bf16(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """fp32 by its label, and weights in bf16."""
    return _rounded(model, lambda w: w.bfloat16().float())


@cheat("REF")
def computes_in_int8(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """fp32 by its label, and weights of eight bits, scaled by channel."""

    def rounded(w: Tensor) -> Tensor:
        scale = w.abs().amax(tuple(range(1, w.dim())), keepdim=True) / 127
        return (w / scale.clamp_min(1e-30)).round() * scale

    return _rounded(model, rounded)


@cheat("REF", "PERM", "DEP")
def computes_one_image(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """A batch of one, broadcast."""
    return lambda x, t, y: model(x[:1], t[:1], y[:1]).expand(case.batch, -1, -1, -1)


@cheat("REF", "PERM", "DEP")
def leaves_out_the_last_image(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """The last image of a batch is a copy of the first."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = model(x[:-1], t[:-1], y[:-1])
        return torch.cat([out, out[:1]])

    return step


@cheat("ALIAS")
def writes_into_its_input(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """The output is a view of the input's memory, which holds the right numbers from then on."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = model(x, t, y)[:, : x.shape[1]]
        return x.copy_(out)

    return step


@cheat("ALIAS")
def spends_its_input(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Right, and uses the timesteps as scratch memory."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = model(x, t, y)
        t.zero_()
        return out

    return step


# Speed that depends on being first

_opened, _started = 0, 0.0


@cheat("AA")
def fast_if_opened_first(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """The second that is opened in a process is slower."""
    global _opened  # noqa: PLW0603
    _opened += 1
    is_second = _opened % 2 == 0
    return _slowed(model, lambda: is_second)


@cheat("STDY", "LIN", "FRESH")
def fast_at_first(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """All of them slow down some time after the first was opened."""
    global _started  # noqa: PLW0603
    _started = now() if case.repeat == 1 else _started
    return _slowed(model, lambda: now() - _started > FAST_S)


def _slowed(model: nn.Module, when: Callable[[], bool]) -> Step:
    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        start = now()
        out: Tensor = model(x, t, y)
        if when():
            spin(SLOWER * (now() - start))
        return out

    return step
