"""Command lines that documentation shows, checked as a run would check them, without running them."""

import re
import shlex
from collections.abc import Iterator

import click

from convbench.cli import contents

FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\s*(?:\$ )?(?:python -m )?(convbench .*)")
INLINE = re.compile(r"`(convbench [^`]+)`")


def parses(line: str) -> None:
    """Resolve and check every argument as a run would, and run nothing. Raises what click says of a bad line."""
    program, *args = words(line)
    assert program == "convbench"
    command: click.Command = contents
    while isinstance(command, click.Group):
        args = getattr(command, "with_default", list)(args)
        if not args:
            raise click.MissingParameter(param_type="command")
        with click.Context(command) as context:
            _, found, args = command.resolve_command(context, args)
        assert found is not None
        command = found
    command.make_context(command.name, args)


def words(line: str) -> list[str]:
    """The words of the command itself: up to a comment, a pipe, a redirection or the next command."""
    lexer = shlex.shlex(line.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        found.append(word)
    return found


def shown(markdown: str) -> Iterator[tuple[str, bool]]:
    """Every command line of a page, and whether it is a whole one: in a sentence, arguments may be left out."""
    fence = ""
    for line in markdown.replace("\\\n", " ").splitlines():
        if line.strip().startswith("```"):
            fence = "" if fence else line.strip()
            continue
        code = fence not in ("```text", "```python") if fence else line.startswith("    ")
        if code and (found := COMMAND.match(line)):
            yield found[1], True
    for line in INLINE.findall(FENCE.sub("", markdown)):
        yield " ".join(line.split()), False
