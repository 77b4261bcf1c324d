"""The one-file page: its content, no network requests, its use in a browser, and the detection of changes."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import chromium
import pytest

from convbench.errors import UsageError
from convbench.reports.columns import COLUMNS
from convbench.reports.page.build import inline_svg, page
from convbench.reports.page.check import check_page
from convbench.reports.page.data import digest, script_json, table_rows
from convbench.reports.runs import Runs, read_runs
from convbench.reports.tables.cells import cell_text
from convbench.schema import Case, Measurement
from convbench.store import append
from convbench.timing import derived

KEYS = (
    *("file", "model", "res", "batch", "backend", "precision", "device", "threads", "repeat", "params", "macs"),
    *("images_per_s", "interval", "baseline_ratio", "baseline_interval", "latency_s_p50", "mfu", "limit_fraction"),
    *("ratio", "difference", "rank", "status", "verdict"),
)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"'"
RATES = {
    "matmul_flops_per_s": 2.5e11,
    "conv1x1_flops_per_s": 4.8e11,
    "conv3x3_flops_per_s": 5.2e11,
    "copy_bytes_per_s": 8.5e10,
    "launches_per_s": 6.7e5,
}
SVG = (
    '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
    '<defs><path id="p" d="M0 0"/></defs><use href="#p"/></svg>'
)


def measured(model: str, seconds: float, batch: int = 1, **known: Any) -> dict[str, Any]:
    """A row as the runner writes it, from made-up samples."""
    noise = random.Random(f"{model}{batch}")
    blocks = [seconds * noise.uniform(0.98, 1.02) for _ in range(15)]
    row = asdict(Measurement.of(Case(model, 256, batch, threads=2), status="ok", verdict="VALID")) | {
        "block_s": blocks,
        "steps_per_block": 1,
        "params": 33_137_672,
        "macs": 4_248_541_568,
        "macs_full": 4_240_000_000,
        "rates": RATES,
        "environment": {"cpu": "made up", "cores": 2, "torch": "2.13.0+cpu"},
        "measured_at": "2026-11-21T06:29:23+00:00",
        "smallest_difference": 0.03,
    }
    return row | derived.derive(row) | known


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    path = tmp_path_factory.mktemp("runs") / "run.jsonl"
    a, b = measured("dit_xl_2", 0.5), measured("dico_s", 0.4)
    b |= {"compared_with": a["case"]} | derived.derive_ratio(b | {"compared_with": a["case"]}, [a])
    slow = measured("dic_s", 0.9, batch=4, verdict="SUSPECT", reason=f"CONT: {EVIL}")
    refused = asdict(Measurement.of(Case("dig_s_2", 256, 1, threads=2), status="skipped", reason="needs 99 GiB"))
    for row in (a, b, slow, refused):
        append(path, Measurement.from_json(row))
    path.with_name("run.jsonl.toml").write_text(f"# {EVIL}\n", "utf-8")
    return read_runs([path])


@pytest.fixture(scope="module")
def text(runs: Runs) -> str:
    return page(runs, KEYS, pictures=[("Throughput <against> batch", SVG)])


def altered(text: str, old: str, new: str) -> str:
    assert text.count(old) >= 1
    return text.replace(old, new, 1)


def cell(text: str, model: str, shown: str) -> tuple[str, str]:
    """A cell of a model's row as it stands in the page, and the same with another digit."""
    (row,) = (line for line in text.splitlines() if line.startswith("<tr data-row") and f">{model}<" in line)
    changed = shown[:-1] + str((int(shown[-1]) + 1) % 10)
    assert row.count(f">{shown}</td>") == 1
    return row, row.replace(f">{shown}</td>", f">{changed}</td>")


# What it holds


def test_a_page_is_as_it_should_be(text: str) -> None:
    checked = check_page(text, "page.html")
    assert (checked.problems, checked.differences) == ([], [])
    columns = json.loads(re.search(r'data-sha256="\w+">(.*?)</script>', text).group(1))["columns"]  # type: ignore[union-attr]
    assert columns[0] == "model" and "repeat" not in columns and columns[-1] == "threads"
    assert checked.cells == 4 * len(columns)
    assert checked.recomputed == 3 * 7 + 2 + 3  # of each, ratios of one pair; with those of the baseline of the skipped


