"""Several ways to sample the same images, batch by batch interleaved: what a judge sees, and the seconds of each batch.

Pixels are not kept: those of a few thousand images of a few dozen ways would fill the memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import precision
from ..catalogue import find
from ..errors import UsageError
from ..export import folder, runtimes
from ..models import create
from ..sampling import decoding, images
from ..sampling.images import Recipe, sampler_for
from ..sampling.judge import Judge, JudgedImages, joined
from ..sampling.plan import Plan
from ..sampling.sampler import Sampler
from ..schema import Second, Step
from .engine import open_engine

Report = Callable[[str, int], None]
"""Called with what is sampled and the evaluations of the network so far."""


@dataclass(frozen=True)
class SamplingWay:
    """A way to sample: a plan, and the engine that runs the network."""

    plan: Plan
    backend: str = "eager"
    precision: str = "fp32"
    artefact: Path | None = None  # a folder of `convbench export`, which takes the place of backend and precision
    role: str = "method"  # reference, fewer steps or method

    @property
    def name(self) -> str:
        """The plan in words, and the engine where it is not eager fp32."""
        engine = f"{self.backend}/{self.precision}"
        return str(self.plan) + ("" if engine == "eager/fp32" else f" on {engine}")


@dataclass
class Runner:
    """A way that is ready to sample, and what it has sampled."""

    way: SamplingWay
    recipe: Recipe
    made: Sampler
    step: Step
    stopped: str = ""  # why it sampled fewer images than others
    batches: list[JudgedImages] = field(default_factory=list)  # what the judge saw in them
    seconds: list[Second] = field(default_factory=list)
    costs: list[Second] = field(default_factory=list)  # CPU time, free of other processes; on a GPU the seconds
    _joined: JudgedImages | None = None

    @property
    def seen(self) -> JudgedImages:
        """All images so far, as the judge saw them."""
        if self._joined is None or len(self._joined) != sum(map(len, self.batches)):
            self._joined = joined(self.batches)  # it keeps what it computes
        return self._joined


class Race:
    """Ways to sample the images of one network and seed. A context manager, which closes the engines.

    Args:
        judge: what looks at the images, outside the measured time.
        vae: decoder of latents, as of ``convbench sample``; None for pixels.
    """

    def __init__(
        self,
        model: str,
        res: int,
        weights: str | None,
        device: str,
        seed: int,
        batch: int,
        judge: Judge,
        vae: str | None = None,
    ) -> None:
        self.model, self.res, self.weights, self.device = model, res, weights, device
        self.seed, self.batch, self.judge = seed, batch, judge
        self.takes = find(model).signature
        self.networks: dict[str, nn.Module] = {}  # by precision: ways share them
        self.stack = ExitStack()
        self.decode = decoding.create_decoder(self.takes, vae, device)

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *ended: Any) -> None:
        self.stack.close()

    def opened(self, way: SamplingWay) -> Runner:
        """Open the engine of a way and run it once. Raises UsageError for what cannot be, in one line."""
        plan = way.plan
        made = sampler_for(find(self.model), plan.sampler, plan.steps)
        recipe = Recipe(
            model=self.model,
            res=self.res,
            weights_sha256=None,
            sampler=plan.sampler,
            steps=plan.steps,
            cfg_scale=plan.cfg,
            guided_channels=None,
            seed=self.seed,
            labels=tuple(range(self.takes.classes)),
            backend=way.backend,
            precision=way.precision,
            decoded_by=None,
            cache=plan.cache,
            cfg_interval=plan.cfg_interval,
        )
        if way.artefact:
            step = self._artefact(way.artefact, plan)
        else:
            if way.precision not in self.networks:
                kind = precision.dtype_of(way.precision)
                self.networks[way.precision] = create(self.model, self.weights, self.device, self.res).to(kind)
            network = self.networks[way.precision]
            step = self.stack.enter_context(open_engine(recipe, self.batch, self.device, self.weights, network))
        runner = Runner(way, recipe, made, step)
        sizes = {self.batch * (1 if plan.cfg == 1 else 2)} | ({self.batch} if plan.cfg_interval else set())
        with torch.inference_mode():  # the first call of a size prepares it
            for size in sizes:
                side = self.res // self.takes.factor
                x = torch.zeros(size, self.takes.channels, side, side, device=self.device)
                step(x, x[:, 0, 0, 0], x[:, 0, 0, 0].long())
        return runner

    def _artefact(self, path: Path, plan: Plan) -> Step:
        manifest = folder.read(path)
        if (manifest.model, manifest.res) != (self.model, self.res):
            raise UsageError(f"{path} holds {manifest.model} at {manifest.res} px, not {self.model} at {self.res}")
        if plan.cache:
            raise UsageError(f"cache={plan.cache.kind} needs a network in parts, and {path} holds a whole one")
        step = self.stack.enter_context(runtimes.opened(path, torch.get_num_threads(), self.device))
        most = manifest.batch[1]

        def in_parts(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            parts = zip(x.split(most), t.contiguous().split(most), y.split(most), strict=True)
            return torch.cat([step(*part) for part in parts])

        return in_parts

    def run(self, runner: Runner, number: int, report: Report = lambda what, done: None) -> None:
        """Sample batch ``number`` of a runner, have it judged and keep its seconds."""
        numbers = range(number * self.batch, (number + 1) * self.batch)
        started, spent = time.perf_counter(), time.process_time()
        with precision.applied("fp32" if runner.way.artefact else runner.way.precision):  # files bring their own
            (done,) = images.sample(
                runner.recipe,
                runner.step,
                runner.made,
                numbers,
                self.batch,
                self.device,
                lambda _, step: report(runner.way.name, step),
            )
            pixels = self.decode(done.samples).float().cpu()  # waits for the device
        runner.seconds.append(time.perf_counter() - started)
        runner.costs.append(time.process_time() - spent if self.device == "cpu" else runner.seconds[-1])
        runner.batches.append(self.judge.look(pixels, torch.tensor(done.labels)))


def interleaved(race: Race, runners: Sequence[Runner], number: int, report: Report) -> None:
    """Sample one batch with each runner, every other time in the reverse order."""
    for runner in runners if number % 2 == 0 else runners[::-1]:
        race.run(runner, number, report)
