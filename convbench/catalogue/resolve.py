"""Look-up of a variant by its id: in the zoo, with changes after ``@``, or external. Imports no torch."""

import difflib

from ..errors import UsageError
from .ablations import varied
from .external import names, variant_of
from .families import Variant, printed_only, variants


def find(id: str) -> Variant:
    """Find a variant by its id and apply the changes after it. Raises UsageError that offers the nearest ids."""
    if "@" in id and ":" not in id:
        base, *changes = id.split("@")
        return varied(find(base), changes)
    known = variants()
    if found := known.get(id) or variant_of(id):
        return found
    if id in printed_only():
        reason = printed_only()[id]["reason"]
        raise UsageError(f"{id} appears only in published tables; no implementation exists: {reason}")
    near = difflib.get_close_matches(
        id.lower().replace("-", "_").replace("/", "_"), [*known, *names()], n=3, cutoff=0.5
    )
    hint = f"did you mean {' or '.join(near)}?" if near else "`convbench models` lists all"
    raise UsageError(f"unknown model '{id}': {hint}")


def find_printed(model: str | None, res: int) -> Variant | None:
    """Find the variant that a published line for a model and size describes; None if convbench does not have it."""
    if model is None:
        return None
    if "@" in model:
        return find(model)
    own = [variant for variant in variants().values() if variant.printed_as == model]
    return next((variant for variant in own if variant.res == res), own[0] if own else variants().get(model))
