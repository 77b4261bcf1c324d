"""The check of a page of ``convbench report --html``: every cell of its table recomputed from the samples inside it."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from convbench.errors import UsageError
from convbench.timing import derived

from ..columns import COLUMNS
from ..tables.cells import cell_text
from .data import FORMAT, digest, sort_value, table_rows

Row = dict[str, Any]

FROM_ROWS = ("interval", "baseline_ratio", "baseline_interval")  # columns that follow from recomputed values


@dataclass(frozen=True)
class Difference:
    """A cell or value of the page that disagrees with its samples."""

    row: str
    column: str
    shown: str
    recomputed: str

    def __str__(self) -> str:
        return f"{self.row}: {self.column} shows {self.shown}, recomputed {self.recomputed}"


@dataclass
class Checked:
    """The result of a check."""

    cells: int = 0  # compared
    recomputed: int = 0  # of these, by a formula from samples, counts and rates; the rest is compared as recorded
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of the raw data themselves

    @property
    def passed(self) -> bool:
        return not self.differences and not self.problems


def check_page(text: str, name: str) -> Checked:
    """Recompute the table of a page and compare it with the cells shown.

    Args:
        text: of the HTML file; ``name``: of the file, for messages.

    Raises:
        UsageError: the file is not a page of convbench, or a newer convbench wrote it.
    """
    read = _Page()
    read.feed(text)
    read.close()
    if not read.is_page:
        raise UsageError(f"{name} is not a page written by convbench report --html")
    checked = Checked()
    data = _data(read, name, checked)
    if data is None:
        return checked
    try:
        _check_table(read, data, checked)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, ZeroDivisionError) as error:
        checked.problems.append(f"the raw data have been changed ({type(error).__name__}: {error})")
    return checked


def _data(page: "_Page", name: str, checked: Checked) -> Row | None:
    if not page.data:
        checked.problems.append("the raw data are missing: nothing can be recomputed")
        return None
    found = digest(page.data)
    for place, shown in (
        ("their element says", page.data_digest),
        ("the line below the table says", page.printed_digest),
    ):
        if shown != found:
            checked.problems.append(f"SHA-256 of the raw data is {found}, but {place} {shown}: the page was changed")
    try:
        data: Row = json.loads(page.data)
    except ValueError as error:
        checked.problems.append(f"the raw data are not valid JSON ({error})")
        return None
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        checked.problems.append("the raw data have been changed: their format is missing")
        return None
    if data["format"] > FORMAT:
        raise UsageError(f"{name} was written by a newer convbench ({data.get('convbench')}): upgrade")
    return data


def _check_table(page: "_Page", data: Row, checked: Checked) -> None:
    rows = [{**row, "environment": data["environments"][row["environment"]]} for row in data["measurements"]]
    recomputed = [_recomputed(row, rows, checked) for row in rows]
    right = table_rows([row for row, _ in recomputed], data["baseline"])
    columns = data["columns"]
    headers = [(key, COLUMNS[key].header) for key in columns]
    if page.heads != headers:
        checked.problems.append(f"the table's columns are {page.heads}, the page was written with {headers}")
    if sorted(page.rows) != sorted(data["shown"]) or page.repeated or page.unnamed != 1:
        cases = [rows[place]["case"] for place in data["shown"] if place not in page.rows]
        checked.problems.append(f"rows were added or removed; missing: {', '.join(cases) or 'none'}")
    for place in data["shown"]:
        cells = page.rows.get(place)
        if cells is None:
            continue
        if len(cells) != len(columns):
            checked.problems.append(f"{rows[place]['case']}: {len(cells)} cells for {len(columns)} columns")
            continue
        for key, (text, value) in zip(columns, cells, strict=True):
            checked.cells += 1
            checked.recomputed += key in recomputed[place][1] or key in FROM_ROWS
            expected, number = cell_text(right[place], key), sort_value(right[place], key)
            if text != expected:
                checked.differences.append(_difference(rows[place], key, text, expected))
            elif value != number:
                checked.differences.append(_difference(rows[place], key, f"{text} sorted as {value}", f"{number}"))


def _recomputed(row: Row, rows: list[Row], checked: Checked) -> tuple[Row, set[str]]:
    """A row with the values that its raw data determine, and the keys of these values."""
    same_file = [each for each in rows if each["file"] == row["file"]] if row.get("compared_with") else []
    found = derived.derive(row) | derived.derive_ratio(row, same_file)
    wrong = {key: value for key, value in found.items() if not derived.nearly_equal(row.get(key), value)}
    for key, value in wrong.items():
        checked.differences.append(Difference(row["case"], f"{key} of the raw data", str(row.get(key)), str(value)))
    return {**row, **wrong}, set(found)


def _difference(row: Row, key: str, shown: str, expected: str) -> Difference:
    return Difference(row["case"], f"{COLUMNS[key].header} ({key})", shown, expected)


class _Page(HTMLParser):
    """The content of a page: the heads and cells of its table, its raw data and their hashes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.is_page = False
        self.heads: list[tuple[str, str]] = []
        self.rows: dict[int, list[tuple[str, str | None]]] = {}
        self.repeated = False
        self.unnamed = 0
        self.data = ""
        self.data_digest: str | None = None
        self.printed_digest = ""
        self._row: int | None = None
        self._text: list[str] | None = None
        self._key: str | None = None
        self._value: str | None = None
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table":
            self._inside = given.get("id") or ""
            self.is_page = self.is_page or self._inside == "measurements"
        elif tag == "script" and given.get("id") == "data":
            self._inside, self.data_digest = "data", given.get("data-sha256")
        elif tag == "code" and given.get("id") == "digest":
            self._inside = "digest"
        elif self._inside == "measurements":
            self._start_in_table(tag, given)

    def _start_in_table(self, tag: str, given: dict[str, str | None]) -> None:
        if tag == "tr":
            place = given.get("data-row")
            self._row = int(place) if place and place.isdecimal() else None
            if self._row is None:
                self.unnamed += 1  # the head is one
            else:
                self.repeated = self.repeated or self._row in self.rows
                self.rows[self._row] = []
        elif tag in ("th", "td"):
            self._text, self._key, self._value = [], given.get("data-key"), given.get("data-value")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "script", "code"):
            self._inside = ""
        elif tag in ("th", "td") and self._text is not None:
            text, self._text = "".join(self._text), None
            if self._key is not None:
                self.heads.append((self._key, text))
            elif self._row is not None:
                self.rows[self._row].append((text, self._value))

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data
        elif self._inside == "digest":
            self.printed_digest += data
        elif self._text is not None:
            self._text.append(data)
