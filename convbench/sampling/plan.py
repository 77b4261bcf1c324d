"""Plan of ``convbench throughput --sampling``: the timed sampling of images. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from ..catalogue import Variant
from ..errors import UsageError
from . import sampler_names

FORM = "steps=250,cfg=1.5,decode=yes, optionally sampler=NAME and vae=PATH"


@dataclass(frozen=True)
class Plan:
    """Sampling settings of a timed case."""

    steps: int = 250
    cfg: float = 1.5  # guidance scale; 1 for none
    decode: bool = False
    sampler: str = "iddpm"
    vae: str | None = None  # None: the layers of the usual autoencoder with random weights, which take the same time

    @classmethod
    def of_text(cls, text: str, variant: Variant) -> "Plan":
        """Parse "steps=250,cfg=1.5,decode=yes". Raises UsageError that names the invalid part and the valid form."""
        words: dict[str, Any] = {"sampler": sampler_names.default_sampler(variant.signature)}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or key not in cls.__dataclass_fields__:
                raise UsageError(f"--sampling {part}: the form is {FORM}")
            try:
                words[key] = _PARSERS[key](value)
            except (ValueError, KeyError):
                raise UsageError(f"--sampling {key}={value}: the form is {FORM}") from None
        plan = cls(**{"steps": sampler_names.default_steps(words["sampler"]), **words})
        if plan.cfg < 0 or plan.cfg != plan.cfg or plan.cfg == float("inf"):
            raise UsageError(f"--sampling cfg={plan.cfg:g}: the scale must be at least 0; 1 disables guidance")
        return plan

    def __str__(self) -> str:
        parts = [f"steps={self.steps}", f"cfg={self.cfg:g}", f"decode={'yes' if self.decode else 'no'}"]
        return ",".join([*parts, f"sampler={self.sampler}"] + ([f"vae={self.vae}"] if self.vae else []))


def _parse_yes_no(value: str) -> bool:
    return {"yes": True, "no": False}[value]


_PARSERS: dict[str, Any] = {"steps": int, "cfg": float, "decode": _parse_yes_no, "sampler": str, "vae": str}
