"""Families, variants, papers and devices, read once from the .toml files of this folder and of ``models/``."""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UsageError

FOLDER = Path(__file__).parent
MAX_RES = 16384  # pixels: eight times the largest in any of the papers


@dataclass(frozen=True)
class Family:
    """A published family of models: one .toml file."""

    module: str  # stem of the .py file that implements it
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.facts["family"])

    @property
    def published(self) -> list[dict[str, Any]]:
        """Published numbers, one dictionary per line of a paper's table."""
        return list(self.facts.get("published", []))

    @property
    def quoted(self) -> list[dict[str, Any]]:
        """Printed quality and sizes from elsewhere, one dictionary per line; ``where`` names the table or file."""
        return list(self.facts.get("quoted", []))


@dataclass(frozen=True)
class Signature:
    """Inputs and output of a network: ``inputs`` in the .toml of a family or in one of its variants.

    x (B, channels, S, S) with S = res / factor; t (B,) float32; y (B,) class indices, or with ``caption``
    (B, tokens, width) float32 text embeddings.
    """

    channels: int = 4
    factor: int = (
        8  # image pixels per pixel of x along a side: 8 for the usual latents, 1 in pixel space; ``in_pixels``
    )
    classes: int = 1000
    null_class: bool = True  # y = classes means no class
    caption: tuple[int, int] | None = None  # (tokens, width)
    t_start: float = 0  # above 0: t is a noise level, uniform on a logarithmic scale from t_start to t_end
    t_end: float = 1000  # t lies in [t_start, t_end): whole diffusion steps, or with 1 the time of flow matching
    noise: float = 1  # standard deviation of the noise that images are mixed with
    # Or "noise"; "velocity" (data minus noise); "reverse velocity" (noise minus data); the clean image as "data" in
    # flow matching or "denoised" for a noise level; "logits" of a classifier.
    predicts: str = "noise and variance"
    takes: tuple[str, ...] = ("x", "t", "y")  # what the output depends on
    guided_channels: int | None = None  # by the published guidance; None: as DiT, the first three of four or more
    guidance_interval: tuple[float, float] | None = None  # range of t with guidance; None: always
    guidance_power: float | None = None  # of the power-cosine guidance scale; None: a constant scale
    sampler: str | None = None  # the authors' sampler, if it differs from the default for the prediction
    shift: float = 1  # of the times of Euler steps: above 1 towards the data, below 1 towards the noise

    @property
    def in_pixels(self) -> bool:
        """True if x holds the pixels themselves: as they are, or squares of them folded into channels."""
        return self.channels % self.factor**2 == 0

    def time(self, step: Any) -> Any:
        """Compute t from a step, a number or tensor between 0 (``t_start``) and 1000 (``t_end``), fractions allowed."""
        if self.t_start:
            return self.t_start * (self.t_end / self.t_start) ** (step / 1000)
        return step * (self.t_end / 1000)


