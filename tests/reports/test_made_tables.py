"""The tables and pictures of README.md and docs/ agree with the committed result files; if not, run `make tables`."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest

from convbench.catalogue import variants
from convbench.papers.audit import audited_lines

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """scripts/tables.py."""
    specification = importlib.util.spec_from_file_location("tables", ROOT / "scripts" / "tables.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(tables: ModuleType) -> dict[str, tuple[str, str]]:
    made: dict[str, tuple[str, str]] = tables.drawn()
    return made


def test_every_table_is_what_its_command_prints(tables: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made = 0
    for page in tables.pages():
        text = page.read_text("utf-8")
        made += len(tables.TABLE.findall(text))
        assert tables.with_tables(text) == text, f"{page.relative_to(ROOT)} is out of date: make tables"
    assert made >= 3


def test_the_readme_has_a_table_with_numbers(tables: ModuleType) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (region,) = tables.TABLE.finditer(text)
    rows = [line for line in region[0].splitlines() if re.match(r"\| \w+_", line)]
    assert len(rows) >= 5 and all("VALID" in row or "NOISY" in row or "SUSPECT" in row for row in rows)


@pytest.mark.slow
def test_every_kept_picture_is_shown_and_is_what_the_results_give(
    tables: ModuleType, drawn: dict[str, tuple[str, str]]
) -> None:
    committed = {file.stem: file.read_text("utf-8") for file in (ROOT / "docs" / "pictures").glob("*.svg")}
    assert set(committed) == tables.linked() <= set(drawn)
    assert 1 <= len(committed) <= 10
    for name, kept in committed.items():
        _, text = drawn[name]
        if f"Matplotlib v{matplotlib.__version__}," not in kept:
            continue  # another version draws in another way
        assert _words(kept) == _words(text), f"{name} is out of date: make tables"
        for before, now in zip(_places(kept), _places(text), strict=True):
            assert abs(before - now) < 0.5, f"{name} is out of date: make tables"


def _words(text: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", text)


def _places(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(re.sub(r'(id|href)="[^"]*"|url\([^)]*\)', "", text))]


def test_what_is_counted_is_what_the_catalogue_says() -> None:
    """The counts of the results against the catalogue's, which tests hold to the counter's."""
    counted = json.loads((RESULTS / "counted-256px.json").read_text("utf-8"))
    assert len(counted) == 8
    for row in counted:
        assert (row["macs"], row["params"]) == (variants()[row["model"]].macs, variants()[row["model"]].params)
    split: dict[str, int] = {}
    for row in json.loads((RESULTS / "counted-256px-by-kind.json").read_text("utf-8")):
        if row["kind"] != "gla_core":  # which only macs_full holds
            split[row["model"]] = split.get(row["model"], 0) + row["macs"]
    assert split == {row["model"]: row["macs"] for row in counted if row["model"] in split}


def test_the_audited_lines_are_those_that_are_printed() -> None:
    keys = ("paper", "table", "model", "res", "images_per_s")
    audited = json.loads((RESULTS / "audit.json").read_text("utf-8"))
    assert [tuple(row[key] for key in keys) for row in audited] == [
        tuple(line.get(key) for key in keys) for line in audited_lines()
    ], "make tables"


def test_a_changed_table_is_found_and_regenerated(tables: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text("utf-8")
    region = next(tables.TABLE.finditer(text))[0]
    changed = text.replace(
        region, re.sub(r"\d\.\d", "9.9", region.partition("-->")[2]).join([region.partition("-->")[0] + "-->", ""])
    )
    assert changed != text
    assert tables.with_tables(changed) == text


@pytest.mark.slow
def test_the_site_has_every_picture_on_one_page(tables: ModuleType, drawn: dict[str, tuple[str, str]]) -> None:
    """Git keeps some of them; the others and the page exist only while the site is built."""
    files = tables.gallery()
    page = files.pop(tables.GALLERY)
    assert re.findall(r"\]\(pictures/([\w-]+)\.svg\)", page) == sorted(drawn, key=list(drawn).index)
    assert set(files) == {f"pictures/{name}.svg" for name in set(drawn) - tables.linked()}
    assert {name: text for name, text in files.items() if text != drawn[Path(name).stem][1]} == {}
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == list(dict.fromkeys(f"## {title}" for title, _ in drawn.values()))


def test_links_to_pictures_are_found(tables: ModuleType) -> None:
    text = "![a: b](docs/pictures/one.svg) ![](../pictures/two-2.svg)\n![x](pictures/three.svg) [no](pictures/four.svg)"
    assert tables.LINK.findall(text) == ["one", "two-2", "three"]


def test_a_command_that_fails_is_not_written(tables: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="cannot read nothing"):
        tables.output("convbench report nothing")
