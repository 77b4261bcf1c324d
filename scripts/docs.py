#!/usr/bin/env python3
"""Write the generated pages of the documentation: models from their .toml, commands and columns from the program.

Without arguments it writes them to docs/; --check lists outdated pages and exits 1. `make site` runs it.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from convbench import catalogue  # noqa: E402
from convbench.cli import COMMANDS, contents  # noqa: E402
from convbench.cli import throughput as throughput_command  # noqa: E402
from convbench.reports.columns import COLUMNS  # noqa: E402
from convbench.sampling.decoders import decoders  # noqa: E402
from convbench.timing import derived  # noqa: E402

HEAD = "<!-- Written by scripts/docs.py: edit its sources, not this page. -->\n\n"
Row = dict[str, Any]


def pages() -> dict[str, str]:
    """Every generated page, by its path in docs/."""
    found = {"reference/commands.md": commands(), "reference/columns.md": columns(), "models/index.md": models()}
    for module, family in catalogue.families().items():
        found[f"models/{module}.md"] = family_page(family)
    return {name: HEAD + text.rstrip("\n") + "\n" for name, text in found.items()}


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]], right: tuple[int, ...] = ()) -> str:
    """A Markdown table; ``right``: positions of the columns of numbers."""
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    lines = [head, rule, *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    text = "–" if value is None or value == "" else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _giga(value: float | None) -> str | None:
    return None if value is None else f"{value / 1e9:.2f}"


def _mega(value: float | None) -> str | None:
    return None if value is None else f"{value / 1e6:.1f}"


# Commands


def commands() -> str:
    """The command reference."""
    parts = [
        "# Commands\n",
        "Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 a failed check, 2 a usage error, "
        "3 nothing could be measured, 4 measured but not valid, 130 interrupted.\n",
        "\n".join(f"* [`convbench {name}`](#convbench-{name}): {words}" for name, words in COMMANDS.items()) + "\n",
    ]
    with click.Context(contents, info_name="convbench") as context:
        for name in contents.list_commands(context):
            command = contents.get_command(context, name)
            assert command is not None
            parts += _command(command, f"convbench {name}", 2)
    return "\n".join(parts)


def _command(command: click.Command, name: str, level: int) -> Iterator[str]:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    words = [_argument(argument) for argument in arguments]
    yield f"{'#' * level} {name}\n"
    if isinstance(command, click.Group):  # its options, if any, are those of its commands
        usage = [command.subcommand_metavar or "COMMAND [ARGS]..."]
    else:
        usage = ["[OPTIONS]", *words]
    yield f"```text\n{' '.join([name, *usage])}\n```\n"
    yield _help(command.help or "")
    rows = [(_names(p), p.help, _default(p)) for p in command.params if isinstance(p, click.Option)]
    if rows:
        yield table(("option", "meaning", "default"), rows)
    if examples := [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  convbench")]:
        yield "```sh\n" + "\n".join(examples) + "\n```\n"
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _command(each, f"{name} {each.name}", level + 1)


def _argument(argument: click.Argument) -> str:
    word = argument.metavar or str(argument.name).upper()
    if argument.nargs == -1 and not argument.metavar:
        word += "…"
    return word if argument.required else f"[{word}]"


def _names(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    if option.metavar is None and isinstance(option.type, click.Choice):
        return f"{names} {', '.join(map(str, option.type.choices))}"
    return f"{names} {option.metavar or option.type.name.upper()}"


def _default(option: click.Option) -> str | None:
    if not option.show_default or option.is_flag:
        return "required" if option.required else None
    return f"`{option.default}`"


def _help(text: str) -> str:
    """The paragraphs of a command's help; unwrapped ones (after \\b) as text blocks."""
    done = []
    for part in text.strip().split("\n\n"):
        lines = [line.strip() for line in part.splitlines()]
        if lines and lines[0] == "\b":
            done.append("```text\n" + "\n".join(part.splitlines()[1:]) + "\n```")
        else:
            done.append(" ".join(lines).replace("<", "&lt;"))
    return "\n\n".join(done) + "\n"