def test_every_text_of_a_file_is_escaped(text: str) -> None:
    assert "alert(1)</script>" not in text and "<img" not in text
    assert text.count("&lt;img src=x onerror=alert(2)&gt;") == 2  # the reason, the sweep
    assert text.count("</script>") == text.count("<script") == 2
    assert "Throughput &lt;against&gt; batch" in text


def test_data_in_a_script_come_back_as_they_were() -> None:
    data = {"<!--": EVIL, "n": 0.1 + 0.2, "u": "\u2028é"}
    found = script_json(data)
    assert not set("<>&") & set(found)
    assert json.loads(found) == data


def test_nothing_on_the_page_is_asked_of_a_network(text: str) -> None:
    """XML namespaces are names, not addresses."""
    without = text.replace("http://www.w3.org/2000/svg", "")
    outside = re.sub(r'<script type="application/json".*?</script>', "", without)
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!#)[^"']*|url\((?!#)|@import|\bfetch\(""", outside) == []
    assert "default-src 'none'" in text


def test_pictures_keep_their_ids_apart() -> None:
    assert inline_svg(SVG, 3) == SVG.removeprefix('<?xml version="1.0"?>').replace('"p"', '"picture3-p"').replace(
        "#p", "#picture3-p"
    )


@pytest.mark.parametrize("bad", ["<script>x</script>", '<image href="http://a"/>', '<g onload="x"/>'])
def test_a_picture_that_runs_or_asks_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="script or a link"):
        inline_svg(SVG.replace("</svg>", f"{bad}</svg>"), 1)


# What was changed is found


@pytest.mark.parametrize("key", ["images_per_s", "baseline_ratio", "ratio", "latency_s_p50", "params", "macs"])
def test_a_changed_cell_is_named(key: str, runs: Runs, text: str) -> None:
    row = next(row for row in table_rows(runs.measurements, "dit_xl_2") if row["model"] == "dico_s")
    shown = cell_text(row, key)
    old, new = cell(text, "dico_s", shown)
    checked = check_page(altered(text, old, new), "page.html")
    (found,) = checked.differences
    assert (found.row, found.column) == (row["case"], f"{COLUMNS[key].header} ({key})")
    assert (found.recomputed, found.shown != shown) == (shown, True)
    assert not checked.passed


CELL = re.compile(r"<t[dh](?: scope=\"row\")? class=\"[^\"]*\"(?: data-value=\"([^\"]*)\")?>(?:<button[^>]*>)?([^<]*)<")


def test_no_cell_and_no_number_behind_a_cell_can_be_changed(runs: Runs) -> None:
    """Of every row and column; every key of COLUMNS is asked for, and those that say something are shown."""
    text = page(runs, tuple(COLUMNS))
    data = re.search(r'data-sha256="\w+">(.*?)</script>', text)
    assert data
    columns = json.loads(data.group(1))["columns"]
    assert set(KEYS) - {"repeat", "file"} <= set(columns)  # which are the same in every row
    rows = list(re.finditer(r"^<tr data-row=.*$", text, re.MULTILINE))
    cells = [(row.start() + cell.start(), cell) for row in rows for cell in CELL.finditer(row.group())]
    assert len(rows) == 4 and len(cells) == 4 * len(columns)
    found = {"texts": 0, "numbers": 0}
    for group, kind in ((2, "texts"), (1, "numbers")):
        for number, row in enumerate(rows):
            own = cells[number * len(columns) : (number + 1) * len(columns)]
            edited, expected = text, []
            for (_, cell), key in reversed(list(zip(own, columns, strict=True))):  # of the whole row at once
                if cell.group(group) is not None:
                    end = row.start() + cell.end(group)
                    edited = f"{edited[:end]}0{edited[end:]}"
                    expected.insert(0, f"{COLUMNS[key].header} ({key})")
            checked = check_page(edited, "page.html")
            assert [each.column for each in checked.differences] == expected, (kind, number)
            assert checked.problems == []
            found[kind] += len(expected)
    assert found["texts"] == len(cells)
    assert found["numbers"] >= 30  # of three measured rows and one that is only listed


