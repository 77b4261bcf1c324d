"""Rows as Markdown, CSV, JSON, plain text and a terminal's table: the exact text, and what is left out."""

import csv
import io
import json
import re
from typing import Any

import pytest

from convbench.reports.columns import COLUMNS
from convbench.reports.computed import half_interval
from convbench.reports.formats import UNKNOWN, significant
from convbench.reports.tables.text import render

KEYS = (
    *("model", "res", "batch", "backend", "precision", "device", "threads", "weights", "repeat"),
    *("params", "macs", "images_per_s", "interval", "limit_fraction", "peak_bytes", "status", "verdict"),
)
SAME = {"res": 64, "batch": 1, "backend": "eager", "precision": "fp32", "device": "cpu", "threads": 1, "repeat": 1}
ROWS: list[dict[str, Any]] = [
    {"model": "dico_s", **SAME, "params": 33068552, "macs": 266338304}
    | {"images_per_s": 49.237, "images_per_s_low": 48.0, "images_per_s_high": 50.5, "limit_fraction": 0.4321}
    | {"status": "ok", "verdict": "VALID", "reason": "", "block_s": [0.02], "peak_bytes": None, "weights": None},
    {"model": "dit_s_2", **SAME, "params": 32958112, "macs": 350000000}
    | {"images_per_s": None, "images_per_s_low": None, "images_per_s_high": None, "limit_fraction": None}
    | {"status": "failed", "verdict": None, "reason": 'ValueError: a, "b"', "block_s": []}
    | {"peak_bytes": None, "weights": None},
]
ABOVE = "px 64, batch 1, backend eager, precision fp32, device cpu, threads 1"

MARKDOWN = f"""\
{ABOVE}

| model | params M | MACs G | images/s | 95 % | of limit | status | verdict |
| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |
| dico_s | 33.1 | 0.27 | 49.24 | ±2.5 % | 43 % | ok | VALID |
| dit_s_2 | 33.0 | 0.35 | – | – | – | failed | – |

A note."""

CSV = '''\
model,res,batch,backend,precision,device,threads,repeat,params,macs,images_per_s,images_per_s_low,images_per_s_high,\
limit_fraction,status,verdict,reason,peak_bytes,weights
dico_s,64,1,eager,fp32,cpu,1,1,33068552,266338304,49.237,48.0,50.5,0.4321,ok,VALID,,,
dit_s_2,64,1,eager,fp32,cpu,1,1,32958112,350000000,,,,,failed,,"ValueError: a, ""b""",,'''

PLAIN = f"""\
{ABOVE}
model    params M  MACs G  images/s    95 %  of limit  status  verdict
dico_s       33.1    0.27     49.24  ±2.5 %      43 %  ok      VALID
dit_s_2      33.0    0.35         –       –         –  failed  –
A note."""


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_markdown() -> None:
    assert render(ROWS, KEYS, "markdown", ["A note."]) == MARKDOWN


def test_csv_has_every_key_that_is_a_number_or_a_text_in_base_units() -> None:
    assert render(ROWS, KEYS, "csv", ["A note."]) == CSV


def test_json_is_one_list_of_the_rows_themselves() -> None:
    assert json.loads(render(ROWS, KEYS, "json", ["A note."])) == ROWS


def test_plain() -> None:
    assert render(ROWS, KEYS, "plain", ["A note."], width=200) == PLAIN


def test_a_terminal_gets_the_same_with_a_line_and_colours() -> None:
    shown = render(ROWS, KEYS, "table", ["A note."], width=200)
    assert "\x1b[" in shown
    above, head, rule, *rest = [line.rstrip() for line in without_colours(shown).splitlines()]
    assert set(rule) == {"─"}
    assert [above, head, *rest] == PLAIN.splitlines()


@pytest.mark.parametrize("form", ["markdown", "plain", "table"])
def test_conditions_that_vary_stay_in_the_table(form: str) -> None:
    rows = [ROWS[0], ROWS[1] | {"batch": 4, "precision": "bf16"}]
    above, *rest = without_colours(render(rows, KEYS, form, width=200)).splitlines()
    assert above == "px 64, backend eager, device cpu, threads 1"
    head = next(line for line in rest if "model" in line).replace("|", " ").split()
    assert head[:3] == ["model", "batch", "precision"]


def test_repeats_are_shown_where_there_are_any() -> None:
    assert "repeat" not in render(ROWS, KEYS, "markdown")
    head = render([ROWS[0], ROWS[0] | {"repeat": 2}], KEYS, "markdown").splitlines()[2]
    assert head == "| model | repeat | params M | MACs G | images/s | 95 % | of limit | status | verdict |"


def test_a_single_row_puts_its_conditions_above_and_keeps_its_results() -> None:
    assert render(ROWS[:1], KEYS, "markdown").splitlines() == [
        ABOVE,
        "",
        "| model | params M | MACs G | images/s | 95 % | of limit | status | verdict |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
        "| dico_s | 33.1 | 0.27 | 49.24 | ±2.5 % | 43 % | ok | VALID |",
    ]


def test_a_column_nobody_has_a_value_for_is_left_out() -> None:
    rows = [row | {"images_per_s": None} for row in ROWS]
    assert render(rows, ("model", "images_per_s", "interval", "macs"), "markdown").splitlines() == [
        "| model | MACs G |",
        "| --- | ---: |",
        "| dico_s | 0.27 |",
        "| dit_s_2 | 0.35 |",
    ]


