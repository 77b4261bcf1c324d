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
from .quality import NOT_STATED, condition_words, quoted_lines, states_conditions, table_lines
from .resolve import find, find_in_zoo, find_printed

__all__ = [
    "NOT_STATED",
    "Family",
    "Signature",
    "Variant",
    "condition_words",
    "devices",
    "families",
    "find",
    "find_in_zoo",
    "find_printed",
    "other_systems",
    "papers",
    "printed_lines",
    "printed_only",
    "quoted_lines",
    "states_conditions",
    "table_lines",
    "variants",
]
