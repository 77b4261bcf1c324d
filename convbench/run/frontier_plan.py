"""Plan of ``convbench pareto``: which ways to sample are tried for a model, how many images, and who judges them."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from .. import backends, catalogue
from ..errors import UsageError
from ..export import folder
from ..measure.quality import SamplingWay
from ..sampling import classifier, decoding, sampler_names, verdict
from ..sampling.feature_network import FeatureNetwork
from ..sampling.images import sampler_for
from ..sampling.judge import Judge
from ..sampling.method_names import ISOTROPIC, U_SHAPED
from ..sampling.plan import Plan
from ..schema import Case, Second
from ..weights import locate
from . import survey

MOST_BATCH, BATCH = 100, 50  # images at once: one of each class up to the first, else the second
CHEAPEST_STEP = 0.5  # of a whole step: about what a step costs whose inner part is kept


@dataclass(frozen=True)
class FrontierRequest:
    """A request for a frontier."""

    model: str
    res: int | None = None
    cfg: float = 1.5
    weights: str | None = None
    device: str = "cpu"
    threads: int | None = None
    seed: int = 0
    images: int | None = None  # None: as many as the margins need
    batch: int | None = None  # None: one of each class, with many classes 50
    sampling: tuple[str, ...] = ()  # plans in place of the table's
    engines: tuple[tuple[str, str], ...] = ()  # backends and precisions that run the reference's plan too
    artefacts: tuple[Path, ...] = ()  # the same of exported files
    budget_s: Second | None = None
    vae: str | None = None  # decoder of latents
    reference: Path | None = None  # statistics of real images; the distance from them is judged
    features: Path | None = None  # the network whose features they are
    on: str | None = None  # kind of node of a cluster


@dataclass(frozen=True)
class PlannedRace:
    """A checked request: the ways to sample, the reference first."""

    wanted: FrontierRequest
    judge: Judge
    images: int
    batch: int
    ways: tuple[SamplingWay, ...]

    @property
    def variant(self) -> catalogue.Variant:
        return catalogue.find(self.wanted.model)

    @property
    def res(self) -> int:
        return self.wanted.res or self.variant.res

    @property
    def id(self) -> str:
        """Names the race: the case of its reference."""
        return self.case_of(self.ways[0])

    def case_of(self, way: SamplingWay) -> str:
        """Names the row of a way in a result file."""
        wanted = self.wanted
        case = Case(
            wanted.model,
            self.res,
            self.batch,
            way.backend,
            way.precision,
            wanted.device,
            threads=wanted.threads,
            weights=wanted.weights,
            on=wanted.on,
        )
        judged = "".join(f"/{digest[:16]}" for digest in self.judge.origin().values())
        return f"{case.id}/{way.plan}/seed={wanted.seed}/images={self.images}{judged}"


@cache
def table() -> dict[str, Any]:
    """Read what is tried."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def planned(wanted: FrontierRequest, elsewhere: bool = False) -> PlannedRace:
    """Check a request and list its ways. Raises UsageError for what cannot be, before anything is sampled.

    Args:
        elsewhere: it runs on another machine: engines that cannot run here may run there.
    """
    variant = catalogue.find(wanted.model)
    res = wanted.res or variant.res
    variant.require_res(res)
    if wanted.reference is None and wanted.features is None and classifier.set_of(variant, res) is None:
        known = ", ".join(each.id for each in catalogue.variants().values() if classifier.set_of(each, each.res))
        raise UsageError(
            f"no classifier judges the images of {variant.id} at {res} px: give --reference with statistics of real "
            f"images (.npz) and --features with the network that they are of, or one of the models with one: {known}"
        )
    if wanted.vae and variant.signature.in_pixels:
        raise UsageError(f"--vae decodes latents, and {variant.id} samples pixels: omit it")
    if not variant.signature.in_pixels:
        decoding.require_decoder(variant.signature, wanted.vae, otherwise="")
    if wanted.weights is None and variant.shipped_weights is None:
        raise UsageError(f"convbench ships no weights of {variant.id}: specify --weights with {locate.KINDS}")
    kind = sampler_names.prediction(variant.signature)
    if kind not in table():
        raise UsageError(
            f"{variant.id} predicts {kind}: pareto has settings only for models that predict {' or '.join(table())}"
        )
    tried = table()[kind]
    shape = variant.family.module
    shaped = tried["u_shaped"] if shape in U_SHAPED else tried["isotropic"] if shape in ISOTROPIC else []
    texts = wanted.sampling or (*tried["fewer_steps"], *tried["methods"], *shaped)
    if wanted.cfg == 1 and not wanted.sampling:
        texts = tuple(text for text in texts if "cfg-interval" not in text)
    reference = SamplingWay(_plan(tried["reference"], wanted, variant), role="reference")
    ways = [reference]
    for text in texts:
        plan = _plan(text, wanted, variant)
        if plan.cache:
            plan.cache.require(variant, "eager")
        sampler_for(variant, plan.sampler, plan.steps)
        ways.append(SamplingWay(plan, role="fewer steps" if plan.even else "method"))
    for backend, precision in wanted.engines:
        case = Case(wanted.model, res, 2, backend, precision, wanted.device, weights=wanted.weights)
        if reason := None if elsewhere else backends.find(backend).unsupported(case):
            raise UsageError(f"{backend}/{precision} cannot run {variant.id}: {reason}")
        ways.append(replace(reference, backend=backend, precision=precision, role="method"))
    for path in wanted.artefacts:
        manifest = folder.read(path)
        ways.append(SamplingWay(reference.plan, f"{manifest.to}:{path.name}", manifest.precision, path))
    ways = list({way.name: way for way in reversed(ways)}.values())[::-1]
    classes, judge = variant.signature.classes, _judge(wanted, variant, res)
    batch = wanted.batch or (classes if classes <= MOST_BATCH else BATCH)
    images = wanted.images or verdict.planned_images(judge, classes)
    images = math.ceil(images / batch) * batch
    return PlannedRace(wanted, judge, images, batch, tuple(ways))


