"""Licences of the code that a model follows and of its authors' weights, and whether they allow commercial use."""

import tomllib
from dataclasses import dataclass
from functools import cache

from .families import FOLDER, Variant, variants

FORBIDDEN = "not for commercial use"
UNKNOWN = "commercial use not known to be allowed"


@dataclass(frozen=True)
class Licences:
    """Licences of a model; None where they are not known."""

    code: str | None  # of the official code; ours is our own
    weights: str | None  # of the authors' weights

    @property
    def commercial(self) -> bool:
        """True if both are known to allow commercial use, or there are no weights of authors to have one."""
        return self.words == ""

    @property
    def words(self) -> str:
        """Reason in words against commercial use; "" where it is allowed."""
        known = [each for each in (self.code, self.weights) if each is not None]
        if any(each in _table()["forbidden"] for each in known):
            return FORBIDDEN
        allowed = bool(known) and all(each in _table()["commercial"] for each in known)
        return "" if allowed else UNKNOWN


def licences(model: str) -> Licences:
    """Find the licences of a model of the catalogue by its id; unknown ones for any other, without importing it."""
    variant = variants().get(model.partition("@")[0])
    return licences_of(variant) if variant else Licences(None, None)


def licences_of(variant: Variant) -> Licences:
    """The licences of a variant."""
    source = variant.family.facts.get("source", {})
    listed = [entry["licence"] for entry in variant.family.facts.get("official", {}).get(variant.id, [])]
    return Licences(source.get("licence"), source.get("weights_licence") or next(iter(listed), None))


@cache
def _table() -> dict[str, list[str]]:
    return tomllib.loads((FOLDER / "licences.toml").read_text("utf-8"))
