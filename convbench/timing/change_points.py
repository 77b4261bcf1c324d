"""Steps in a series of measurements: the change points of Apache Otava, kept where they exceed what may be claimed.

Otava splits a series in windows by the E-divisive statistic, and merges neighbours that a t-test cannot tell apart
(M. Fleming et al., "Hunter: Using Change Point Detection to Hunt for Performance Regressions", ICPE 2023).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from .. import packages

WINDOW = 30  # points that are looked at together
P_VALUE = 0.001
FEWEST = 5  # points of a series in which a step can be claimed


@dataclass(frozen=True)
class LevelChange:
    """A step: from ``position`` on, the values are ``ratio`` times what they were."""

    position: int
    before: float  # mean of the points since the step before
    after: float  # mean of the points until the next step
    ratio: float
    low: float  # 95 % interval
    high: float


def level_changes(values: Sequence[float], least: float) -> list[LevelChange]:
    """Find the steps of a series that are larger than ``least``, a share.

    Raises UsageError where Otava is not installed.
    """
    if len(values) < FEWEST:
        return []
    analysis = packages.require("otava.analysis")
    # Otava cuts windows out of a list only; of an array it takes all of it for each.
    found, _ = analysis.compute_change_points(list(values), window_len=WINDOW, max_pvalue=P_VALUE, min_magnitude=least)
    places = [0, *(int(each.index) for each in found), len(values)]
    return [
        _change(place, values[before:place], values[place:after])
        for before, place, after in zip(places, places[1:-1], places[2:], strict=False)
    ]


def _change(position: int, before: Sequence[float], after: Sequence[float]) -> LevelChange:
    """Compute the ratio of two means with its interval, from the spread of both sides (delta method, Student's t)."""
    first, second = fmean(before), fmean(after)
    error = math.hypot(*(_relative_error(each) for each in (before, after)))
    freedom = max(1, len(before) + len(after) - 2)
    half = float(packages.require("scipy.stats").t.ppf(0.975, freedom)) * error
    ratio = second / first
    return LevelChange(position, first, second, ratio, ratio * math.exp(-half), ratio * math.exp(half))


def _relative_error(values: Sequence[float]) -> float:
    return stdev(values) / fmean(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
