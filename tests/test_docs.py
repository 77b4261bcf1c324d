"""The documentation: generated pages are up to date, shown commands parse, links resolve."""

import re
import runpy
from pathlib import Path
from typing import Any

import click
import pytest
from shown_commands import parses, shown, words

from convbench import catalogue
from convbench.cli import COMMANDS
from convbench.reports.columns import COLUMNS
from convbench.timing import derived

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
Script = dict[str, Any]


@pytest.fixture(scope="module")
def script() -> Script:
    return runpy.run_path(str(ROOT / "scripts" / "docs.py"))


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_generated_pages_are_up_to_date(script: Script) -> None:
    """If not: run scripts/docs.py and commit what it writes."""
    old = [
        name
        for name, text in script["pages"]().items()
        if not (DOCS / name).is_file() or (DOCS / name).read_text("utf-8") != text
    ]
    assert old == []


def test_no_generated_page_is_left_over(script: Script) -> None:
    made = {name for name in script["pages"]()}
    found = {
        str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.read_text("utf-8").startswith("<!-- Wr")
    }
    assert found == made


def test_every_command_option_and_family_has_its_place(script: Script) -> None:
    text = script["pages"]()["reference/commands.md"]
    for name in COMMANDS:
        assert f"\n## convbench {name}\n" in text
    for option in ("--fail-above", "--compare-with", "--html", "--dry-run"):
        assert f"| `{option}`" in text
    index = script["pages"]()["models/index.md"]
    assert [module for module in catalogue.families() if f"]({module}.md)" not in index] == []


def test_the_page_of_a_family_has_the_numbers_of_its_table(script: Script) -> None:
    text = script["pages"]()["models/dico.md"]
    assert "| `dico_xl` | DiCo-XL | 256 | 701.2 | 87.30 | yes |" in text  # params and macs of dico.toml
    assert "| `dico_xl` | 256 | dico 1 | – | 87.3 | 208.47 |" in text  # table 1 of the paper, as printed
    assert "| `kernel` | 3, 5, 7 | side of the depthwise kernel |" in text


@pytest.mark.parametrize("key", derived.FORMULAS)
def test_every_formula_stands_beside_its_column(key: str, script: Script) -> None:
    if key in COLUMNS:
        cells = f"| {COLUMNS[key].header} | `{key}` | {derived.FORMULAS[key]} |"
        assert cells in script["pages"]()["reference/columns.md"]


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_every_command_that_is_shown_parses(page: Path) -> None:
    for line, whole in shown(page.read_text("utf-8")):
        try:
            parses(line)
        except (click.MissingParameter, click.BadOptionUsage):
            assert not whole, f"{place(page)}: {line}"
        except click.ClickException as error:
            pytest.fail(f"{place(page)}: {line}: {error.format_message()}")


def test_a_bad_command_on_a_page_would_be_found() -> None:
    block = "```sh\nconvbench flops --modle dic_s   # typo\nconvbench flops | head\n```"
    page = f"convbench counts\n\n{block}\nand `convbench flops` here."
    (typo, _), (bare, whole), (inline, part) = shown(page)
    assert (whole, part) == (True, False)
    with pytest.raises(click.NoSuchOption):
        parses(typo)
    for line in (bare, inline):
        with pytest.raises(click.MissingParameter):
            parses(line)
    assert words("convbench flops --model dic_s > x  # y") == ["convbench", "flops", "--model", "dic_s"]


def test_the_pages_show_commands() -> None:
    lines = [line for page in PAGES for line, whole in shown(page.read_text("utf-8")) if whole]
    assert len(lines) > 60
    assert {words(line)[1] for line in lines} >= {"throughput", "flops", "report", "verify-report", "compare", "replay"}


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=place)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{place(page)}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{place(page)}: {target}"


def test_every_page_is_in_the_sites_contents() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = set(re.findall(r"([\w/-]+\.md)", text.partition("\nnav:\n")[2]))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | {"pictures.md"}  # which the hook adds
    families = {f"models/{module}.md" for module in catalogue.families()}  # their list is models/index.md
    assert named == pages - families
