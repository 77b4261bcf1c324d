#!/usr/bin/env python3
"""Regenerate the tables and pictures of README.md and docs/ from results/. `make tables` runs it.

    python scripts/tables.py           tables and pictures
    python scripts/tables.py --count   first what is counted and audited without measuring, which takes a minute

A table stands between two comments; the first names the command that makes it:

    <!-- made by: convbench report results --columns model,macs --format markdown -->
    <!-- end -->

Git keeps the pictures that a page links to, as docs/pictures/NAME.svg. The others are drawn when the documentation is
built: mkdocs.yml names this file as a hook, which adds them and a page that shows them all.
"""

import io
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from convbench.cli import main  # noqa: E402
from convbench.files import write_whole  # noqa: E402
from convbench.reports.plots.figures import svg  # noqa: E402
from convbench.reports.plots.pictures import pictures  # noqa: E402
from convbench.reports.runs import read_runs  # noqa: E402

RESULTS = "results"
FOLDERS = (".", "rivals", "glyphs")  # of results that pictures are drawn of
PICTURES = "docs/pictures"
TABLE = re.compile(r"(<!-- made by: (convbench [^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
LINK = re.compile(r"!\[[^\]]*\]\([./\w]*?pictures/([\w-]+)\.svg\)")
XL = "dit_xl_2,dig_xl_2,dic_xl,dico_xl,fcdm_xl"
RIVALS = "flowdcn_xl_2,ddt_xl_2,sana_600m,sana_1600m"  # with an FID at 512 pixels that the catalogue has no count for
COUNTED = {  # file of results -> the command that makes it
    "counted-256px.json": f"convbench flops --model {XL},dic_s,dic_b,dic_h --res 256 --format json",
    "counted-512px.json": f"convbench flops --model {XL},dic_h,dim_h,dis_h_2,{RIVALS} --res 512 --format json",
    "counted-256px-by-kind.json": f"convbench flops --model {XL} --res 256 --by kind --format json",
    "audit.json": "convbench audit --format json",
}
GALLERY = "pictures.md"
GALLERY_HEAD = """# Pictures of the results

Drawn from the files in `results/` when this site is built. `convbench report RUN… --plots FOLDER` draws the same
pictures from files of yours. [How to read them](results.md#how-to-read-it).
"""


def pages() -> list[Path]:
    """The documents that may hold tables and pictures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def output(command: str) -> str:
    """The output of a convbench command at the root of the checkout. Raises RuntimeError if the command fails."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(shlex.split(command)[1:])
    except SystemExit as stopped:
        if stopped.code:
            raise RuntimeError(f"{command}: {err.getvalue()}") from None
    return out.getvalue()


def drawn(names: set[str] | None = None) -> dict[str, tuple[str, str]]:
    """Title and SVG of each picture of the results, by name; all of them unless names are given."""
    return {
        each.name: (each.title, svg(each.figure()))
        for each in pictures(read_runs([ROOT / RESULTS / folder for folder in FOLDERS]))
        if names is None or each.name in names
    }


def linked() -> set[str]:
    """Names of the pictures that README.md or a page of docs/ shows."""
    return {name for page in pages() for name in LINK.findall(page.read_text("utf-8"))}


def with_tables(text: str) -> str:
    """The text of a page with its tables regenerated."""
    return TABLE.sub(lambda found: f"{found[1]}\n{output(found[2])}\n{found[3]}", text)


def write() -> None:
    """Write every page and picture that is out of date, and remove pictures that no page shows."""
    folder = ROOT / PICTURES
    folder.mkdir(exist_ok=True)
    made = drawn(linked())
    for name, (_, text) in made.items():
        write_whole(folder / f"{name}.svg", text.encode())
    for file in folder.glob("*.svg"):
        if file.stem not in made:
            file.unlink()
    for page in pages():
        before = page.read_text("utf-8")
        after = with_tables(before)
        if after != before:
            write_whole(page, after.encode())
            print(f"wrote {page.relative_to(ROOT)}")
    print(f"wrote {len(made)} pictures to {PICTURES}")


def count() -> None:
    """Write what is counted and audited, beside the results."""
    for name, command in COUNTED.items():
        write_whole(ROOT / RESULTS / name, output(command).encode())
        print(f"wrote {RESULTS}/{name}")


def gallery() -> dict[str, str]:
    """The files that only the site has: a page of all pictures, and the pictures that git does not keep."""
    every = drawn()
    sections: dict[str, list[str]] = {}
    for name, (title, _) in every.items():
        sections.setdefault(title, []).append(f"![{title}: {name}](pictures/{name}.svg)\n")
    page = [GALLERY_HEAD, *("\n".join([f"## {title}\n", *images]) for title, images in sections.items())]
    kept = linked()
    files = {f"pictures/{name}.svg": text for name, (_, text) in every.items() if name not in kept}
    return {GALLERY: "\n".join(page), **files}


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the gallery to the site; mkdocs calls this before it reads the pages."""
    from mkdocs.structure.files import File

    for name, text in gallery().items():
        files.append(File.generated(config, name, content=text))
    return files


if __name__ == "__main__":
    import os

    os.chdir(ROOT)
    if sys.argv[1:] == ["--count"]:
        count()
    elif sys.argv[1:]:
        sys.exit(__doc__)
    write()
