"""The frontier pictures: which points there are, what a line joins, and for which files they are drawn."""

from typing import Any

import pytest
from matplotlib.figure import Figure
from stored import measured

from convbench.reports.plots import rivals
from convbench.reports.plots.pictures import pictures
from convbench.reports.runs import Runs, frame
from convbench.reports.tables.rivals import rival_rows


def runs_of(*rows: dict[str, Any]) -> Runs:
    return Runs([{"file": "run.jsonl", **row} for row in rows])


def lines(figure: Figure) -> list[list[float]]:
    """The FIDs along each dashed line."""
    return [list(map(float, line.get_ydata())) for line in figure.axes[0].get_lines() if line.get_linestyle() == "--"]


def test_a_line_joins_equal_conditions_only() -> None:
    rows = rival_rows(Runs())
    figure = rivals.over_macs(frame(rivals.drawable(rows, 512, "guided", "macs")))
    assert sorted(lines(figure)) == [[2.91, 2.23], [4.02, 2.53, 1.94], [4.64, 3.06, 2.51]]
    names = {text.get_text() for text in figure.axes[0].texts}
    assert {
        "EDM2-S, 2147M img, autoguidance",
        "EDM2-S, 2147M img, XS guides",
        "JiT-H/32, 600 epochs, interval",
    } <= names


def test_a_frontier_leaves_out_what_another_beats() -> None:
    figure = rivals.over_macs(frame(rivals.drawable(rival_rows(Runs()), 256, "unguided", "macs")))
    # Of the 35 lines at 400K without aid; DDT's are aided by DINOv2 and stand on a line of their own.
    assert sorted(lines(figure)) == [[16.32, 7.98, 6.62], [47.84, 26.21, 13.83, 13.66, 10.72]]


def test_points_have_a_stated_guidance_and_a_value() -> None:
    rows = rival_rows(Runs())
    for res in (256, 512):
        parts = [rivals.drawable(rows, res, panel, "macs") for panel in rivals.PANELS]
        drawn = {row["printed_in"] + str(row["fid"]) for part in parts for row in part}
        stated = [row for row in rows if row["res"] == res and row["guidance"] != "not stated"]
        wanted = {row["printed_in"] + str(row["fid"]) for row in stated if row["macs"] and row["data"] == "ImageNet"}
        assert drawn == wanted and drawn
    assert rivals.drawable(rows, 1024, "guided", "macs") == []


def test_speeds_are_drawn_with_their_intervals() -> None:
    rows = rival_rows(runs_of(measured("jit_b_16", 4.0, 0.1), measured("jit_l_16", 2.0, verdict="SUSPECT")))
    figure = rivals.over_speed(frame(rivals.drawable(rows, 256, "guided", "our_images_per_s")))
    assert sorted(lines(figure)) == [[3.66, 2.36], [4.37, 2.79]]
    assert "hollow: SUSPECT" in figure.axes[0].get_title(loc="left")
    ends = sorted({tuple(map(float, bar.get_segments()[0][:, 0])) for bar in figure.axes[0].collections})
    assert ends == [pytest.approx((1.98, 2.02)), pytest.approx((3.6, 4.4))]


def test_the_pictures_are_drawn_for_files_with_a_rival() -> None:
    assert not any("rivals" in each.name for each in pictures(runs_of(measured("dic_xl", 1.0))))
    runs = runs_of(measured("jit_b_16", 4.0), measured("jit_l_16", 2.0))
    names = [each.name for each in pictures(runs) if each.name.startswith("rivals")]
    assert names == [
        "rivals-macs-256px-unguided",
        "rivals-macs-256px-guided",
        "rivals-throughput-cpu-256px-b1-eager-fp32-1threads-guided",
        "rivals-macs-512px-unguided",
        "rivals-macs-512px-guided",
    ]
