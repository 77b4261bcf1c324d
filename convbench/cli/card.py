"""``convbench card``: how published throughputs were made."""

from pathlib import Path
from typing import Any

import click

from ..files import read_toml
from ..papers import cards
from . import options

KEYS = ("card", "status", "gpu", "batch", "t_shape", "sync_end", "completeness", "ranked")
NOTE = (
    "?: not stated, and not visible in the released code. known: fields with a source. A figure of which less than "
    f"{cards.LEAST_KNOWN:.0%} is known may be listed, never ranked. --format json has every field with its evidence."
)


@click.group("card", short_help="protocol cards: how published throughputs were measured")
def command() -> None:
    """Protocol cards: the known conditions of a published throughput, field by field, with their evidence."""


@command.command(
    "list",
    short_help="the papers' cards and convbench's own",
    epilog="\b\nExamples:\n  convbench card list\n  convbench card list --format json",
)
@options.form()
def list_cards(form: str) -> None:
    """List the protocol cards of the papers and convbench's own."""
    options.show([_row(name, card) for name, card in cards.cards().items()], KEYS, form, [NOTE])


@command.command(
    "check",
    short_help="check the cards of a file",
    epilog="\b\nExamples:\n  convbench card check mymodel.toml\n  convbench card check cards.toml",
)
@click.argument("file", type=click.Path(path_type=Path))
def check_cards(file: Path) -> int:
    """Check the cards in a TOML file and print one line per problem; exits with 1 if there are any."""
    read_toml(file)  # refuses what is not a regular file, is huge or nested too deep, before it is read whole
    found = cards.read(file)
    problems = [f"{name}: {problem}" for name, card in found.items() for problem in cards.check(card)]
    for problem in problems:
        options.say(problem)
    if problems:
        return 1
    for name, card in found.items():
        why = cards.unranked(card)
        options.say(f"{name}: no problems; " + (why or f"{cards.completeness(card)} fields of its protocol are known"))
    return 0


def _row(name: str, card: dict[str, Any]) -> dict[str, Any]:
    known, why = cards.completeness(card), cards.unranked(card)
    return {
        "card": name,
        **{key: card[key] for key in cards.HEAD},
        **{field: cards.value(card, field) for field in cards.FIELDS},
        "completeness": str(known),
        "known": known.known,
        "fields": known.fields,
        "unranked": why,
        "protocol": card["protocol"],
    }
