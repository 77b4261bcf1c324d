"""``convbench report``: ratios and ranks by hand, the text of every format, files that convbench did not write."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pandas
import pytest
from stored import MACHINE, measured, write_lines

from convbench.cli import main
from convbench.errors import NothingMeasured, UsageError
from convbench.reports.baseline import beside_baseline
from convbench.reports.runs import frame, read_runs, records
from convbench.reports.tables.latex import escape

ROWS = [
    measured("dit_xl_2", 2.0, 0.01, params=675129632, macs=118648673280),
    measured("dic_xl", 3.0, 0.02, params=702266120, macs=116136592128, winograd_macs=57248563968),
    measured("dig_xl_2", 1.0, 0.03, verdict="SUSPECT", reason="WIDE"),
    measured("dico_xl", 90.0, verdict="INVALID", reason="CONSTANT: the output ignores t"),
    measured("fcdm_xl", 80.0, unranked="a reference path"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "run.jsonl", ROWS)


def called(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["report", *map(str, args)])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def compared(rows: list[dict[str, Any]], baseline: str = "dit_xl_2") -> list[dict[str, Any]]:
    """Rows of one file beside their baseline."""
    return records(beside_baseline(frame([{"file": "a", **row} for row in rows]), baseline))


def test_the_ratio_is_to_the_baseline_of_the_same_run() -> None:
    by = {row["model"]: row for row in compared(ROWS)}
    assert by["dic_xl"]["baseline_ratio"] == pytest.approx(1.5)
    assert by["dit_xl_2"]["baseline_ratio"] == 1
    assert by["dit_xl_2"]["baseline_ratio_low"] is None
    half = math.hypot(math.log(1.02 / 0.98) / 2, math.log(1.01 / 0.99) / 2)
    assert by["dic_xl"]["baseline_ratio_low"] == pytest.approx(1.5 * math.exp(-half))
    assert by["dic_xl"]["baseline_ratio_high"] == pytest.approx(1.5 * math.exp(half))
    assert compared(ROWS, "dic_xl")[2]["baseline_ratio"] == pytest.approx(1 / 3)


def test_invalid_and_unranked_rows_have_neither_ratio_nor_rank() -> None:
    by = {row["model"]: row for row in compared(ROWS)}
    assert [by[model]["rank"] for model in ("dic_xl", "dit_xl_2", "dig_xl_2")] == [1, 2, 3]
    for model in ("dico_xl", "fcdm_xl"):
        assert (by[model]["rank"], by[model]["baseline_ratio"], by[model]["baseline_note"]) == (None, None, None)


@pytest.mark.parametrize(
    "other",
    [
        *({"res": 512}, {"batch": 4}, {"backend": "compile"}, {"precision": "bf16"}, {"threads": 2}, {"mode": "train"}),
        *({"device": "cuda", "threads": None}, {"environment": MACHINE | {"torch": "3"}}),
    ],
)
def test_a_row_of_other_conditions_is_not_comparable(other: dict[str, Any]) -> None:
    row = compared([ROWS[0], measured("dic_xl", 3.0, **other)])[1]
    assert (row["baseline_ratio"], row["baseline_note"]) == (None, "not comparable")
    assert row["rank"] == 1


def test_a_row_of_another_file_is_not_comparable() -> None:
    rows = [{"file": "a", **ROWS[0]}, {"file": "b", **ROWS[1]}]
    assert records(beside_baseline(frame(rows)))[1]["baseline_note"] == "not comparable"


def test_an_invalid_baseline_is_none() -> None:
    row = compared([ROWS[0] | {"verdict": "INVALID"}, ROWS[1]])[1]
    assert (row["baseline_ratio"], row["baseline_note"]) == (None, "no baseline")
    again = compared([ROWS[0] | {"verdict": "INVALID"}, ROWS[0] | {"repeat": 2}, ROWS[1]])[2]
    assert again["baseline_ratio"] == pytest.approx(1.5)  # a valid repeat of it serves


def test_without_the_baseline_nothing_is_said() -> None:
    row = compared(ROWS[1:])[0]
    assert (row["baseline_ratio"], row["baseline_note"]) == (None, None)


def test_a_repeat_is_not_ranked_twice() -> None:
    assert [row["rank"] for row in compared([ROWS[0], ROWS[0] | {"repeat": 2}, ROWS[2]])] == [1, None, 2]


PLAIN = """\
px 256, batch 1, backend eager, precision fp32, device cpu, threads 1
model     images/s    95 %  × baseline       95 %        rank  verdict
dic_xl           3  ±2.0 %       1.500  1.47-1.53           1  VALID
dit_xl_2         2  ±1.0 %       1.000          –           2  VALID
dig_xl_2         1  ±3.0 %       0.500  0.48-0.52           3  SUSPECT
dico_xl         90  ±1.0 %           –          –  not ranked  INVALID
fcdm_xl         80  ±1.0 %           –          –  not ranked  VALID
× baseline: images/s over those of dit_xl_2 in the same run and conditions; its interval combines both.
dico_xl/256px/b1/eager/fp32/cpu/1threads: INVALID, CONSTANT: the output ignores t
fcdm_xl/256px/b1/eager/fp32/cpu/1threads: not ranked, a reference path
"""
NAMES = "res,batch,backend,precision,device,threads,model,images_per_s,interval,baseline_ratio,baseline_interval,rank"


def test_a_table_sorted_with_the_unranked_below(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, run, "--sort", "images_per_s", "--columns", f"{NAMES},verdict")
    assert (code, out) == (0, PLAIN)


def test_sorting_the_other_way_round(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key, models in (("-images_per_s", "dig_xl_2 dit_xl_2 dic_xl"), ("model", "dic_xl dig_xl_2 dit_xl_2")):
        _, out, _ = called(capsys, run, "--sort", key, "--columns", "model", "--format", "csv")
        assert " ".join(out.split()[1:4]) == models


def test_markdown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--columns", "model,images_per_s,baseline_ratio", "--where", "model=dit_xl_2,model=dic_xl")
    code, out, _ = called(capsys, run, *args, "--format", "markdown")
    assert code == 0
    assert out.split("\n\n")[0].splitlines() == [
        "| model | images/s | × baseline |",
        "| --- | ---: | ---: |",
        "| dit_xl_2 | 2 | 1.000 |",
        "| dic_xl | 3 | 1.500 |",
    ]


LATEX = r"""% \usepackage{booktabs}
\begin{table}
\centering
\caption{px 256, batch 1}
\begin{tabular}{lrrrl}
\toprule
model & MACs G & images/s & $\times$ baseline & verdict \\
\midrule
dit\_xl\_2 & 118.65 & 2 & 1.000 & VALID \\
dic\_xl & 116.14 & 3 & 1.500 & VALID \\
\bottomrule
\end{tabular}
\par\smallskip{\footnotesize $\times$ baseline: images/s over those of dit\_xl\_2 in the same run and conditions; \
its interval combines both.\par}
\end{table}
"""


def test_latex(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = "res,batch,model,macs,images_per_s,baseline_ratio,verdict"
    args = ("--columns", columns, "--where", "model=dit_xl_2,model=dic_xl", "--format", "latex")
    assert called(capsys, run, *args) == (0, LATEX.replace("\\\nits", "its"), "")


def test_latex_escapes_what_has_a_meaning_there() -> None:
    assert escape("a_b & 5 % of #1 {x} $y$ ±2 – ~^\\") == (
        r"a\_b \& 5 \% of \#1 \{x\} \$y\$ $\pm$2 -- \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


def test_csv_loads_into_pandas_unchanged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = called(capsys, run, "--format", "csv")
    table = pandas.read_csv(io.StringIO(out))
    assert list(table["model"]) == [row["model"] for row in ROWS]
    for key in ("images_per_s", "images_per_s_low", "images_per_s_high", "batch"):
        assert list(table[key]) == [row[key] for row in ROWS]
    assert list(table["macs"])[:2] == [118648673280, 116136592128]


def test_json_holds_every_key_as_it_was_stored(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = called(capsys, run, "--format", "json")
    for row, stored in zip(json.loads(out), ROWS, strict=True):
        assert {key: row[key] for key in stored} == stored
    _, out, _ = called(capsys, run, "--format", "json", "--columns", "model,interval,rank")
    assert json.loads(out)[1] == {"model": "dic_xl", "interval": pytest.approx(0.02), "rank": 1}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--columns", "model,images_per_sec"], "unknown column 'images_per_sec': did you mean images_per_s"),
        (["--sort", "imags_per_s"], "unknown key to sort by 'imags_per_s': did you mean images_per_s"),
        (["--baseline", "dit_xl2"], "unknown model 'dit_xl2': did you mean dit_xl_2"),
        (["--baseline", "dit_s_2"], "--baseline dit_s_2 is in none of these files; choose from dit_xl_2, dic_xl"),
        (["--where", "batch=2"], "no row has batch=2; choose from 1"),
        (["--where", "bach=1"], "unknown key 'bach': did you mean batch"),
        (["--where", "batch"], "--where batch: expected key=value"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(
    run: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    code, out, err = called(capsys, run, *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"convbench: {said}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("", 3, "no measurement in"),
        ("hello\n", 2, "is not JSON: not a result file of convbench"),
        ('{"a": 1}\n', 2, "is not a measurement: not a result file"),
        ('[{"a": 1}]', 2, "row 1 is not a row of convbench: 'a' …"),
        (json.dumps([{"x" * 5000: 1}]), 2, f"row 1 is not a row of convbench: '{'x' * 40}' …"),
        (json.dumps([ROWS[0] | {"schema": None, "kind": [], "status": 1}]), 2, "row 1 has status 1"),
        (json.dumps(ROWS[0] | {"x" * 5000: 1e99}) + "\n", 2, f"row 1 has {'x' * 40} 1e+99: not a result file"),
        ("[1]", 2, "is not a list of rows"),
        ('[{"model": ', 2, "is not JSON: not written by convbench, or truncated"),
        ('{"schema": 99, "case": "x"}\n', 2, "was written by a newer convbench (schema 99): upgrade"),
        (json.dumps(ROWS[0] | {"images_per_s": "fast"}) + "\n", 2, "row 1 has images_per_s 'fast'"),
        (json.dumps(ROWS[0] | {"images_per_s": None}) + "\n", 2, "row 1 has images_per_s None"),
        (json.dumps(ROWS[0] | {"status": "fine"}) + "\n", 2, "row 1 has status 'fine'"),
    ],
)
def test_a_file_of_another_program_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, code: int, said: str
) -> None:
    (tmp_path / "x.jsonl").write_text(content, "utf-8")
    found, out, err = called(capsys, tmp_path / "x.jsonl")
    assert (found, out) == (code, "")
    assert said in err.splitlines()[-1] and "Traceback" not in err


def test_a_refused_condition_names_long_values_shortly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "x.jsonl", [ROWS[0] | {"backend": "x" * 5000}])
    code, out, err = called(capsys, tmp_path / "x.jsonl", "--where", "backend=eager")
    assert (code, out) == (2, "")
    assert err == f"convbench: no row has backend=eager; choose from {'x' * 40}\n"


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none.jsonl: No such file"):
        read_runs([tmp_path / "none.jsonl"])
    with pytest.raises(UsageError, match=r"no .jsonl or .json file in"):
        read_runs([tmp_path])


def test_a_torn_line_is_said_and_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.write_bytes(run.read_bytes()[:-9])
    code, out, err = called(capsys, run)
    assert code == 0 and "dico_xl" in out and "fcdm_xl" not in out
    assert err == f"{run}: ignored its last line, which is incomplete (the run was killed)\n"


def test_files_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ROWS[:1])
    write_lines(tmp_path / "b.jsonl", [{"schema": 1, "case": "replay/x", "knob": "ours", "step": "ours"}])
    (tmp_path / "c.json").write_text(json.dumps([{"model": "dic_s", "kind": "linear", "macs": 1, "share": 1.0}]))
    (tmp_path / "d.json").write_text(json.dumps(ROWS[1:2]))
    (tmp_path / "e.txt").write_text("another file")
    runs = read_runs([tmp_path])
    assert [row["model"] for row in runs.measurements] == ["dit_xl_2", "dic_xl"]
    assert (len(runs.replays), len(runs.kinds), len(runs.sampling)) == (1, 1, 0)
    assert runs.kinds[0]["file"] == str(tmp_path / "c.json")


def test_a_file_without_throughput_is_nothing_to_report(tmp_path: Path) -> None:
    from convbench.cli.report import command

    kinds = tmp_path / "c.json"
    kinds.write_text(json.dumps([{"model": "dic_s", "kind": "linear", "macs": 1, "share": 1.0}]))
    with pytest.raises(NothingMeasured, match="only kinds"):
        command.main([str(kinds)], standalone_mode=False)


def test_the_table_is_printed_unless_another_output_is_asked_for(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, folder = tmp_path / "page.html", tmp_path / "pictures"
    code, out, err = called(capsys, run, "--html", page, "--plots", folder)
    assert (code, out) == (0, "")
    assert sorted(err.splitlines()) == sorted(f"wrote {file}" for file in (page, *folder.iterdir()))
    assert {file.suffix for file in folder.iterdir()} == {".svg", ".png"} and page.is_file()


def test_the_papers_tables_and_pictures_in_one_call(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = called(capsys, run, "--paper", "dic:5", "--plots", tmp_path / "x", "--format", "markdown")
    assert (code, out.splitlines()[0]) == (0, "### DiC, Table 5: backbones of the XL size, 256 pixels")
    assert f"wrote {tmp_path / 'x' / 'fid-macs.svg'}" in err.splitlines()


@pytest.mark.parametrize("option", [["--explain", "dic_xl/mfu"], ["--html", "page.html"], ["--baseline", "dic_xl"]])
def test_the_papers_tables_refuse_what_they_cannot_take(
    run: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    code, out, err = called(capsys, run, "--paper", "all", *option)
    assert (code, out) == (2, "")
    assert err.startswith(f"convbench: {option[0]} cannot be combined with --paper: ")


def test_a_ratio_stands_beside_what_its_case_was_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eager = measured("dico_s", 10.0)
    ratio = {"ratio": 2.357, "ratio_low": 2.34, "ratio_high": 2.381, "difference": "faster"}
    row = measured("dico_s", 23.6, backend="aoti", compared_with=eager["case"], **ratio)
    run = write_lines(tmp_path / "run.jsonl", [row, eager])
    columns = ("--columns", "backend,ratio,ratio_interval,compared_with,difference")
    _, out, _ = called(capsys, run, *columns, "--format", "markdown")
    assert out.splitlines()[2:] == ["| aoti | 2.357 | 2.340-2.381 | eager | faster |", "| eager | – | – | – | – |"]
