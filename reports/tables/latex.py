"""Rows as a LaTeX table with booktabs rules, to paste into a paper."""

from collections.abc import Sequence
from typing import Any

from ..columns import COLUMNS
from .cells import cell_text, shared_and_varying, shared_text

Row = dict[str, Any]

SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "–": "--",
    "±": "$\\pm$",
    "×": "$\\times$",
    "µ": "$\\mu$",
    "·": "$\\cdot$",
    "≤": "$\\le$",
    "é": "\\'e",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
}


def latex(rows: Sequence[Row], keys: Sequence[str], notes: Sequence[str] = ()) -> str:
    """Render a table environment: shared conditions as its caption, notes below in small print.

    It needs ``\\usepackage{booktabs}`` and is ASCII except for names in other alphabets.
    """
    if not rows:
        return "\n".join(["% nothing to show", *(f"% {note}" for note in notes)])
    shared, varying = shared_and_varying(rows, keys)
    above = shared_text(rows, shared)
    kinds = "".join("l" if COLUMNS[key].left else "r" for key in varying)
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        *([f"\\caption{{{escape(above)}}}"] if above else []),
        f"\\begin{{tabular}}{{{kinds}}}",
        "\\toprule",
        _line([COLUMNS[key].header for key in varying]),
        "\\midrule",
        *(_line([cell_text(row, key) for key in varying]) for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
        *(f"\\par\\smallskip{{\\footnotesize {escape(note)}\\par}}" for note in notes),
        "\\end{table}",
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + " \\\\"


def escape(text: str) -> str:
    """Escape text for LaTeX; a line break becomes a space."""
    return "".join(SPECIAL.get(sign, sign) for sign in " ".join(text.split()))
