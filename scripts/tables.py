#!/usr/bin/env python3
"""Write the tables and pictures of README.md and docs/ anew from results/. `make tables` runs it.

    python scripts/tables.py           tables and pictures
    python scripts/tables.py --count   before that, what is counted and audited without measuring: a minute

A table stands between two comments, and the first says which command makes it:

    <!-- made by: convbench report results --columns model,macs --format markdown -->
    <!-- end -->

Pictures stand between `<!-- pictures of results -->` and `<!-- end -->`; their files are in docs/pictures.
"""

import io
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from convbench.cli import main  # noqa: E402
from convbench.files import write_whole  # noqa: E402
from convbench.reports.plots.drawing import svg  # noqa: E402
from convbench.reports.plots.pictures import pictures  # noqa: E402
from convbench.reports.runs import read_runs  # noqa: E402

RESULTS = "results"
PICTURES = "docs/pictures"
TABLE = re.compile(r"(<!-- made by: (convbench [^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
SHOWN = re.compile(rf"(<!-- pictures of {RESULTS} -->\n).*?(<!-- end -->)", re.DOTALL)
XL = "dit_xl_2,dig_xl_2,dic_xl,dico_xl,fcdm_xl"
COUNTED = {  # file of results -> the command that makes it
    "counted-256px.json": f"convbench flops --model {XL},dic_s,dic_b,dic_h --res 256 --format json",
    "counted-512px.json": f"convbench flops --model {XL},dic_h,dim_h,dis_h_2 --res 512 --format json",
    "counted-256px-by-kind.json": f"convbench flops --model {XL} --res 256 --by kind --format json",
    "audit.json": "convbench audit --format json",
}


def pages() -> list[Path]:
    """The documents that may hold tables and pictures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def output(command: str) -> str:
    """What a convbench command prints, run at the root of the checkout. Raises RuntimeError where it fails."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(shlex.split(command)[1:])
    except SystemExit as stopped:
        if stopped.code:
            raise RuntimeError(f"{command}: {err.getvalue()}") from None
    return out.getvalue()


def drawn() -> dict[str, tuple[str, str]]:
    """Every picture of the results: what it says and its SVG, by name."""
    return {each.name: (each.says, svg(each.figure())) for each in pictures(read_runs([Path(RESULTS)]))}


def renewed(text: str, page: Path, shown: dict[str, str]) -> str:
    """A page with its tables and its list of pictures (name -> what it says) as they should be."""
    text = TABLE.sub(lambda found: f"{found[1]}\n{output(found[2])}\n{found[3]}", text)
    folder = (
        Path(*[".."] * len(page.parent.relative_to(ROOT / "docs").parts), "pictures") if page.parent != ROOT else None
    )
    images = [f"![{says}: {name}]({folder or PICTURES}/{name}.svg)\n" for name, says in shown.items()]
    listed = "\n".join(images)
    return SHOWN.sub(lambda found: f"{found[1]}\n{listed}\n{found[2]}", text)


def write() -> None:
    """Write every page and picture that is out of date, and remove pictures that nothing makes any more."""
    made = drawn()
    folder = ROOT / PICTURES
    folder.mkdir(exist_ok=True)
    for name, (_, text) in made.items():
        write_whole(folder / f"{name}.svg", text.encode())
    for file in folder.glob("*.svg"):
        if file.stem not in made:
            file.unlink()
    for page in pages():
        before = page.read_text("utf-8")
        after = renewed(before, page, {name: says for name, (says, _) in made.items()})
        if after != before:
            write_whole(page, after.encode())
            print(f"wrote {page.relative_to(ROOT)}")
    print(f"{len(made)} pictures in {PICTURES}")


def count() -> None:
    """Write what is counted and audited, beside the results."""
    for name, command in COUNTED.items():
        write_whole(ROOT / RESULTS / name, output(command).encode())
        print(f"wrote {RESULTS}/{name}")


if __name__ == "__main__":
    import os

    os.chdir(ROOT)
    if sys.argv[1:] == ["--count"]:
        count()
    elif sys.argv[1:]:
        sys.exit(__doc__)
    write()
