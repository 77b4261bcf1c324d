"""Values as text: base units in, scaled numbers out. Scaling happens here and nowhere else."""

from collections.abc import Callable
from typing import Any

UNKNOWN = "–"  # a value that is not known


def scaled(unit: float, digits: int) -> Callable[[Any], str]:
    """Divide by the unit and print that many decimals."""
    return lambda value: f"{value / unit:.{digits}f}"


def significant(value: float) -> str:
    """Four significant digits, without an exponent."""
    return f"{value:.4g}" if abs(value) < 9999.5 else f"{value:.0f}"


def teraflops(value: float) -> str:
    """FLOP/s as TFLOP/s."""
    return significant(value / 1e12)


def as_printed(value: float) -> str:
    """The digits that a paper prints, without trailing zeros."""
    return f"{value:.10g}"


def milliseconds(value: float) -> str:
    """Seconds as milliseconds."""
    return significant(1e3 * value)


def percent(value: float) -> str:
    """A share as whole percent."""
    return f"{100 * value:.0f} %"


def exact_percent(value: float) -> str:
    """A share as percent with one decimal."""
    return f"{100 * value:.1f} %"


def plus_minus(value: float) -> str:
    """Half the width of an interval, as percent."""
    return f"±{100 * value:.1f} %"


def error(value: float) -> str:
    """A relative error with two digits."""
    return f"{value:.1e}"


def limit(value: float) -> str:
    """An allowed error with one digit."""
    return f"{value:.0e}"


def number_or_words(digits: int) -> Callable[[Any], str]:
    """A number with that many decimals; words that stand in its place as they are."""
    return lambda value: value if isinstance(value, str) else f"{value:.{digits}f}"


def commercial_use(words: str) -> str:
    """Answer whether licences allow commercial use, from what ``Licences.words`` says."""
    return {"": "yes", "not for commercial use": "no"}.get(words, "not known")
