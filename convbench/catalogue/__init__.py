"""Facts about models, papers and devices. Nothing here imports torch."""

from .families import (
    Family,
    Signature,
    Variant,
    devices,
    families,
    other_systems,
    papers,
    printed_lines,
    printed_only,
    variants,
)
from .resolve import find, find_in_zoo, find_printed

__all__ = [
    "Family",
    "Signature",
    "Variant",
    "devices",
    "families",
    "find",
    "find_in_zoo",
    "find_printed",
    "other_systems",
    "papers",
    "printed_lines",
    "printed_only",
    "variants",
]
