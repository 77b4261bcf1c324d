"""The papers' tables rebuilt: printed numbers against tests/data/published.csv, ours and ratios by hand."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stored import MACHINE, measured, write_lines

from convbench.catalogue import variants
from convbench.cli import main
from convbench.errors import UsageError
from convbench.reports.columns import COLUMNS
from convbench.reports.runs import Runs
from convbench.reports.tables.papers import known_tables, named_tables, paper_table

METRICS = {  # of published.csv -> of a row
    "params_m": ("printed_params", 1e6),
    "gflops": ("printed_macs", 1e9),
    "winograd_gflops": ("printed_winograd_macs", 1e9),
    "throughput": ("quoted_images_per_s", 1),
    "fid": ("fid", 1),
    "inception_score": ("inception_score", 1),
    "precision": ("quality_precision", 1),
    "recall": ("quality_recall", 1),
}
A100 = MACHINE | {"gpus": [{"name": "NVIDIA A100-SXM4-80GB"}]}
H200 = MACHINE | {"gpus": [{"name": "NVIDIA H200"}]}


def runs_of(*rows: dict[str, Any], **others: Any) -> Runs:
    return Runs([{"file": "run.jsonl", **row} for row in rows], **others)


def rows_of(name: str, runs: Runs) -> dict[str, dict[str, Any]]:
    """By label; of lines with the same label the first."""
    rows: dict[str, dict[str, Any]] = {}
    for row in paper_table(name, runs).rows:
        rows.setdefault(row["label"], row)
    return rows


def test_every_table_that_was_asked_for_is_there() -> None:
    wanted = {"dic": "3457", "dico": "125", "fcdm": "1234"}
    assert known_tables() == [f"{paper}:{table}" for paper, tables in wanted.items() for table in tables]


@pytest.mark.parametrize("name", known_tables())
def test_what_is_printed_is_what_the_reference_says(name: str) -> None:
    paper, _, number = name.partition(":")
    with (Path(__file__).parents[2] / "data" / "published.csv").open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if (line["source"], line["table"]) == (paper, number)]
    reference = Counter(
        (line["label"], METRICS[line["metric"]][0], float(line["value"]) * METRICS[line["metric"]][1])
        for line in lines
        if line["metric"] in METRICS
    )
    table = paper_table(name, Runs())
    printed = Counter(
        (row["label"], key, row[key]) for row in table.rows for key, _ in METRICS.values() if row[key] is not None
    )
    assert sum(printed.values()) >= 8
    assert printed == reference
    assert all(key in COLUMNS for key in table.keys)


@pytest.mark.parametrize("name", known_tables())
def test_every_fid_beside_another_has_the_word_for_their_difference(name: str) -> None:
    """Against the best of the same size, training and guidance."""
    table = paper_table(name, Runs())
    assert ("fid" in table.keys) == ("fid_difference" in table.keys)
    setting = ("res", "training", "guidance")
    for row in table.rows:
        beside = [each["fid"] for each in table.rows if each["fid"] and all(each[k] == row[k] for k in setting)]
        if row["fid"] is None or len(beside) < 2:
            expected = None
        elif row["fid"] == min(beside):
            expected = "best"
        else:
            expected = "different" if row["fid"] > 1.013 * min(beside) else "inconclusive"
        assert row["fid_difference"] == expected
    if "fid" in table.keys:
        assert any("±1.3%" in note and "inconclusive" in note for note in table.notes)


def test_counts_stand_beside_the_printed_ones() -> None:
    rows = rows_of("dic:5", runs_of())
    assert (rows["DiC-H"]["printed_macs"], rows["DiC-H"]["macs"]) == (204.4e9, variants()["dic_h"].macs)
    assert rows["U-ViT-XL"]["macs"] is None  # nobody can run it
    counts = [{"model": "dic_h", "res": 512, "params": 1, "macs": 2, "winograd_macs": 3}]
    rows = rows_of("dic:7", runs_of(counts=counts))
    assert [rows["DiC-H"][key] for key in ("macs", "counted_winograd_macs")] == [2, 3]
    notes = paper_table("dic:7", runs_of(counts=counts)).notes
    assert any("convbench flops --model dit_xl_2,dic_xl --res 512 --format json" in note for note in notes)


def test_ratios_are_of_one_run_and_of_one_printed_table() -> None:
    runs = runs_of(measured("dit_xl_2", 2.0), measured("dic_xl", 5.0), measured("dic_h", 9.0, verdict="INVALID"))
    rows = rows_of("dic:5", runs)
    assert rows["DiC-XL"]["quoted_ratio"] == pytest.approx(313.7 / 66.8)
    assert rows["DiC-XL"]["our_ratio"] == pytest.approx(2.5)
    assert rows["DiC-XL"]["our_interval"] == pytest.approx(0.01)
    assert rows["DiT-XL/2"]["our_ratio"] == 1
    assert (rows["DiC-H"]["our_images_per_s"], rows["DiC-H"]["our_verdict"]) == (None, "INVALID")
    assert rows["U-ViT-XL"]["our_images_per_s"] is None
    assert "INVALID, so not shown: DiC-H." in paper_table("dic:5", runs).notes


def test_a_model_of_another_run_is_not_comparable() -> None:
    fast = [measured(model, 9.0, batch=4) for model in ("dic_xl", "dic_h")]
    rows = rows_of("dic:5", runs_of(measured("dit_xl_2", 2.0), *fast))
    assert (rows["DiC-XL"]["our_images_per_s"], rows["DiC-XL"]["our_ratio"]) == (9.0, None)
    assert rows["DiC-XL"]["our_note"] == "not comparable"
    assert rows["DiT-XL/2"]["our_images_per_s"] is None  # of the run with fewer models


def test_of_equal_runs_the_one_at_the_papers_batch_is_shown() -> None:
    rows = [measured("dic_xl", float(batch), batch=batch) for batch in (1, 32, 64)]
    assert rows_of("dic:5", runs_of(*rows))["DiC-XL"]["our_images_per_s"] == 32
    assert rows_of("dico:1", runs_of(*rows))["DiC-XL"]["our_images_per_s"] == 64


@pytest.mark.parametrize(
    ("table", "known", "expected"),
    [
        ("dic:5", {"device": "cuda", "batch": 32, "environment": A100}, (pytest.approx(2.0), None)),
        ("dic:5", {"device": "cuda", "batch": 16, "environment": A100}, (None, "not comparable")),
        ("dic:5", {"device": "cuda", "batch": 32, "environment": H200}, (None, "not comparable")),
        ("dic:5", {"batch": 32}, (None, "not comparable")),
        ("fcdm:2", {"device": "cuda", "batch": 64, "environment": A100}, (None, "not comparable")),
    ],
)
def test_ours_over_printed_needs_the_papers_gpu_and_batch(table: str, known: Any, expected: Any) -> None:
    row = rows_of(table, runs_of(measured("dic_xl", 2 * 313.7, **known)))["DiC-XL"]
    assert (row["over_printed"], row["over_printed_note"]) == expected


def test_replays_have_a_column_of_their_own() -> None:
    replays = [
        {"step": "replayed", "paper": paper, "model": "dic_xl", "res": 256, "images_per_s": speed}
        for paper, speed in (("dic", 3.0), ("fcdm", 7.0))
    ]
    runs = runs_of(measured("dic_xl", 5.0), replays=replays)
    assert rows_of("dic:5", runs)["DiC-XL"]["replayed_images_per_s"] == 3.0
    assert rows_of("fcdm:2", runs)["DiC-XL"]["replayed_images_per_s"] == 7.0
    assert rows_of("dic:5", runs)["DiC-H"]["replayed_images_per_s"] is None


def test_names_of_tables() -> None:
    assert named_tables("all") == known_tables()
    assert named_tables("rivals,fcdm:2") == ["rivals", "fcdm:2"]
    assert named_tables("dico") == ["dico:1", "dico:2", "dico:5"]
    assert named_tables("fcdm:2, dic:5,dic:5") == ["fcdm:2", "dic:5"]
    with pytest.raises(UsageError, match="--paper dic:6: unknown table; choose from all, dic:3, dic:4"):
        named_tables("dic:6")


TABLE = """\
### DiC, Table 7: 512 pixels

