"""Sampling throughput: finished images/s through all steps, and which part of it the time goes to.

A trajectory repeats one step, so steps are timed in blocks, as forward passes are, and a whole trajectory is run
once beside them, where that is not too long, to see that it takes what its steps promise.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from statistics import median
from typing import Any

import torch
from torch import Tensor

from .. import backends, environment, precision
from ..catalogue import find
from ..checks import machine, timing
from ..checks import output as proof
from ..checks.output import Finding
from ..errors import ConvbenchError, UsageError
from ..sampling import decoding
from ..sampling.guidance import guided
from ..sampling.images import sampler_for
from ..sampling.noise import PerImage
from ..sampling.plan import Plan, new_row
from ..sampling.sampler import Model, Sampler
from ..schema import Case, Measurement
from ..timing import memory
from ..timing.calibration import limit
from ..timing.clock import RULES, Clock, Lane, Rules, clock_of, time_lanes
from ..timing.intervals import median_interval
from ..timing.telemetry.recorder import Recorder
from . import forward as measure

Report = Callable[[str, float], None]
WHOLE_AGREES = 0.1  # a whole trajectory against the sum of its steps, as a share; a busy CPU moves one run that far
PARTS = 0.25  # of the time of the step itself, that each part is timed for


def measure_sampling(
    case: Case,
    plan: Plan,
    rules: Rules | None = None,
    report: Report = lambda what, done: None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Time a case of sampling; the row of ``plan.new_row``, filled in as far as it came.

    Raises ConvbenchError for what a user can mend before any work.
    """
    rules, clock = rules or RULES[case.device], clock or clock_of(case.device)
    row = new_row(case, plan) | {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    made = sampler_for(find(case.model), plan.sampler, plan.steps)
    with ExitStack() as stack, torch.inference_mode():
        try:
            _measure(case, plan, made, row, rules, clock, report, stack)
        except ConvbenchError:
            raise
        except Exception as error:  # a backend may raise anything; the row says what
            result = Measurement.of(case)
            measure._fail(result, error)
            row |= {"status": result.status, "verdict": result.verdict, "reason": result.reason}
    return row


def _measure(
    case: Case,
    plan: Plan,
    made: Sampler,
    row: dict[str, Any],
    rules: Rules,
    clock: Clock,
    report: Report,
    stack: ExitStack,
) -> None:
    if case.threads:
        torch.set_num_threads(case.threads)
    torch.set_flush_denormal(True)
    stack.callback(torch.set_flush_denormal, False)
    torch.backends.cudnn.benchmark = True
    row["environment"] = environment.describe()
    short = replace(rules, min_s=PARTS * rules.min_s, cap_s=PARTS * rules.cap_s)
    around = functools.partial(precision.applied, case.precision)

    plain, beside = None, backends.find(case.backend).eager
    if plan.cfg != 1:
        with ExitStack() as own:
            alone = _opened(case, row, clock, report, stack if beside else own)
            if not alone:
                return
            plain = alone.lane
            if not beside:  # an engine of another batch size may not live beside the one that is used
                time_lanes([plain], clock, short)
    opened = _opened(case if plan.cfg == 1 else replace(case, batch=2 * case.batch), row, clock, report, stack)
    if not opened:
        return

    walk = _Walk(case, plan, made, opened.step)
    lanes = {name: Lane(run, around) for name, run in walk.parts().items()}
    lanes["decoder"] = Lane(_decoder(case, plan, walk.start), around)
    memory.reset_peak(case.device)
    with Recorder(case.device) as recorder:
        time_lanes([lanes["step"]], clock, rules, lambda done: report("timing steps", done), timed=recorder.timed)
        parts = [lanes["forward"], lanes["sampler"]] + ([plain] if plain and beside else [])
        time_lanes(parts, clock, short, lambda done: report("timing parts", done))
        if plan.decode:
            time_lanes([lanes["decoder"]], clock, short, lambda done: report("timing the decoder", done))
    row["load"] = recorder.summary()
    report("checking", 1)
    _fill(row, case, plan, lanes, plain)

    samples, step_s = lanes["step"].block_s, row["step_s"]
    with around():
        floor = limit(opened.counted, opened.case.batch, opened.rates, 0)
        found = [
            proof.unchanged(opened.step, opened.sets[0], opened.proof.outputs[0], case.precision),
            timing.linearity(lanes["step"], clock, case.device),
            timing.clocks(lanes["step"].blocks),
            timing.floor(step_s, floor.seconds),
            timing.drift(samples, rules),
            timing.width(lanes["step"], rules),
            *machine.findings(row["load"], recorder.facts),
        ]
        if plan.steps * step_s <= rules.cap_s:
            found += [_whole(row, walk, clock, plan.steps * step_s)]
    row["status"] = "ok"
    row["verdict"], row["reason"] = proof.report([finding for finding in found if finding])
    if plan.decode and plan.vae is None and find(case.model).signature.factor != 1:
        row["reason"] = "; ".join(filter(None, [row["reason"], "the decoder has random weights"]))


def _opened(case: Case, row: dict[str, Any], clock: Clock, report: Report, stack: ExitStack) -> "measure.Opened | None":
    """The proved step of a forward pass; None where it is wrong, which the row then says."""
    result = Measurement.of(case)
    subject = measure._subject(case, report)
    report("proving", 0)
    opened = measure._open(case, result, subject, True, clock, stack)
    row["error_vs_fp32"], row["flags"], row["prepare_s"] = result.error_vs_fp32, result.flags, result.prepare_s
    if opened.proof.findings:
        row["status"] = "wrong"
        row["verdict"], row["reason"] = proof.report(opened.proof.findings)
        return None
    return opened


class _Walk:
    """One trajectory after the other, a step a call, and the parts of a step for themselves."""

    def __init__(self, case: Case, plan: Plan, made: Sampler, step: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        takes = find(case.model).signature
        kind, side = precision.dtype_of(case.precision), case.res // takes.factor
        self.made = made
        self.noise = PerImage(0, range(case.batch), (takes.channels, side, side), case.device)
        self.start = self.noise.start()
        labels = torch.arange(case.batch, device=case.device) % takes.classes
        self.model: Model = guided(lambda x, t, y: step(x.to(kind), t, y), labels, takes.classes, plan.cfg)
        self.states = made.trajectory(self.model, self.start, self.noise)
        self.last = self.start

    def __call__(self) -> Tensor:
        state = next(self.states, None)
        if state is None:
            self.states = self.made.trajectory(self.model, self.start, self.noise)
            state = next(self.states)
        return state

    def parts(self) -> dict[str, Callable[[], object]]:
        """The whole step, the network under guidance, and the rest of a step on an output of the network."""
        t = torch.full((len(self.start),), self.made.times[0], device=self.start.device)
        output = self.model(self.start, t).float()
        return {"step": self, "forward": lambda: self.model(self.start, t), "sampler": _updates(self, output)}

    def whole(self) -> None:
        """A trajectory from end to end."""
        self.last = self.made.sample(self.model, self.start, self.noise)


def _updates(walk: _Walk, output: Tensor) -> Callable[[], object]:
    """The update rule alone, step after step, always on the start of a trajectory."""
    update, step = walk.made.begin(), 0

    def run() -> Tensor:
        nonlocal update, step
        if step == walk.made.steps:
            update, step = walk.made.begin(), 0
        x = update(step, walk.start, output, walk.noise)
        step += 1
        return x

    return run


def _decoder(case: Case, plan: Plan, start: Tensor) -> Callable[[], object]:
    """Decoding a batch to bytes on the host."""
    takes = find(case.model).signature
    if not plan.decode:
        return lambda: None
    if takes.factor == 1 or plan.vae:
        decode = decoding.decoder(takes, plan.vae, case.device)
    else:
        decode = random_decoder(case.device)
    return lambda: decoding.bytes_from_pixels(decode(start)).cpu()


def random_decoder(device: str) -> decoding.Decoder:
    """The decoder of sd-vae-ft-ema and its relatives with random weights: what it computes takes the same time."""
    try:
        diffusers: Any = import_module("diffusers")
    except ImportError:
        raise UsageError(
            "decode=yes needs diffusers: pip install 'convbench[sample]'; or leave it away (decode=no)"
        ) from None
    blocks: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
    }
    model: Any = diffusers.AutoencoderKL(latent_channels=4, layers_per_block=2, **blocks)
    model.requires_grad_(False).eval().to(device)

    def decode(x: Tensor) -> Tensor:
        pixels: Tensor = model.decode(x / decoding.SCALE, return_dict=False)[0]
        return pixels

    return decode


def _fill(row: dict[str, Any], case: Case, plan: Plan, lanes: dict[str, Lane], plain: Lane | None) -> None:
    """Write what the samples say. All parts are seconds of one finished image."""
    step, forward, update = (median(lanes[name].block_s) for name in ("step", "forward", "sampler"))
    fast, slow = median_interval(lanes["step"].block_s)
    decode, decode_fast, decode_slow = 0.0, 0.0, 0.0
    if plan.decode:
        decode = median(lanes["decoder"].block_s)
        decode_fast, decode_slow = median_interval(lanes["decoder"].block_s)
    batch, steps = case.batch, plan.steps
    backbone = forward if plain is None else median(plain.block_s)
    row |= {
        "finished_images_per_s": batch / (steps * step + decode),
        "finished_images_per_s_low": batch / (steps * slow + decode_slow),
        "finished_images_per_s_high": batch / (steps * fast + decode_fast),
        "backbone_s": steps * backbone / batch,
        "guidance_s": None if plain is None else steps * (forward - backbone) / batch,
        "sampler_s": steps * update / batch,
        "decoder_s": decode / batch if plan.decode else None,
        "unattributed_s": steps * (step - forward - update) / batch,
        "step_s": step,
        "blocks": {name: lane.block_s for name, lane in lanes.items() if lane.blocks}
        | ({"backbone": plain.block_s} if plain else {}),
    }


def _whole(row: dict[str, Any], walk: _Walk, clock: Clock, expected_s: float) -> Finding | None:
    """LIN over a trajectory: run from end to end, it takes what its steps say; SUM: it ends in finite images."""
    row["whole_s"] = clock.block(walk.whole, 1).total_s
    if not walk.last.isfinite().all():
        return Finding("SUM", "a trajectory ends in values that are not finite", invalid=False)
    if abs(row["whole_s"] / expected_s - 1) <= WHOLE_AGREES:
        return None
    return Finding(
        "LIN", f"a whole trajectory took {row['whole_s']:.3g} s, its steps {expected_s:.3g} s", invalid=False
    )