def test_a_share_or_a_verdict_that_was_changed_is_named(text: str) -> None:
    for old, new in (
        (">SUSPECT</td>", ">VALID</td>"),
        ("±", "± 0"),
        (" %</td>", "1 %</td>"),
        ('data-value="1', 'data-value="2'),
    ):
        checked = check_page(altered(text, old, new), "page.html")
        assert len(checked.differences) == 1, old
        assert checked.problems == []


def test_samples_that_no_longer_give_the_number_are_found_even_with_a_new_hash(text: str) -> None:
    """A new hash does not hide edited data; the numbers still have to follow from the samples."""
    data = re.search(r'data-sha256="(\w+)">(.*?)</script>', text)
    assert data
    speed = json.loads(data.group(2))["measurements"][1]["images_per_s"]
    better = data.group(2).replace(f'"images_per_s":{speed}', f'"images_per_s":{2 * speed}')
    edited = text.replace(data.group(2), better)
    checked = check_page(edited, "page.html")
    assert ["SHA-256" in problem for problem in checked.problems] == [True, True]
    checked = check_page(edited.replace(data.group(1), digest(better)), "page.html")
    assert checked.problems == []
    (found,) = checked.differences
    assert (found.column, found.shown) == ("images_per_s of the raw data", str(2 * speed))
    assert float(found.recomputed) == pytest.approx(speed, rel=1e-12)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (r'<script type="application/json".*?</script>', "raw data are missing"),
        (r"<tr data-row=\"1\".*?</tr>", "missing: dico_s/256px"),
        (r"(?<=<tbody>)\n(?=<tr data-row)", "rows were added"),
        (r"<td class=\"batch\"[^>]*>1</td>", "cells for"),
        (r"<th scope=\"col\" data-key=\"macs\".*?</th>", "the table's columns are"),
    ],
)
def test_a_missing_part_is_named(pattern: str, says: str, text: str) -> None:
    added = "<tr><td>99</td></tr>" if says == "rows were added" else ""
    edited, times = re.subn(pattern, added, text, count=1, flags=re.DOTALL)
    assert times == 1
    checked = check_page(edited, "page.html")
    assert not checked.passed
    assert any(says in problem for problem in checked.problems), checked.problems


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("block_s", "fast", "TypeError"),
        ("batch", "1", "TypeError"),
        ("environment", "of another", "TypeError"),
        ("environment", 9, "IndexError"),
        ("rates", "fast", "TypeError"),
    ],
)
def test_raw_data_of_another_kind_are_a_problem_and_no_traceback(key: str, value: Any, error: str, text: str) -> None:
    data = re.search(r'data-sha256="\w+">(.*?)</script>', text)
    assert data
    read = json.loads(data.group(1))
    read["measurements"][1][key] = value
    checked = check_page(text.replace(data.group(1), script_json(read)), "page.html")
    assert re.match(rf"the raw data have been changed \({error}: ", checked.problems[-1]), checked.problems


def test_other_files_are_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match=r"x\.html is not a page written by convbench report --html"):
        check_page("<html><table></table></html>", "x.html")
    data = re.search(r'data-sha256="(\w+)">(.*?)</script>', text)
    assert data
    newer = text.replace('{"format":1,', '{"format":2,')
    with pytest.raises(UsageError, match=r"written by a newer convbench"):
        check_page(newer, "x.html")


# In a browser


@pytest.fixture(scope="module")
def tab(text: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    if not chromium.PROGRAM:
        pytest.skip("chromium is not installed")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "page.html").write_text(text, "utf-8")
    with chromium.browser(folder) as tab:
        tab.open((folder / "page.html").as_uri())
        yield tab


MODELS = (
    "[...document.querySelectorAll('#measurements tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
)


def test_it_opens_from_disk_without_a_complaint_and_asks_for_nothing(tab: chromium.Tab) -> None:
    assert [address.rpartition("/")[2] for address in tab.requests()] == ["page.html"]
    assert tab.complaints() == []
    assert tab.value("document.title") == "convbench: 4 measurements"