@dataclass(frozen=True)
class Variant:
    """One model id: a row of the family's variant table."""

    id: str
    name: str
    family: Family
    options: Mapping[str, Any]  # the constructor's arguments
    res_multiple: int
    fixed_res: bool
    # At ``res`` pixels; a test compares them with the counter, so that lists need not count. None if external.
    params: int | None
    macs: int | None
    signature: Signature = Signature()
    res: int = 256  # side in pixels of the image that ``params`` and ``macs`` are given for
    shipped: str | None = None  # file name of the trained weights in weights/shipped, if the package has some
    network: str | None = None  # class name, if it differs from the family's
    stages: tuple[str, ...] = ()  # ids of the networks that a cascade consists of
    printed_as: str | None = None  # id in the published tables, if it differs
    runs: str = "yes"  # or the requirement
    remark: str = ""  # caveats of this model
    ablated: bool = False  # an ablation of another variant (ablations.py)
    factory: Callable[[int], Any] | None = None  # external models (external.py): takes a resolution, returns a network

    @property
    def shipped_weights(self) -> Path | None:
        """Path of the trained weights that are part of the package, or None."""
        return FOLDER.parent / "weights" / "shipped" / self.shipped if self.shipped else None

    def require_res(self, res: int) -> None:
        """Raise UsageError unless the model can be built for images of ``res`` pixels."""
        if res > MAX_RES:
            raise UsageError(f"--res {res} is too large for {self.id}: at most {MAX_RES} pixels")
        if res <= 0 or res % self.res_multiple:
            below = max(self.res_multiple, res // self.res_multiple * self.res_multiple)
            near = sorted({below, below + self.res_multiple})
            raise UsageError(
                f"--res {res} is invalid for {self.id}: it must be a positive multiple of {self.res_multiple}, "
                f"such as {' or '.join(map(str, near))}"
            )

    def constructor_arguments(self, res: int) -> dict[str, Any]:
        """Keyword arguments of the family's class for images of ``res`` pixels."""
        parts = {"stages": [variants()[id].constructor_arguments(res) for id in self.stages]} if self.stages else {}
        return {**self.options, **parts, **({"res": res} if self.fixed_res else {})}


@cache
def families() -> dict[str, Family]:
    """Read every family, by the stem of its files."""
    files = sorted((FOLDER.parent / "models").glob("*.toml"))
    return {file.stem: Family(file.stem, tomllib.loads(file.read_text("utf-8"))) for file in files}


@cache
def variants() -> dict[str, Variant]:
    """Build every variant by its id, in the order of the families' tables."""
    return {variant.id: variant for family in families().values() for variant in _rows(family)}


def _rows(family: Family) -> Iterator[Variant]:
    for id, row in family.facts["variants"].items():
        options = dict(row)
        inputs = {**family.facts.get("inputs", {}), **options.pop("inputs", {})}
        inputs |= {key: tuple(inputs[key]) for key in ("caption", "guidance_interval") if key in inputs}
        yield Variant(
            id=id,
            name=options.pop("name"),
            family=family,
            res_multiple=options.pop("res_multiple", None) or family.facts["res_multiple"],
            fixed_res=family.facts["fixed_res"],
            params=options.pop("params"),
            macs=options.pop("macs"),
            signature=Signature(**inputs),
            res=options.pop("res", 256),
            shipped=options.pop("shipped", None),
            network=options.pop("class", None),
            stages=tuple(options.pop("stages", ())),
            printed_as=options.pop("printed_as", None),
            runs=options.pop("runs", None) or family.facts.get("runs", "yes"),
            remark=options.pop("remark", None) or family.facts.get("remark", ""),
            options=options,
        )


@cache
def papers() -> dict[str, dict[str, Any]]:
    """Read the papers and the conditions they state for their numbers, by the key used in the families' tables."""
    return tomllib.loads((FOLDER / "papers.toml").read_text("utf-8"))


@cache
def other_systems() -> dict[str, Any]:
    """Read the systems of the papers' tables that are not variants; keys: see the sections of published.toml."""
    return tomllib.loads((FOLDER / "published.toml").read_text("utf-8"))


def printed_only() -> dict[str, dict[str, Any]]:
    """Systems without an implementation, by id: ``name``, ``source`` and ``reason``."""
    return dict(other_systems()["printed_only"])


@cache
def devices() -> dict[str, dict[str, Any]]:
    """Read the data-sheet peaks of each device, used if nothing could be measured."""
    return tomllib.loads((FOLDER / "devices.toml").read_text("utf-8"))


def printed_lines() -> list[dict[str, Any]]:
    """List every line of every paper's tables; ``model`` is None for a line that only has a ``label``."""
    names = {id: variant.name for id, variant in variants().items()}
    own = [row for family in families().values() for row in family.published]
    return [
        {"model": None, "label": names.get(row.get("model", "")), **row} for row in own + other_systems()["published"]
    ]
