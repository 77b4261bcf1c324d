"""Look-up of a variant by its id: in the zoo, with changes after ``@``, or external. Imports no torch."""

import difflib
from collections.abc import Iterable

from ..errors import UsageError
from .ablations import varied
from .external import registered_names, variant_of
from .families import Variant, printed_only, variants


def find(id: str) -> Variant:
    """Find a variant by its id and apply the changes after it. Raises UsageError that offers the nearest ids.

    Imports the code of an external id, so it must only be used for ids that the user typed. Use ``find_in_zoo`` for ids
    from files.
    """
    if found := variant_of(id) if id not in variants() else None:
        return found
    return _find_in_zoo(id, registered_names())


def find_in_zoo(id: str) -> Variant:
    """Find a variant among the models of convbench only, without importing code for any id."""
    return _find_in_zoo(id, ())


def _find_in_zoo(id: str, others: Iterable[str]) -> Variant:
    base, *changes = id.split("@") if ":" not in id else [id]
    if base in variants():
        return varied(variants()[base], changes) if changes else variants()[base]
    if base in printed_only():
        reason = printed_only()[base]["reason"]
        raise UsageError(f"{base} appears only in published tables; no implementation exists: {reason}")
    likely = base.lower().replace("-", "_").replace("/", "_")
    near = difflib.get_close_matches(likely, [*variants(), *others], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`convbench models` lists all"
    raise UsageError(f"unknown model '{base[:200]}': {hint}")


def find_printed(model: str | None, res: int) -> Variant | None:
    """Find the variant that a published line for a model and size describes; None if convbench does not have it."""
    if model is None:
        return None
    if "@" in model:
        return find_in_zoo(model)
    own = [variant for variant in variants().values() if variant.printed_as == model]
    return next((variant for variant in own if variant.res == res), own[0] if own else variants().get(model))