def test_csv_has_the_keys_of_all_rows() -> None:
    """A case that is skipped has no estimate; it may be the first."""
    text = render([{"case": "a", "skipped": "no GPU"}, {"case": "b", "skipped": None, "total_s": 2.5}], (), "csv")
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"case": "a", "skipped": "no GPU", "total_s": ""},
        {"case": "b", "skipped": "", "total_s": "2.5"},
    ]


@pytest.mark.parametrize("form", ["plain", "table"])
@pytest.mark.parametrize("width", [40, 50, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_broken(form: str, width: int) -> None:
    shown = without_colours(render(ROWS, KEYS, form, ["A note."], width=width))
    assert max(map(len, shown.splitlines())) <= width
    for whole in ("dico_s", "dit_s_2", "0.27", "0.35", "49.24", "43 %", "VALID"):
        assert whole in shown


def test_a_narrow_terminal_leaves_spare_columns_out_and_says_so() -> None:
    shown = " ".join(render(ROWS, KEYS, "plain", ["A note."], width=50).split())
    assert "status" not in shown and "failed" not in shown  # the most spare of all
    assert "A note. A wider terminal shows " in shown
    assert "--format json all keys." in shown
    assert "wider terminal" not in render(ROWS, KEYS, "plain", width=200)


def test_words_are_broken_where_numbers_are_not() -> None:
    rows = [{"what": "torch", "value": "the quick brown fox jumps over the lazy dog"}]
    shown = render(rows, ("what", "value"), "plain", width=30)
    assert max(map(len, shown.splitlines())) <= 30
    assert " ".join(shown.split()[2:]) == "torch the quick brown fox jumps over the lazy dog"


@pytest.mark.parametrize("form", ["plain", "table", "markdown"])
def test_a_table_without_rows_says_so(form: str) -> None:
    assert render([], KEYS, form, ["Why."]) == "nothing to show\nWhy."


@pytest.mark.parametrize(
    ("text", "shown"), [("a|b", r"a\|b"), (r"a\|b", r"a\\\|b"), ("<script>1</script>", "&lt;script>1&lt;/script>")]
)
def test_no_text_ends_a_markdown_cell_or_is_html(text: str, shown: str) -> None:
    assert f"| {shown} |" in render([{"what": text, "value": "x"}], ("what", "value"), "markdown")
    rows = [{"model": model, "backend": text} for model in ("a", "b")]
    assert render(rows, ("model", "backend"), "markdown").startswith(f"backend {shown}\n")


@pytest.mark.parametrize(("form", "expected"), [("csv", ""), ("json", [])])
def test_no_rows_are_no_rows(form: str, expected: Any) -> None:
    text = render([], KEYS, form)
    assert (json.loads(text) if form == "json" else text) == expected


def test_square_brackets_are_text() -> None:
    """Rich would take them for markup."""
    assert "[bold]" in render([{"what": "[bold]", "value": "[/]"}], ("what", "value"), "plain", width=80)


@pytest.mark.parametrize("form", ["plain", "table"])
def test_colons_are_text(form: str) -> None:
    """Rich would draw a flame for what lies between two."""
    shown = render([{"model": "mynet:fire:7"}, {"model": "a" * 50}], ("model",), form, [":fire:"], width=30)
    assert shown.count(":fire:") == 2


def test_every_column_prints_nothing_for_nothing() -> None:
    assert UNKNOWN == "–"
    for key, column in COLUMNS.items():
        if column.compute is None and key != "model":
            text = render([{"model": "x", key: None}, {"model": "y", key: 1}], ("model", key), "markdown")
            assert text.splitlines()[-2] == "| x | – |"
            assert text.splitlines()[-1] == f"| y | {column.text(1)} |"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00123456, "0.001235"),
        (1.0, "1"),
        (12.34567, "12.35"),
        (123.4567, "123.5"),
        (9999.4, "9999"),
        (9999.6, "10000"),
        (12345.6, "12346"),
        (1234567.8, "1234568"),
        (-12.34567, "-12.35"),
    ],
)
def test_four_digits_without_an_exponent(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("params", 33068552, "33.1"),
        ("macs", 116136592128, "116.14"),
        ("macs", 5873889024, "5.87"),
        ("weight_bytes", 132274208, "132"),
        ("latency_s_p50", 0.0203, "20.3"),
        ("peak_bytes", 3 * 2**30, "3.00"),
        ("needed_bytes", 1.5 * 2**30, "1.50"),
        ("mfu", 0.4321, "43 %"),
        ("share", 0.4321, "43.2 %"),
        ("ratio", 1.2345, "1.234"),
        ("total_s", 89.6, "90"),
    ],
)
def test_values_are_scaled_when_they_are_printed(key: str, value: float, text: str) -> None:
    assert COLUMNS[key].text(value) == text


def test_the_interval_is_half_its_width_as_a_share() -> None:
    row = {"images_per_s": 100.0, "images_per_s_low": 97.0, "images_per_s_high": 105.0}
    assert half_interval("images_per_s")(row) == pytest.approx(0.04)
    assert COLUMNS["interval"].text(half_interval("images_per_s")(row)) == "±4.0 %"
    assert half_interval("images_per_s")({"images_per_s": None}) is None
