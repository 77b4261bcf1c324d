"""The trajectories that are timed: step after step, their parts alone, and the decoding of what they end in."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import precision
from ..catalogue import Signature, find
from ..counting import count
from ..models.cuts import Cut
from ..sampling import caches, decoding
from ..sampling.decoders import decoder_of
from ..sampling.guidance import guided
from ..sampling.guidance_interval import within
from ..sampling.noise import PerImage
from ..sampling.plan import Plan
from ..sampling.random_decoder import DecoderNetwork, random_decoder
from ..sampling.sampler import Model, Sampler
from ..schema import Case
from .opening import Opened


class Trajectories:
    """One trajectory after the other and the parts of a step; a call is a step, or a trajectory if they are uneven."""

    def __init__(
        self,
        case: Case,
        plan: Plan,
        made: Sampler,
        opened: Opened,
        alone: Callable[..., Tensor] | None = None,
        cut: Cut | None = None,
    ) -> None:
        """Prepare trajectories of an opened case.

        Args:
            alone: the engine for steps without guidance, if it is another.
            cut: of the network, for a plan with a cache.
        """
        self.takes, self.plan, self.made, self.alone = find(case.model).signature, plan, made, alone
        self.kind, side = precision.dtype_of(case.precision), case.res // self.takes.factor
        self.step = opened.step
        self.cut = replace(cut, inner=self._counted(cut.inner)) if cut else None
        self.noise = PerImage(0, range(case.batch), (self.takes.channels, side, side), case.device)
        self.start = self.noise.start()
        self.labels, self.null = conditions_of(self.takes, case)
        self.steps_a_call = 1 if plan.even else made.steps
        self.whole_images = 0  # that passed through the whole network in the last trajectory
        self.share = 1.0  # of the passes that the plan without its methods would have
        self.model = self.begin()
        self.states = made.trajectory(self.model, self.start, self.noise)
        self.last = self.start

    def begin(self) -> Model:
        """Start a trajectory. -> the network with its classes, guidance and methods"""
        self.whole_images = 0
        if self.plan.cache and self.cut:
            run = caches.begin(self.plan.cache, self.cut)
        elif self.plan.cfg_interval:
            run = self._counted(self._of_either_size)
        else:
            run = self.step
        guided_model = self._guided(run, self.plan.cfg)
        if not self.plan.cfg_interval:
            return guided_model
        return within(self.plan.cfg_interval, self.takes, guided_model, self._guided(run, 1.0))

    def _guided(self, run: Callable[..., Tensor], scale: float) -> Model:
        return guided(lambda x, t, y: run(x.to(self.kind), t, y), self.labels, self.null, scale)

    def _of_either_size(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return (self.alone if self.alone and len(x) == len(self.start) else self.step)(x, t, y)

    def _counted(self, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*inputs: Tensor) -> Tensor:
            self.whole_images += len(inputs[0])
            return run(*inputs)

        return counted

    def __call__(self) -> Tensor:
        if not self.plan.even:
            self.whole()
            return self.last
        state = next(self.states, None)
        if state is None:
            self.states = self.made.trajectory(self.model, self.start, self.noise)
            state = next(self.states)
        return state

    def parts(self) -> dict[str, Callable[[], object]]:
        """The whole step, the network under guidance, and where all steps are alike the rest of a step."""
        t = torch.full((len(self.start),), self.made.times[0], device=self.start.device)
        model = self.model if self.plan.even else self._guided(self.step, self.plan.cfg)
        result = model(self.start, t).float()
        parts: dict[str, Callable[[], object]] = {"step": self, "forward": lambda: model(self.start, t)}
        return parts | ({"sampler": _updates(self, result)} if self.plan.even else {})

    def whole(self) -> None:
        """Run a trajectory from end to end."""
        self.last = self.made.sample(self.begin(), self.start, self.noise)
        if not self.plan.even:
            full = self.made.steps * len(self.start) * (1 if self.plan.cfg == 1 else 2)
            self.share = self.whole_images / full


def conditions_of(takes: Signature, case: Case) -> tuple[Tensor, int | Tensor]:
    """Return the conditions of a batch of images and those of no condition: classes, or captions (B, tokens, width)."""
    if takes.caption:
        captions = torch.randn(case.batch, *takes.caption, generator=torch.Generator().manual_seed(0))
        return captions.to(case.device), torch.zeros(takes.caption, device=case.device)
    return torch.arange(case.batch, device=case.device) % takes.classes, takes.classes


def _updates(trajectories: Trajectories, result: Tensor) -> Callable[[], object]:
    """Return a call of the update rule without the network: step after step, always on the start of a trajectory."""
    update, step = trajectories.made.begin(), 0

    def run() -> Tensor:
        nonlocal update, step
        if step == trajectories.made.steps:
            update, step = trajectories.made.begin(), 0
        x = update(step, trajectories.start, result, trajectories.noise)
        step += 1
        return x

    return run


def decoder_call(case: Case, plan: Plan, start: Tensor) -> Callable[[], object]:
    """Return the call that decodes a batch of latents ``start`` (B, C, h, w) to bytes on the host."""
    takes = find(case.model).signature
    if not plan.decode:
        return lambda: None
    if has_random_decoder(case, plan):
        decode: decoding.Decoder = random_decoder(case.device, takes)
    else:
        decode = decoding.create_decoder(takes, plan.vae, case.device)
    return lambda: decoding.bytes_from_pixels(decode(start)).cpu()


def has_random_decoder(case: Case, plan: Plan) -> bool:
    """True if latents are decoded by a decoder with random weights."""
    return plan.decode and not plan.vae and not find(case.model).signature.in_pixels


def decoder_facts(case: Case, plan: Plan) -> dict[str, Any]:
    """Name and MACs of a decoder with random weights; nothing for any other."""
    if not has_random_decoder(case, plan):
        return {}
    takes = find(case.model).signature
    side = case.res // takes.factor
    with torch.device("meta"):
        network = DecoderNetwork(decoder_of(takes)).eval()
        counted = count(network, (torch.empty(1, takes.channels, side, side),))
    return {"decoder": network.name, "decoder_macs": counted.macs}
