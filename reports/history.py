"""The history of a metric: series of stored rows over time, their steps, and what changed on the machine with each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from convbench.errors import NothingMeasured, UsageError
from convbench.store import places
from convbench.store.identity import environment_id
from convbench.store.tables import CLOCKS, Point, Where
from convbench.timing.change_points import FEWEST, LevelChange, level_changes
from convbench.timing.compare import delta_of

from .labels import case_parts
from .selection import LARGEST_FIRST, require_known

Row = dict[str, Any]
Environments = Mapping[str, Mapping[str, Any]]

METRICS = (
    *("images_per_s", "finished_images_per_s", "latency_s_p50", "latency_s_p90", "latency_s_p99", "prepare_s"),
    *("peak_bytes", "flops_per_s", "mfu", "limit_fraction", "joules_per_image"),
)
TRUSTED = ("VALID", "NOISY")
GROUPS = ("commit", "version", "date")
NEAR = 2  # points around a step in which a change of the environment is taken to belong to it
CLOCK_DIFFERS = 0.01
UNNAMED = {"commit", "memory_bytes", "telemetry_reason"}  # not changes that a step is put down to


@dataclass(frozen=True)
class Series:
    """Measurements of one case on one machine, in the order of time."""

    case: str
    machine: str
    points: list[Point]
    environments: Environments
    steps: list[LevelChange] = field(default_factory=list)

    def environment(self, position: int) -> Mapping[str, Any]:
        return self.environments.get(self.points[position].environment, {})


@dataclass(frozen=True)
class History:
    """All series of a metric."""

    metric: str
    series: list[Series]
    left_out: int  # points whose verdict is not VALID or NOISY

    def rows(self) -> list[Row]:
        """One row for each step, with the keys of ``convbench history --format json``."""
        return [self._row(series, step) for series in self.series for step in series.steps]

    def _row(self, series: Series, step: LevelChange) -> Row:
        point, place = series.points[step.position], step.position
        return {
            "case": series.case,
            "machine": series.machine,
            "metric": self.metric,
            "measured_at": point.measured_at,
            "commit": commit(series.environment(place)),
            "commit_before": commit(series.environment(place - 1)),
            "version": series.environment(place).get("convbench"),
            "points_since": len(series.points) - place,
            "level_before": step.before,
            "level_after": step.after,
            "ratio": step.ratio,
            "ratio_low": step.low,
            "ratio_high": step.high,
            "difference": "better" if (step.ratio > 1) == (self.metric in LARGEST_FIRST) else "worse",
            "changed": "; ".join(changes(series, place)),
        }


def history(model: str, asked: Sequence[str], metric: str, where: Where, by: str | None = None) -> History:
    """Find the steps of a metric of a model.

    Args:
        asked: places of stored rows.
        where: values that keys of the rows may have.
        by: one of GROUPS: the rows of a series that share it count as one point, their median.

    Raises:
        NothingMeasured: no row has the metric.
        UsageError: a place that cannot be read, or an unknown metric.
    """
    require_known(metric, METRICS, "metric")
    points: list[Point] = []
    environments: dict[str, Any] = {}
    for text in asked:
        found, known = _points(text, metric, {**where, "model": [model]})
        points += found
        environments |= known
    trusted = [point for point in points if point.verdict in TRUSTED]
    if not points:
        raise NothingMeasured(f"no row of {model} with {metric} in {', '.join(asked)}")
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(trusted, key=lambda point: point.measured_at):
        groups.setdefault((point.case, machine(environments.get(point.environment, {}))), []).append(point)
    series = []
    for (case, name), own in groups.items():
        kept = own if by is None else list(_grouped(own, environments, by))
        least = delta_of(case_parts(case).get("device"))
        steps = level_changes([point.value for point in kept], least)
        series.append(Series(case, name, kept, environments, steps))
    return History(metric, series, len(points) - len(trusted))


def _points(text: str, metric: str, where: Where) -> tuple[list[Point], dict[str, Any]]:
    if store := places.queried(text):
        return store.series(metric, where)
    rows = [row for _, row in places.stored_rows(text) if _fits(row, where)]
    rows = [row for row in rows if row.get(metric) is not None and row["status"] == "ok"]
    points = [
        Point(
            row["case"],
            row[metric],
            row.get("verdict"),
            row.get("measured_at") or "",
            environment_id(row.get("environment") or {}),
            next((clock for key in CLOCKS if (clock := (row.get("load") or {}).get(key))), None),
        )
        for row in rows
    ]
    return points, {environment_id(row.get("environment") or {}): row.get("environment") or {} for row in rows}


def _fits(row: Row, where: Where) -> bool:
    return all(str(row.get(key)) in values for key, values in where.items())


def _grouped(points: Sequence[Point], environments: Environments, by: str) -> Iterator[Point]:
    groups: dict[str | None, list[Point]] = {}
    for point in points:
        groups.setdefault(group_of(point, environments.get(point.environment, {}), by), []).append(point)
    for own in groups.values():
        middle, first = median(point.value for point in own), own[0]
        yield Point(first.case, middle, first.verdict, first.measured_at, first.environment, first.clock_hz)


def group_of(point: Point, environment: Mapping[str, Any], by: str) -> str | None:
    """The commit, version of convbench or date of a point."""
    if by not in GROUPS:
        raise UsageError(f"rows cannot be grouped by '{by}': there are {', '.join(GROUPS)}")
    if by == "commit":
        return commit(environment)
    return environment.get("convbench") if by == "version" else point.measured_at[:10]


def commit(environment: Mapping[str, Any]) -> str | None:
    """The commit that an environment names, shortened."""
    found = environment.get("commit")
    return found[:12] if isinstance(found, str) and found else None


def machine(environment: Mapping[str, Any]) -> str:
    """Name of the machine: what a series must share. Its software may change."""
    gpus = [gpu.get("name") for gpu in environment.get("gpus") or [] if isinstance(gpu, dict)]
    return ", ".join(map(str, filter(None, [environment.get("cpu"), *gpus, _cores(environment)]))) or "unknown machine"


def _cores(environment: Mapping[str, Any]) -> str:
    count = environment.get("cores")
    return f"{count} core{'s' if count != 1 else ''}" if count else ""


def changes(series: Series, position: int) -> list[str]:
    """List what changed in the environment with a step, in words such as "torch: 2.12.0 → 2.13.0"."""
    found: dict[str, None] = {}
    for place in range(max(1, position - NEAR), min(len(series.points), position + NEAR + 1)):
        before, after = _flat(series.environment(place - 1)), _flat(series.environment(place))
        for key in dict.fromkeys([*before, *after]):
            if key not in UNNAMED and before.get(key) != after.get(key):
                found[f"{key}: {before.get(key, '–')} → {after.get(key, '–')}"] = None
    clocks = [_clock(series.points[max(0, position - 20) : position]), _clock(series.points[position : position + 20])]
    if clocks[0] and clocks[1] and abs(clocks[1] / clocks[0] - 1) > CLOCK_DIFFERS:
        found[f"clock: {clocks[0] / 1e9:.2f} → {clocks[1] / 1e9:.2f} GHz"] = None
    return list(found)


def _clock(points: Sequence[Point]) -> float | None:
    clocks = [point.clock_hz for point in points if point.clock_hz]
    return median(clocks) if clocks else None


def _flat(environment: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Nested values by dotted names."""
    found: dict[str, Any] = {}
    for key, value in environment.items():
        place = f"{name}{key}"
        inside = {str(number): each for number, each in enumerate(value)} if isinstance(value, list) else value
        found |= _flat(inside, f"{place}.") if isinstance(inside, dict) else {place: inside}
    return found


def notes(found: History) -> list[str]:
    """Count points and steps, and what was left out, in words."""
    counted = sum(len(series.points) for series in found.series)
    lines = [f"{counted} points of {len(found.series)} series; {sum(len(each.steps) for each in found.series)} steps."]
    short = sum(len(series.points) < FEWEST for series in found.series)
    lines += [f"{short} series have fewer than {FEWEST} points, too few for a step."] if short else []
    lines += [f"Left out: {found.left_out} rows that are not VALID or NOISY."] if found.left_out else []
    return lines