px 512

| model | steps trained | guidance | printed MACs G | MACs G | printed Winograd G | printed images/s | × of printed | \
our images/s | 95 % | × of ours | 95 % | ours / printed | verdict | FID (from the paper) | against the best | \
IS (from the paper) |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- | ---: |
| DiT-XL/2 | 400K | none | 524.7 | 524.60 | – | 16.2 | 1.00 | 2 | ±1.0 % | 1.00 | – | not comparable | VALID | 20.94 \
| different | 66.3 |
| DiC-XL | 400K | none | 464.3 | – | 228.7 | 84.2 | 5.20 | 6 | ±1.0 % | 3.00 | 2.96-3.04 | not comparable | VALID \
| 15.32 | different | 93.55 |
| DiC-H | 400K | none | 817.2 | – | 388.4 | 53.3 | 3.29 | – | – | – | – | – | – | 12.89 | best | 101.78 |
"""


def test_the_command_prints_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [measured("dit_xl_2", 2.0, res=512, macs=524600000000), measured("dic_xl", 6.0, res=512)]
    run = str(write_lines(tmp_path / "run.jsonl", own))
    for form in ("markdown", "json", "latex", "table"):
        with pytest.raises(SystemExit) as stopped:
            main(["report", run, "--paper", "dic:7", "--format", form])
        assert stopped.value.code == 0
        out = capsys.readouterr().out
        if form == "markdown":
            assert out.startswith(TABLE)
            assert "Ours over printed: not comparable, the paper's GPU is A100, this is a CPU." in out
            assert "are quoted from the paper" in out
        elif form == "json":
            assert [row["our_ratio"] for row in json.loads(out)] == [1.0, pytest.approx(3.0), None]
        elif form == "latex":
            assert out.startswith("% DiC, Table 7: 512 pixels\n% \\usepackage{booktabs}\n\\begin{table}")


def test_columns_make_a_table_narrow_enough_for_a_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [measured("dit_xl_2", 2.0, res=512), measured("dic_xl", 6.0, res=512)]
    run = str(write_lines(tmp_path / "run.jsonl", own))
    columns = ["--columns", "label,quoted_ratio,our_ratio"]
    with pytest.raises(SystemExit):
        main(["report", run, "--paper", "dic:7", "--format", "latex", *columns])
    assert "\nDiC-XL & 5.20 & 3.00 \\\\\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["report", run, "--paper", "dic:7", "--format", "json", *columns])
    assert json.loads(capsys.readouterr().out)[1] == {
        **{"label": "DiC-XL", "quoted_ratio": pytest.approx(84.2 / 16.2), "our_ratio": pytest.approx(3.0)}
    }
    with pytest.raises(SystemExit) as stopped:
        main(["report", run, "--paper", "dic:7", "--columns", "lable"])
    assert stopped.value.code == 2
    assert "unknown column 'lable': did you mean label" in capsys.readouterr().err


def test_options_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write_lines(tmp_path / "run.jsonl", [measured("dic_xl")]))
    with pytest.raises(SystemExit) as stopped:
        main(["report", run, "--paper", "--sort", "model"])
    assert stopped.value.code == 2
    assert "--sort cannot be combined with --paper" in capsys.readouterr().err
