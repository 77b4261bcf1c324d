"""Backends with one fault each. The checks must find every one: tests/measure/test_forward.py, run/test_runner.py.

In a test's own process "faulty:NAME" names them; a worker finds this module when tests/ is on its PYTHONPATH.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from convbench.checks.output import input_sets
from convbench.schema import Backend, Case, Step
from convbench.timing.clock import Block, CpuClock

Inputs = tuple[Tensor, Tensor, Tensor]
PROVED = 5  # calls of a step before it is timed, for a batch of 2: four input sets and a permuted batch


def faulty(make: Callable[[nn.Module, Case, Inputs], Step]) -> Backend:
    """A backend whose step ``make`` returns."""

    @contextmanager
    def open(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
        yield make(model, case, inputs)

    return Backend(make.__name__, (make.__doc__ or "").strip(), open)


def frozen(model: nn.Module, inputs: Inputs, position: int) -> Step:
    """Takes one of x, t and y from the first call for ever."""

    def step(*given: Tensor) -> Tensor:
        mixed = list(given)
        mixed[position] = inputs[position]
        return model(*mixed)

    return step


def frozen_in_one_place(model: nn.Module, inputs: Inputs, position: int) -> Step:
    """The same for the last image of a batch alone."""

    def step(*given: Tensor) -> Tensor:
        mixed = list(given)
        mixed[position] = torch.cat([given[position][:-1], inputs[position][-1:]])
        return model(*mixed)

    return step


@faulty
def lags_on_rank_1(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """SIMULATED clock: a step takes 10 ms, and 50 ms on the second process of a world."""
    step_s = 0.05 if os.environ.get("RANK") == "1" else 0.01

    def block(self: CpuClock, run: Callable[[], object], steps: int) -> Block:
        run()
        return Block(step_s, step_s * steps, step_s * steps, [step_s] * steps)

    CpuClock.block = block  # type: ignore[method-assign]
    return model


@faulty
def fails_on_rank_1(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Raises on one process of a world alone."""
    if os.environ.get("RANK") == "1":
        raise RuntimeError("no device here")
    return model


# Outputs that are wrong from the start


