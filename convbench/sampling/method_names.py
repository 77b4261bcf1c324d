"""Names and settings of what makes sampling faster, and which networks and samplers each is for. Imports no torch."""

from dataclasses import dataclass

from ..catalogue import Variant
from ..errors import UsageError
from . import sampler_names

Setting = int | float

CACHES: dict[str, dict[str, Setting]] = {  # settings of each cache with their defaults
    "deep": {"every": 3},
    "first": {"threshold": 0.1},
    "taylor": {"order": 1, "every": 3},
}
LIMITS = {"every": (2, 100), "threshold": (0.0, 10.0), "order": (0, 3)}
U_SHAPED, ISOTROPIC = ("dic", "dico", "fcdm"), ("dit",)  # families of models.cuts
SUITS = {"deep": U_SHAPED, "first": ISOTROPIC, "taylor": (*U_SHAPED, *ISOTROPIC)}
BACKENDS = ("eager", "onnxruntime")  # that can run a network in parts, the second on a processor


@dataclass(frozen=True)
class CacheChoice:
    """A cache with its settings, "deep:every=3" in words."""

    kind: str
    settings: tuple[tuple[str, Setting], ...]

    @classmethod
    def of_text(cls, text: str) -> "CacheChoice":
        """Parse "taylor:order=1:every=3"; settings left out take their defaults. Raises UsageError."""
        kind, *parts = text.split(":")
        if kind not in CACHES:
            raise UsageError(f"cache={text}: unknown cache '{kind}'; choose from {', '.join(CACHES)}")
        settings = dict(CACHES[kind])
        for part in parts:
            name, _, value = part.partition("=")
            if name not in settings:
                raise UsageError(f"cache={text}: '{name}' is not a setting of {kind}, such as {_default(kind)}")
            settings[name] = _number(text, name, value, type(settings[name]))
        return cls(kind, tuple(settings.items()))

    def __str__(self) -> str:
        return ":".join([self.kind, *(f"{name}={value:g}" for name, value in self.settings)])

    def require(self, variant: Variant, backend: str) -> None:
        """Raise UsageError unless the network can be cut for this cache, and the backend can run it in two parts."""
        if variant.ablated or variant.factory or variant.family.module not in SUITS[self.kind]:
            suiting = [kind for kind, families in SUITS.items() if variant.family.module in families]
            known = not (variant.ablated or variant.factory) and suiting
            advice = f"use {' or '.join(f'cache={kind}' for kind in suiting)}" if known else "no cut of it is known"
            raise UsageError(f"cache={self.kind} does not suit {variant.id}: {advice}")
        if backend not in BACKENDS:
            raise UsageError(f"cache={self.kind} needs a network in parts: use --backend {' or '.join(BACKENDS)}")


def _default(kind: str) -> str:
    return ":".join(f"{name}={value:g}" for name, value in CACHES[kind].items())


def _number(text: str, name: str, value: str, kind: type[Setting]) -> Setting:
    low, high = LIMITS[name]
    try:
        number = kind(value)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"cache={text}: {name} must be {what} from {low:g} to {high:g}")
    return number


Interval = tuple[float, float]


def interval_of_text(text: str) -> Interval:
    """Parse "0.2..0.8", shares of the way from noise to data. Raises UsageError."""
    low, dots, high = text.partition("..")
    try:
        found = float(low), float(high)
    except ValueError:
        found = 1.0, 0.0
    if not dots or not 0 <= found[0] < found[1] <= 1:
        raise UsageError(f"cfg-interval={text}: expected two shares of the way from noise to data, such as 0.2..0.8")
    return found


def require_interval(variant: Variant, scale: float) -> None:
    """Raise UsageError where guidance within an interval says nothing, or says it twice."""
    takes = variant.signature
    if scale == 1:
        raise UsageError("cfg-interval needs guidance: cfg=1 is none")
    if takes.guidance_interval or takes.guidance_power:
        raise UsageError(f"cfg-interval: {variant.id} has a guidance schedule of its own")
    if sampler_names.prediction(takes) == "denoised":
        raise UsageError(f"cfg-interval: {variant.id} takes noise levels, on which no interval is defined here")
