"""The history of a metric: series, steps, what changed with them, and the exit code for CI."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stored import MACHINE, measured, write_lines

from convbench.cli.history import command
from convbench.errors import NothingMeasured, UsageError
from convbench.reports.history import changes, history
from convbench.store import places


def runs(count: int = 60, slower_from: int = 40, share: float = 0.1, **known: Any) -> list[dict[str, Any]]:
    """One row a day and commit; from a day on torch is newer and the model slower."""
    rows = []
    for day in range(count):
        late = day >= slower_from
        speed = 10 * (1 - share * late) * (1 + 0.002 * (day % 3 - 1))
        environment = MACHINE | {"torch": "2.13" if late else "2.12", "commit": f"{day:012x}{0:028x}"}
        stamp = f"2026-{1 + day // 28:02d}-{1 + day % 28:02d}T00:00:00+00:00"
        load = {"frequency_hz": 2.4e9 if late else 2.6e9}
        rows.append(measured("dico_s", speed, measured_at=stamp, environment=environment, load=load) | known)
    return rows


@pytest.mark.parametrize("kind", ["lines", "duckdb", "parquet"])
def test_a_step_with_what_changed_beside_it(kind: str, tmp_path: Path) -> None:
    place = {"lines": "a.jsonl", "duckdb": "a.db", "parquet": "a.parquet"}[kind]
    to = f"duckdb:///{tmp_path / place}" if kind == "duckdb" else str(tmp_path / place)
    places.push([("run", row) for row in runs()], to)
    found = history("dico_s", [to], "images_per_s", {})
    ((row),) = found.rows()
    assert (row["measured_at"][:10], row["points_since"], row["difference"]) == ("2026-02-13", 20, "worse")
    assert row["ratio"] == pytest.approx(0.9, abs=0.002) and row["ratio_low"] < 0.9 < row["ratio_high"]
    assert row["commit"] == f"{40:012x}"
    assert row["changed"] == "torch: 2.12 → 2.13; clock: 2.60 → 2.40 GHz"


def test_a_longer_latency_is_worse(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", runs())
    (row,) = history("dico_s", [str(file)], "latency_s_p50", {}).rows()
    assert row["ratio"] == pytest.approx(1 / 0.9, abs=0.003) and row["difference"] == "worse"


def test_another_machine_is_another_series(tmp_path: Path) -> None:
    """Half as fast: no step of the first machine."""
    other = MACHINE | {"cpu": "another"}
    rows = runs(30, 30) + [row | {"environment": other} for row in runs(30, 0, 0.5)]
    found = history("dico_s", [str(write_lines(tmp_path / "a.jsonl", rows))], "images_per_s", {})
    assert [len(series.points) for series in found.series] == [30, 30]
    assert found.rows() == []


def test_rows_that_are_not_to_be_trusted_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = runs(30, 30) + runs(30, 0, 0.5, verdict="SUSPECT")
    found = history("dico_s", [str(write_lines(tmp_path / "a.jsonl", rows))], "images_per_s", {})
    assert (found.left_out, found.rows()) == (30, [])


def test_rows_of_one_commit_are_one_point(tmp_path: Path) -> None:
    rows = [row | {"measured_at": row["measured_at"] + again} for row in runs(20, 10) for again in ("a", "b", "c")]
    rows[0] |= {"images_per_s": 1.0, "images_per_s_low": 1.0}
    file = str(write_lines(tmp_path / "a.jsonl", rows))
    (series,) = history("dico_s", [file], "images_per_s", {}, by="commit").series
    assert len(series.points) == 20 and min(point.value for point in series.points) > 8
    (dated,) = history("dico_s", [file], "images_per_s", {}, by="version").series
    assert len(dated.points) == 1


def test_without_an_environment_nothing_has_changed(tmp_path: Path) -> None:
    rows = [row | {"environment": {}, "load": {}} for row in runs()]
    (series,) = history("dico_s", [str(write_lines(tmp_path / "a.jsonl", rows))], "images_per_s", {}).series
    assert changes(series, series.steps[0].position) == []


def test_the_exit_code_is_for_ci(tmp_path: Path) -> None:
    file = str(write_lines(tmp_path / "a.jsonl", runs()))

    def exit_code(*arguments: str) -> int:
        done = CliRunner().invoke(command, ["dico_s", "--store", file, *arguments], standalone_mode=False)
        assert done.exception is None
        return int(done.return_value)

    assert exit_code() == 0
    assert exit_code("--fail-above", "3%", "--last", "20") == 1
    assert exit_code("--fail-above", "3%", "--last", "19") == 0  # the step is older
    assert exit_code("--fail-above", "15%", "--last", "20") == 0


def test_the_picture_and_the_table(tmp_path: Path) -> None:
    file, picture = write_lines(tmp_path / "a.jsonl", runs()), tmp_path / "a.svg"
    done = CliRunner().invoke(
        command, ["dico_s", "--store", str(file), "--plot", str(picture), "--format", "json"], standalone_mode=False
    )
    assert len(json.loads(done.stdout)) == 1
    assert "torch: 2.12 → 2.13" in picture.read_text("utf-8")


def test_what_cannot_be_asked_is_one_line(tmp_path: Path) -> None:
    file = str(write_lines(tmp_path / "a.jsonl", runs(3)))
    with pytest.raises(UsageError, match="unknown metric 'image_per_s': did you mean images_per_s"):
        history("dico_s", [file], "image_per_s", {})
    with pytest.raises(NothingMeasured, match="no row of dic_xl with images_per_s"):
        history("dic_xl", [file], "images_per_s", {})