def test_a_click_on_a_head_sorts_and_says_so(tab: chromium.Tab) -> None:
    head = "document.querySelector('th[data-key=images_per_s]')"
    first = ["dit_xl_2", "dico_s", "dic_s", "dig_s_2"]
    orders = []
    for _ in range(3):
        tab.value(f"{head}.firstElementChild.click()")
        orders.append((tab.value(f"{head}.getAttribute('aria-sort')"), tab.value(MODELS)))
    assert orders == [
        ("descending", ["dic_s", "dico_s", "dit_xl_2", "dig_s_2"]),
        ("ascending", ["dit_xl_2", "dico_s", "dic_s", "dig_s_2"]),
        (None, first),
    ]


def test_words_and_choices_narrow_the_rows(tab: chromium.Tab) -> None:
    tab.value("words.value = 'dic s'; words.dispatchEvent(new Event('input'))")
    assert tab.value(MODELS) == ["dico_s", "dic_s"]
    choice = "document.querySelector('#controls select[data-column=\"1\"]')"
    tab.value(f"{choice}.value = '4'; {choice}.dispatchEvent(new Event('change'))")
    assert (tab.value(MODELS), tab.value("document.getElementById('count').textContent")) == (["dic_s"], "1 of 4 rows")
    tab.value(f"words.value = ''; {choice}.value = ''; {choice}.dispatchEvent(new Event('change'))")
    assert len(tab.value(MODELS)) == 4


def test_the_keyboard_alone_opens_the_samples_of_a_row_and_comes_back(tab: chromium.Tab, runs: Runs) -> None:
    tab.value("document.querySelector('tr[data-row=\"1\"] button').focus()")
    tab.press("Enter")
    shown = tab.value("document.getElementById('origin').open && document.getElementById('origin').textContent")
    assert runs.measurements[1]["case"] in shown
    assert derived.FORMULAS["images_per_s"] in shown
    assert " ".join(map(str, runs.measurements[1]["block_s"])) in shown
    tab.press("Escape")
    assert tab.value("document.getElementById('origin').open") is False
    assert tab.value("document.activeElement.textContent") == "dico_s"


def test_numbers_in_the_browser_are_those_of_the_file(tab: chromium.Tab, runs: Runs) -> None:
    column = "document.querySelector('th[data-key=images_per_s]').cellIndex"
    cells = tab.value(f"[...document.querySelectorAll('tr[data-row]')].map(r => r.cells[{column}].textContent)")
    assert cells == [cell_text(row, "images_per_s") for row in runs.measurements]


@pytest.mark.parametrize("width", [360, 1280])
def test_only_the_table_scrolls_sideways(width: int, tab: chromium.Tab) -> None:
    tab.open(tab.value("location.href"), width=width)
    assert tab.value("document.documentElement.scrollWidth <= innerWidth") is True


def test_dark_is_dark_and_light_is_light(tab: chromium.Tab) -> None:
    grounds = []
    for dark in (False, True):
        tab.open(tab.value("location.href"), dark=dark)
        grounds.append(tab.value("getComputedStyle(document.documentElement).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(21, 23, 26)"]


# The commands


def test_report_writes_a_page_that_verify_report_accepts_until_a_digit_is_changed(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from convbench.cli import main

    def run(*line: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, line)])
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    source, path = runs.measurements[0]["file"], tmp_path / "page.html"
    assert run("report", source, "--where", "batch=1", "--sort", "images_per_s", "--html", path) == (
        0,
        "",
        f"wrote {path}\n",
    )
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    code, out, err = run("verify-report", path)
    assert (code, err) == (0, "") and re.fullmatch(r"all \d+ cells match, \d+ of them .*\n", out)

    text = path.read_text("utf-8")
    assert text.count("<figure") == text.count("</svg>") >= 2  # what the papers print, ratios to the baseline
    speed = cell_text(runs.measurements[1], "images_per_s")
    path.write_text(altered(text, *cell(text, "dico_s", speed)), "utf-8")
    code, out, err = run("verify-report", path)
    assert (code, err) == (1, "")
    assert out.startswith("dico_s/256px/b1/eager/fp32/cpu/2threads: images/s (images_per_s) shows ")
    assert out.endswith(f", recomputed {speed}\n")

    assert run("verify-report", source)[::2] == (
        2,
        f"convbench: {source} is not a page written by convbench report --html\n",
    )
    assert run("report", source, "--html", path, "--paper")[0] == 2
