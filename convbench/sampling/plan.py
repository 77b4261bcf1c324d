"""What ``convbench throughput --sampling`` asks for. Imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any

from ..catalogue import Variant
from ..errors import UsageError
from ..schema import Case
from . import names

FORM = "steps=250,cfg=1.5,decode=yes, with sampler=NAME and vae=PATH where wanted"


@dataclass(frozen=True)
class Plan:
    """How images are to be sampled while it is timed."""

    steps: int = 250
    cfg: float = 1.5  # guidance scale; 1 for none
    decode: bool = False
    sampler: str = "iddpm"
    vae: str | None = None  # None: the usual autoencoder's layers with random weights, which take the same time

    @classmethod
    def of_text(cls, text: str, variant: Variant) -> "Plan":
        """From "steps=250,cfg=1.5,decode=yes". Raises UsageError that says what is wrong and what would be right."""
        words: dict[str, Any] = {"sampler": names.default(variant.signature)}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or key not in cls.__dataclass_fields__:
                raise UsageError(f"--sampling {part}: the form is {FORM}")
            try:
                words[key] = _READ[key](value)
            except (ValueError, KeyError):
                raise UsageError(f"--sampling {key}={value}: the form is {FORM}") from None
        plan = cls(**{"steps": names.steps(words["sampler"]), **words})
        if plan.cfg < 0 or plan.cfg != plan.cfg or plan.cfg == float("inf"):
            raise UsageError(f"--sampling cfg={plan.cfg:g}: a scale is 0 or more, 1 for no guidance")
        return plan

    def __str__(self) -> str:
        parts = [f"steps={self.steps}", f"cfg={self.cfg:g}", f"decode={'yes' if self.decode else 'no'}"]
        return ",".join([*parts, f"sampler={self.sampler}"] + ([f"vae={self.vae}"] if self.vae else []))

    def id(self, case: Case) -> str:
        """Names a case of sampling; never the name of a case of forward passes."""
        return f"{case.id}/{self}"


def new_row(case: Case, plan: Plan) -> dict[str, Any]:
    """A result with nothing measured yet. Its keys are its own, so that no table ranks it among forward passes."""
    return {
        "sampling_case": plan.id(case),
        **asdict(case),
        **{"sampler": plan.sampler, "steps": plan.steps, "cfg_scale": plan.cfg, "decode": plan.decode},
        **{"status": "failed", "verdict": None, "reason": ""},
        **dict.fromkeys(NUMBERS),
        **{"blocks": {}, "flags": {}, "load": {}, "environment": {}, "measured_at": ""},
    }


NUMBERS = (
    "finished_images_per_s",  # batch / seconds of a whole batch: all steps, and the decoder if asked for
    "finished_images_per_s_low",  # 95 % interval: the ends of its parts' intervals, added up
    "finished_images_per_s_high",
    "backbone_s",  # of one finished image: forwards without guidance
    "guidance_s",  # what the forward of twice the batch takes beyond that; None without guidance
    "sampler_s",  # the update of the state, its noise included
    "decoder_s",  # None where nothing is decoded
    "unattributed_s",  # what a whole step takes beyond the sum of its parts; below zero where they overlap
    "step_s",  # of the whole batch
    "whole_s",  # of a trajectory that was run from end to end; None where that would have taken too long
    "error_vs_fp32",  # of the guided batch's forward
    "prepare_s",
)


def _yes(value: str) -> bool:
    return {"yes": True, "no": False}[value]


_READ: dict[str, Any] = {"steps": int, "cfg": float, "decode": _yes, "sampler": str, "vae": str}