# Columns


def columns() -> str:
    """Every column of the tables: its header, its key and its formula."""
    main = [key for key in (*throughput_command.PASS_KEYS, *throughput_command.SAMPLING_KEYS) if key in COLUMNS]
    more = [key for key in derived.FORMULAS if key in COLUMNS and key not in main]
    rest = sorted(key for key in COLUMNS if key not in main and key not in more)
    parts = [
        "# Columns\n",
        "The key is the name in `--format json` and `--columns`; JSON and CSV hold base units (seconds, bytes, "
        "counts), tables the units of their headers. –: unknown, never a guess. [How a number is "
        "measured](../protocol.md).\n",
        "## Throughput and report\n",
        table(("column", "key", "formula"), [_column(key) for key in (*main, *more)]),
        "## Other commands\n",
        table(("column", "key"), [(COLUMNS[key].header, f"`{key}`") for key in rest]),
    ]
    return "\n".join(parts)


def _column(key: str) -> tuple[str, str, str]:
    return COLUMNS[key].header, f"`{key}`", derived.FORMULAS.get(key, "as requested or recorded")


# Models


def models() -> str:
    """The list of families and models."""
    rows = [
        (f"[{family.name}]({module}.md)", _arxiv(family.facts["arxiv"]), family.facts["source"]["repository"])
        for module, family in catalogue.families().items()
    ]
    printed = [
        (f"`{id}`", system["name"], system["source"], system["reason"])
        for id, system in catalogue.printed_only().items()
    ]
    decoding = [
        (
            each.name,
            f"{each.channels} channels, side / {each.factor}",
            _mega(each.params),
            _giga(each.macs),
            each.source,
        )
        for each in decoders().values()
    ]
    parts = [
        "# Models\n",
        "The code of every model is our own; convbench contains no official code. If a model is missing, "
        "[add it](../howto/add-a-model.md) or [measure it as it is](../howto/own-model.md).\n",
        table(("family", "paper", "official code"), rows),
        "## Decoders\n",
        "A decoder turns latents into pixels (`--sampling decode=yes`); its weights are random unless `vae=` names "
        "some. Images/s of networks with different latents are comparable only with their decoders included. MACs are "
        "those of one image of 256 pixels.\n",
        table(("decoder", "latents", "params M", "MACs G", "config"), decoding, right=(2, 3)),
        "## Printed only\n",
        "Systems that appear only in published tables; no implementation exists, so they are never measured or "
        "ranked.\n",
        table(("id", "name", "paper", "reason"), printed),
    ]
    return "\n".join(parts)


def _arxiv(number: str) -> str:
    return f"[{number}](https://arxiv.org/abs/{number})"


def family_page(family: catalogue.Family) -> str:
    """The page of a family: sources, sizes, options and printed numbers."""
    facts, source = family.facts, family.facts["source"]
    own = [variant for variant in catalogue.variants().values() if variant.family.module == family.module]
    sizes = [
        (
            f"`{v.id}`",
            v.name,
            v.res,
            _mega(v.params),
            _giga(v.macs),
            v.runs if v.remark == "" else f"{v.runs}: {v.remark}",
        )
        for v in own
    ]
    about: list[tuple[Any, ...]] = [
        ("paper", f"[{facts['title']}](https://arxiv.org/abs/{facts['arxiv']}), {facts['year']}"),
        ("official code", f"{source['repository']}, commit {source['commit'][:7]}, {source['file']}"),
        ("licence", source["licence"]),
        *([("licence of the weights", source["weights_licence"])] if "weights_licence" in source else []),
        (
            "other resolutions",
            facts.get("resolutions")
            or ("none: each resolution has its own weights" if facts["fixed_res"] else "yes: fully convolutional"),
        ),
        ("official weights", facts.get("official_note")),
    ]
    parts = [
        f"# {family.name}\n",
        table(("", ""), about),
        "## Sizes\n",
        "Parameters and MACs as counted, for images of px pixels a side.\n",
        table(("id", "name", "px", "params M", "MACs G", "runs here"), sizes, right=(2, 3, 4)),
        f"```sh\nconvbench flops --model {own[0].id} --res {own[0].res} --by kind\n```\n",
    ]
    parts += _ablations(family, own[0].id)
    if remark := facts.get("counting", {}).get("remark"):
        parts += ["## About the count\n", f"{remark['words']}\n"]
    if family.published:
        parts += ["## As printed\n", *_published(family)]
    if family.quoted:
        parts += ["## Quality as printed\n", *_quoted(family)]
    return "\n".join(parts)


