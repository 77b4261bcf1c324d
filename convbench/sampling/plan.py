"""Plan of ``convbench throughput --sampling``: the timed sampling of images. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from ..catalogue import Variant
from ..errors import UsageError
from . import sampler_names
from .method_names import CacheChoice, Interval, interval_of_text, require_interval

FORM = "steps=250,cfg=1.5,decode=yes, optionally sampler=NAME, cache=KIND, cfg-interval=LOW..HIGH and vae=PATH"


@dataclass(frozen=True)
class Plan:
    """Sampling settings of a timed case."""

    steps: int = 250
    cfg: float = 1.5  # guidance scale; 1 for none
    decode: bool = False
    sampler: str = "iddpm"
    vae: str | None = None  # None: the layers of the usual autoencoder with random weights, which take the same time
    cache: CacheChoice | None = None  # of features between steps
    cfg_interval: Interval | None = None  # guidance only there: shares of the way from noise to data

    @property
    def even(self) -> bool:
        """True if all steps are alike, so that the time of one says the time of all."""
        return self.cache is None and self.cfg_interval is None

    @classmethod
    def of_text(cls, text: str, variant: Variant) -> "Plan":
        """Parse "steps=250,cfg=1.5,decode=yes". Raises UsageError that names the invalid part and the valid form."""
        words: dict[str, Any] = {"sampler": sampler_names.default_sampler(variant.signature)}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or key not in _PARSERS:
                raise UsageError(f"--sampling {part}: the form is {FORM}")
            try:
                words[key.replace("-", "_")] = _PARSERS[key](value)
            except UsageError as error:
                raise UsageError(f"--sampling {error}") from None
            except (ValueError, KeyError):
                raise UsageError(f"--sampling {key}={value}: the form is {FORM}") from None
        plan = cls(**{"steps": sampler_names.default_steps(words["sampler"]), **words})
        if plan.cfg < 0 or plan.cfg != plan.cfg or plan.cfg == float("inf"):
            raise UsageError(f"--sampling cfg={plan.cfg:g}: the scale must be at least 0; 1 disables guidance")
        if plan.cfg_interval:
            require_interval(variant, plan.cfg)
        return plan

    def __str__(self) -> str:
        parts = [f"steps={self.steps}", f"cfg={self.cfg:g}", f"decode={'yes' if self.decode else 'no'}"]
        parts += [f"sampler={self.sampler}"] + ([f"vae={self.vae}"] if self.vae else [])
        parts += [f"cache={self.cache}"] if self.cache else []
        parts += ["cfg-interval={:g}..{:g}".format(*self.cfg_interval)] if self.cfg_interval else []
        return ",".join(parts)


def _parse_yes_no(value: str) -> bool:
    return {"yes": True, "no": False}[value]


_PARSERS: dict[str, Any] = {
    **{"steps": int, "cfg": float, "decode": _parse_yes_no, "sampler": str, "vae": str},
    **{"cache": CacheChoice.of_text, "cfg-interval": interval_of_text},
}
