"""The fastest rows under the same conditions in one sentence each; ties are ties."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convbench.catalogue.licences import licences
from convbench.schema.rowcheck import has_speeds
from convbench.timing.compare import compare_rows

from .baseline import is_ranked
from .formats import significant
from .history import machine
from .labels import model_name

Row = Mapping[str, Any]

SAME = ("res", "batch", "precision", "device", "threads", "mode")


@dataclass(frozen=True)
class Recommendation:
    """The rows of one machine and set of conditions, the fastest first."""

    conditions: Row  # values of SAME and the machine
    rows: Sequence[Row]
    ties: int  # how many of the first rows cannot be told apart from the fastest

    @property
    def words(self) -> str:
        """The recommendation as one sentence."""
        best = self.rows[: self.ties]
        speeds = [f"{significant(best[0][key])}" for key in ("images_per_s", "images_per_s_low", "images_per_s_high")]
        named = " and ".join(_named(row) for row in best)
        sentence = f"For {self.where}: {named}, {speeds[0]} images/s [{speeds[1]}, {speeds[2]}]"
        sentence += " (a tie)" if self.ties > 1 else ""
        if self.ties < len(self.rows):
            following = self.rows[self.ties]
            ratio = best[-1]["images_per_s"] / following["images_per_s"]
            sentence += f", {ratio:.2f}x the next, {_named(following)}"
        return f"{sentence}."

    @property
    def where(self) -> str:
        """The conditions in words."""
        here = self.conditions
        parts = [f"{here['res']} px", f"batch {here['batch']}", here["precision"]]
        parts += ["training steps"] if (here["mode"] or "forward") != "forward" else []
        threads = f", {here['threads']} thread{'s' if here['threads'] > 1 else ''}" if here["threads"] else ""
        return f"{', '.join(parts)} on {here['machine']}{threads}"

    def to_json(self) -> dict[str, Any]:
        """The recommendation and its rows, with the keys of ``convbench recommend --format json``."""
        first = self.rows[0]
        return {
            **self.conditions,
            "words": self.words,
            "ties": self.ties,
            "cases": [row["case"] for row in self.rows[: self.ties]],
            "model": first["model"],
            "backend": first["backend"],
            "images_per_s": first["images_per_s"],
            "images_per_s_low": first["images_per_s_low"],
            "images_per_s_high": first["images_per_s_high"],
            "licence_words": licences(first["model"]).words,
        }


def recommendations(rows: Sequence[Row], commercial: bool = False) -> list[Recommendation]:
    """Recommend a row for each machine and set of conditions under which there are two or more.

    Of several rows of a case the latest VALID or NOISY one counts; SUSPECT rows are not recommended. A row that cannot
    be told apart from the fastest, by the rule of ``convbench compare``, ties with it.
    """
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in sorted(rows, key=lambda row: row.get("measured_at") or ""):
        if row["kind"] != "throughput" or not is_ranked(dict(row)) or not has_speeds(row) or (row["repeat"] or 1) != 1:
            continue
        if row["verdict"] == "SUSPECT" or (commercial and not licences(row["model"]).commercial):
            continue
        name = machine(row.get("environment") or {})
        groups.setdefault((name, *(row.get(key) for key in SAME)), {})[row["case"]] = row
    found = []
    for (name, *values), cases in groups.items():
        ordered = sorted(cases.values(), key=lambda row: -row["images_per_s"])
        if len(ordered) > 1:
            ties = next(
                (place for place, row in enumerate(ordered) if place and _is_slower(row, ordered[0])), len(ordered)
            )
            found.append(Recommendation({"machine": name, **dict(zip(SAME, values, strict=True))}, ordered, ties))
    return found


def _is_slower(row: Row, fastest: Row) -> bool:
    return compare_rows(fastest, row).difference == "slower"


def _named(row: Row) -> str:
    parts = [f"{model_name(row['model'])} with {row['backend']}"]
    parts += [found] if (found := licences(row["model"]).words) else []
    return f"{parts[0]} ({parts[1]})" if len(parts) > 1 else parts[0]