def _ablations(family: catalogue.Family, id: str) -> list[str]:
    options = family.facts.get("ablations", {}).get("options", {})
    if not options:
        return []
    rows = [(f"`{key}`", _example(option), option["what"]) for key, option in options.items()]
    first = f"{id}@{rows[0][0].strip('`')}={rows[0][1].split(', ')[0]}"
    return [
        "## Options\n",
        f"Append them to an id, as in `{first}`; see [change a part of a model](../howto/change-a-part.md).\n",
        table(("key", "example", "meaning"), rows),
    ]


def _example(option: Row) -> str:
    like = option["like"]
    if isinstance(like, bool):
        return "yes, no"
    if choices := option.get("choices"):
        return ", ".join(map(str, choices))
    return "-".join(map(str, like)) if isinstance(like, list) else str(like)


def _published(family: catalogue.Family) -> list[str]:
    """Printed sizes and speeds; `convbench report --paper` shows the quality metrics."""
    speeds = ("params_m", "gmacs", "images_per_s")
    rows = [
        (f"`{row['model']}`", row["res"], f"{row['paper']} {row['table']}", *(row.get(key) for key in speeds))
        for row in family.published
        if any(key in row for key in speeds)
    ]
    return [
        'Sizes and speeds as the papers print them; they print MACs under "FLOPs". Most papers do not state how they '
        "measured speeds: see `convbench card list` and [what the numbers imply](../audit.md).\n",
        table(
            ("id", "px", "paper, table", "params M", "MACs G", "images/s"),
            list(dict.fromkeys(rows)),
            right=(1, 3, 4, 5),
        ),
    ]


def _quoted(family: catalogue.Family) -> list[str]:
    """Printed quality and sizes from elsewhere, with the conditions and the source of each line."""
    keys = ("model", "res", "training", "guidance", "aid", "sampler", "params_m", "gmacs", "images_per_s", "fid")
    head = ("id", "px", "training", "guidance", "trained with", "sampler", "params M", "MACs G", "images/s", "FID")
    own = [line for line in catalogue.quoted_lines() if line["model"] in family.facts["variants"]]
    unstated = (None, catalogue.NOT_STATED, "none")
    rows = []
    for line in own:
        known = {key: None if key != "guidance" and line[key] in unstated else line[key] for key in keys}
        rows.append((f"`{known.pop('model')}`", *known.values(), line["printed_in"]))
    kept = [i for i in range(len(head) + 1) if any(row[i] is not None for row in rows)]
    right = tuple(place for place, i in enumerate(kept) if i in (1, 6, 7, 8, 9))
    shown = [tuple(row[i] for i in kept) for row in rows]
    return [
        "`convbench audit --paper rivals` compares these sizes with our counts; `convbench report RUN… --paper rivals` "
        "sets these FIDs over MACs and measured images/s. FIDs compare only where all conditions are equal.\n",
        table(tuple((*head, "printed in")[i] for i in kept), shown, right),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args().check
    old = []
    for name, text in pages().items():
        path = ROOT / "docs" / name
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        old.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    for name in old:
        print(f"docs/{name} {'is out of date: run scripts/docs.py' if check else 'written'}")
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
