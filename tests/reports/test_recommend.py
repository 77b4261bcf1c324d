"""Recommendations: the fastest of one machine and set of conditions; ties are ties."""

from pathlib import Path

import pytest
from stored import measured, write_lines

from convbench.cli import main
from convbench.reports.plots.figures import svg
from convbench.reports.plots.speeds import sorted_speeds
from convbench.reports.recommend import recommendations


def test_the_fastest_with_its_interval_and_its_lead() -> None:
    rows = [
        measured("dico_s", 10.0),
        measured("dico_s", 23.8, backend="aoti"),
        measured("dit_s_2", 20.0, backend="aoti"),
    ]
    (found,) = recommendations(rows)
    assert found.words == (
        "For 256 px, batch 1, fp32 on test, 1 core, 1 thread: DiCo-S with aoti, 23.8 images/s [23.56, 24.04], "
        "1.19x the next, DiT-S/2 with aoti (not for commercial use)."
    )
    assert found.to_json()["backend"] == "aoti"


def test_rows_that_cannot_be_told_apart_tie() -> None:
    rows = [
        measured("dico_s", 10.0),
        measured("dico_s", 10.2, backend="aoti"),
        measured("dico_s", 8.0, backend="compile"),
    ]
    (found,) = recommendations(rows)
    assert found.ties == 2
    assert "DiCo-S with aoti and DiCo-S with eager, 10.2 images/s [10.1, 10.3] (a tie), 1.25x the next" in found.words
    drawn = svg(sorted_speeds(found))
    assert drawn.count("(tie)") == 2 and "fastest first" in drawn


def test_what_is_suspect_listed_or_alone_is_not_recommended() -> None:
    bad = [{"verdict": "SUSPECT"}, {"verdict": "INVALID"}, {"unranked": "a reference"}, {"status": "failed"}]
    for known in bad:
        assert recommendations([measured("dico_s", 10.0), measured("dic_s", 99.0, **known)]) == []
    assert recommendations([measured("dico_s", 10.0), measured("dic_s", 99.0, batch=2)]) == []


def test_the_latest_row_of_a_case_counts() -> None:
    old = measured("dico_s", 99.0, measured_at="2025")
    rows = [old, measured("dico_s", 10.0, measured_at="2026"), measured("dic_s", 20.0, measured_at="2026")]
    (found,) = recommendations(rows)
    assert found.rows[0]["model"] == "dic_s"


def test_commercial_leaves_out_what_is_not_known_to_allow_it() -> None:
    rows = [
        measured(model, speed)
        for model, speed in (("fcdm_s", 30.0), ("dic_s", 25.0), ("dico_s", 20.0), ("dig_s_2", 9.0))
    ]
    assert [row["model"] for row in recommendations(rows, commercial=True)[0].rows] == ["dico_s", "dig_s_2"]


def test_a_report_opens_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(tmp_path / "a.jsonl", [measured("dico_s", 10.0), measured("dico_s", 20.0, backend="aoti")])
    sentence = "For 256 px, batch 1, fp32 on test, 1 core, 1 thread: DiCo-S with aoti, 20 images/s [19.8, 20.2]"
    with pytest.raises(SystemExit):
        main(["report", str(file)])
    assert capsys.readouterr().out.startswith(sentence)
    with pytest.raises(SystemExit):
        main(["report", str(file), "--html", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.index(sentence) < page.index("fastest first") < page.index('<section id="table"')
