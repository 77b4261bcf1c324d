"""From an id to a variant: of the zoo, with changes behind ``@``, or from outside. Imports no torch."""

import difflib

from ..errors import UsageError
from .ablations import varied
from .external import names, variant_of
from .families import Variant, printed_only, variants


def find(id: str) -> Variant:
    """The variant of that id, with the changes behind it if any. Raises UsageError that offers the nearest ids."""
    if "@" in id and ":" not in id:
        base, *changes = id.split("@")
        return varied(find(base), changes)
    known = variants()
    if found := known.get(id) or variant_of(id):
        return found
    if id in printed_only():
        raise UsageError(f"{id} has only been printed and cannot run: {printed_only()[id]['reason']}")
    near = difflib.get_close_matches(
        id.lower().replace("-", "_").replace("/", "_"), [*known, *names()], n=3, cutoff=0.5
    )
    hint = f"did you mean {' or '.join(near)}?" if near else "`convbench models` lists all"
    raise UsageError(f"unknown model '{id}': {hint}")


def find_printed(model: str | None, res: int) -> Variant | None:
    """The variant that a printed line of that model and size is about; None for what is none of ours."""
    if model is None:
        return None
    if "@" in model:
        return find(model)
    own = [variant for variant in variants().values() if variant.printed_as == model]
    return next((variant for variant in own if variant.res == res), own[0] if own else variants().get(model))