def _judge(wanted: FrontierRequest, variant: catalogue.Variant, res: int) -> Judge:
    if wanted.reference and wanted.features:
        return _feature_network(wanted.reference, wanted.features, res, wanted.device)
    if wanted.reference or wanted.features:
        raise UsageError(
            "--reference and --features belong together: statistics of real images (.npz), and the network that "
            "computes the features that they are of (TorchScript)"
        )
    return classifier.classifier(str(classifier.set_of(variant, res)))


@cache
def _feature_network(statistics: Path, network: Path, res: int, device: str) -> FeatureNetwork:
    """The judge of all races of a command, so that its statistics are decomposed once."""
    return FeatureNetwork(statistics, network, res, device)


def _plan(text: str, wanted: FrontierRequest, variant: catalogue.Variant) -> Plan:
    keys = [part.partition("=")[0].strip() for part in text.split(",")]
    prefix = "" if "cfg" in keys else f"cfg={wanted.cfg:g},"
    full = table()[sampler_names.prediction(variant.signature)]["reference"]
    default = "" if "steps" in keys or "sampler" in keys else f"{full},"
    plan = Plan.of_text(f"{default}{prefix}{text}", variant)
    return replace(plan, decode=not variant.signature.in_pixels, vae=wanted.vae)


def expected_s(found: PlannedRace) -> Second:
    """Seconds of a whole race, from the rates of this machine; methods count twice, with their plain counterparts."""
    wanted = found.wanted
    case = Case(wanted.model, found.res, 2 * found.batch, "eager", "fp32", wanted.device, threads=wanted.threads)
    step_s = survey.need(case).step_s
    total = 0.0
    for way in found.ways:
        steps = sampler_for(found.variant, way.plan.sampler, way.plan.steps).steps
        share = CHEAPEST_STEP if way.plan.cache else 1.0
        total += (2 if way.role == "method" else 1) * share * steps * step_s * found.images / found.batch
    return total