@faulty
def ignores_x(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Denoises the same latents again and again."""
    return frozen(model, inputs, 0)


@faulty
def ignores_t(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """The timestep was folded into the weights."""
    return frozen(model, inputs, 1)


@faulty
def ignores_y(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """The label was folded into the weights."""
    return frozen(model, inputs, 2)


@faulty
def one_image_ignores_x(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Denoises the same latents again and again in one place of the batch alone."""
    return frozen_in_one_place(model, inputs, 0)


@faulty
def one_image_ignores_t(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Takes the first timestep of one image for ever."""
    return frozen_in_one_place(model, inputs, 1)


@faulty
def one_image_ignores_y(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Takes the first label of one image for ever."""
    return frozen_in_one_place(model, inputs, 2)


@faulty
def first_label_for_all(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """A timestep and a label of batch 1 with any number of images, as a released timing script has it."""
    return lambda x, t, y: model(x, t[:1].expand_as(t), y[:1].expand_as(y))


@faulty
def cached(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Computes once and returns that."""
    kept: list[Tensor] = []

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if not kept:
            kept.append(model(x, t, y))
        return kept[0]

    return step


@faulty
def cached_by_x(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Keeps a result for each x and forgets that t and y matter."""
    kept: dict[bytes, Tensor] = {}

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        key = x.numpy().tobytes()
        if key not in kept:
            kept[key] = model(x, t, y)
        return kept[key]

    return step


@faulty
def does_nothing(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Hands out its buffer without filling it."""
    buffer = torch.zeros(case.batch, 8, case.res // 8, case.res // 8)
    return lambda x, t, y: buffer


@faulty
def garbage(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Noise of the right shape."""
    return lambda x, t, y: torch.randn(case.batch, 8, case.res // 8, case.res // 8)


@faulty
def not_a_number(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Overflowed somewhere."""
    return lambda x, t, y: model(x, t, y) * float("nan")


@faulty
def one_percent_off(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Nearly right."""
    return lambda x, t, y: 1.01 * model(x, t, y)


@faulty
def another_shape(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """The predicted noise without the variance."""
    return lambda x, t, y: model(x, t, y)[:, :4]


@faulty
def mixes_the_batch(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Adds a little of the first image to every one, but not for the inputs that the reference was made from."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out = model(x, t, y)
        return out if torch.equal(x, inputs[0]) and torch.equal(t, inputs[1]) else out + 0.1 * out[:1]

    return step


# Right forwards, wrong backwards


@faulty
def half_a_gradient(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Its backward pass forgets half of what the forward pass did."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out = model(x, t, y)
        return out.detach() / 2 + out / 2

    return step


# Right when they are proved, wrong afterwards


@faulty
def drifts(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Every call after the proof adds 1 % to the output."""
    calls = 0

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model(x, t, y) * (1 + 0.01 * max(0, calls - PROVED))

    return step


@faulty
def gives_up(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Stops computing after the proof and hands out its buffer."""
    outputs: list[Tensor] = []

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if len(outputs) < PROVED:
            outputs.append(model(x, t, y))
        return outputs[-1]

    return step


@faulty
def compiles_again(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Part of it is compiled for a shape that grows with each call after the proof."""
    torch._dynamo.reset()
    toy = torch.compile(torch.nn.Flatten(0), backend="eager", dynamic=False)
    calls = 0

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        with torch._dynamo.config.patch(error_on_recompile=True):
            toy(torch.zeros(2, max(1, calls - PROVED)))
        return model(x, t, y)

    return step


# Right, and impossibly fast


@faulty
def knows_the_answers(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Has computed the known input sets beforehand, and looks up what it has seen: every output is right."""
    kept: dict[bytes, Tensor] = {}

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        key = b"".join(v.float().numpy().tobytes() for v in (x, t, y))
        if key not in kept:
            kept[key] = model(x, t, y)
        return kept[key]

    for x, t, y in input_sets(case):
        step(x.to(inputs[0].dtype), t, y)
    return step


knows_them_too = knows_the_answers


# Errors


@faulty
def cannot_open(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Fails to prepare."""
    raise ValueError("no engine for this model\nand a second line")


@faulty
def cannot_step(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Fails at the first call."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        raise KeyError("output")

    return step


@faulty
def breaks_while_timed(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Fails after the proof, with an error of no kind that torch raises."""
    calls = 0

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > PROVED + 3:
            raise LookupError("lost the session")
        return model(x, t, y)

    return step


@faulty
def too_large(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Asks for more memory than any machine has."""

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        torch.empty(2**60, dtype=torch.uint8, device=x.device)
        return model(x, t, y)

    return step


@faulty
def too_large_while_timed(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """The same, after the proof."""
    calls = 0

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > PROVED + 3:
            torch.empty(2**60, dtype=torch.uint8, device=x.device)
        return model(x, t, y)

    return step


# The end of the process


@faulty
def exits(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """A library that calls exit."""
    print("faulty library: giving up", file=sys.stderr, flush=True)
    os._exit(3)


@faulty
def is_killed(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """As the system does when memory runs out; in the timed part, where a sampler runs beside it."""
    calls = 0

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > PROVED + 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return model(x, t, y)

    return step


@faulty
def hangs(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Waits for a device that never answers."""
    time.sleep(3600)
    raise AssertionError


# Nothing wrong with these


@faulty
def prints(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Right, and talks on stdout, from Python and from below it."""
    print("library: loading", flush=True)
    os.write(1, b'{"measurement": "library: not a line of ours"}\n')
    return model


@contextmanager
def _open_eager(model: nn.Module, case: Case, inputs: Inputs) -> Iterator[Step]:
    yield model


fine = Backend("fine", "eager by another name", _open_eager)
needs_a_licence = Backend("needs_a_licence", "", _open_eager, unsupported=lambda case: "needs a licence")
not_a_backend = "a text"


@faulty
def crashes_and_leaves_a_child(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """As a compiler with helper processes does: they go on holding the pipes of the dead."""
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGSEGV)
    return model


# Steps that execute fewer products than direct convolution: no fault, but for the second's word alone


class Saving:
    """A step that says that its last call saved three quarters of the multiply-accumulates of its network."""

    def __init__(self, step: Step, saved_macs: int) -> None:
        self.step, self.saved_macs = step, saved_macs

    def __call__(self, *given: Tensor) -> Tensor:
        return self.step(*given)


@faulty
def saves_products(model: nn.Module, case: Case, inputs: Inputs) -> Step:
    """Notes what it saved: a million multiply-accumulates an image."""
    return Saving(model, case.batch * 1_000_000)
