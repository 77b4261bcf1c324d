"""Rows as a LaTeX table with booktabs rules, to paste into a paper."""

from collections.abc import Sequence
from typing import Any

from convbench.reports.columns import COLUMNS

from .text import cell_text, split

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
    """A table environment: what all rows share as its caption, the notes below in small print.

    Needs ``\\usepackage{booktabs}``; nothing outside ASCII is in it but signs of other alphabets in names.
    """
    if not rows:
        return "\n".join(["% nothing to show", *(f"% {note}" for note in notes)])
    constant, varying = split(rows, keys)
    above = ", ".join(f"{COLUMNS[key].header} {cell_text(rows[0], key)}" for key in constant)
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
    """Text as LaTeX prints it; a line break becomes a space."""
    return "".join(SPECIAL.get(sign, sign) for sign in " ".join(text.split()))
