"""Protocol cards: how a published throughput was made, by one schema for every paper and for convbench itself.

A card is a table of ``cards.toml``, or of anybody's own file: what the figures are, and under ``protocol`` a table for
each of FIELDS with its value, the evidence for it and where that stands. Imports no torch.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UsageError

UNKNOWN = "?"
EVIDENCE = ("code", "paper", "guess")
LEAST_KNOWN = 0.6  # of the fields, for a figure to be ranked
HEAD = {
    "title": "what the figures are",
    "figures": "where they stand",
    "unit": "of the figures",
    "status": "quoted or measured",
}
UNITS = ("images/s", "it/s", "s")
STATUSES = ("quoted", "measured")
ENTRY = ("value", "evidence", "where", "note")


@dataclass(frozen=True)
class Field:
    """One line of a protocol. ``words``: the values it may take besides "?"; none where any text will do."""

    meaning: str
    words: tuple[str, ...] = ()
    count: bool = False  # a whole number of at least 1


FIELDS = {
    "gpu": Field("model of the device; none for a CPU"),
    "driver": Field("version of the GPU's driver"),
    "torch": Field("version of PyTorch"),
    "cudnn": Field("version of cuDNN"),
    "batch": Field("images in one forward pass", count=True),
    "latent": Field("channels x height x width of one input"),
    "input": Field("what values, and whether the same ones at every step"),
    "t_shape": Field("shape of the timesteps", ("[1]", "[batch]")),
    "y_shape": Field("shape of the labels", ("[1]", "[batch]")),
    "weights": Field("type of weights and activations", ("fp32", "bf16", "fp16", "fp8", "int8")),
    "conv_tf32": Field("whether convolutions may use TF32", ("on", "off")),
    "matmul_tf32": Field("whether matrix products may use TF32", ("on", "off")),
    "autocast": Field("automatic mixed precision", ("off", "bf16", "fp16")),
    "attention": Field("what computes attention, in the models that have it"),
    "layout": Field("memory format", ("nchw", "channels_last")),
    "compile": Field("compiler or runtime; none for eager PyTorch"),
    "cudnn_benchmark": Field("whether cuDNN tries its algorithms", ("on", "off", "none")),
    "autograd": Field("how gradients were switched off", ("no_grad", "inference_mode", "on")),
    "cfg": Field("classifier-free guidance in the timed step", ("on", "off")),
    "checkpointing": Field("activation checkpointing in the timed step", ("on", "off")),
    "warmup": Field("before the clock is started, such as 20 steps or 2 s"),
    "timed": Field("what the clock saw, such as 20 steps"),
    "clock": Field("such as time.time or CUDA events"),
    "sync_end": Field("whether the device was waited for before the clock was read", ("yes", "no")),
    "statistic": Field("such as total, mean or median of blocks"),
}


@dataclass(frozen=True)
class Completeness:
    """Share of a protocol that is known. A guess does not count."""

    known: int
    fields: int = len(FIELDS)

    @property
    def share(self) -> float:
        return self.known / self.fields

    def __str__(self) -> str:
        return f"{self.known} of {self.fields}"


@cache
def cards() -> dict[str, dict[str, Any]]:
    """convbench's own cards, those of the papers under the keys of papers.toml."""
    return read(Path(__file__).with_name("cards.toml"))


def read(path: Path) -> dict[str, Any]:
    """The cards of a TOML file by name, unchecked. Raises UsageError for a file that is not valid TOML."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    if not found:
        raise UsageError(
            f"{path} contains no card: a card is a table such as [mymodel]; cards.toml of convbench has examples"
        )
    return found


def value(card: Mapping[str, Any], field: str) -> str | int:
    """Value of a field of a card; "?" if it is not known."""
    found: str | int = card["protocol"][field]["value"]
    return found


def completeness(card: Mapping[str, Any]) -> Completeness:
    """Number of fields that are known from code or paper."""
    entries = card["protocol"].values()
    return Completeness(sum(entry["value"] != UNKNOWN and entry["evidence"] != "guess" for entry in entries))


def unranked(card: Mapping[str, Any]) -> str | None:
    """Reason why the card's figures may be listed but not ranked, or None."""
    known = completeness(card)
    if known.share >= LEAST_KNOWN:
        return None
    return f"{known} fields of its protocol are known, under {LEAST_KNOWN:.0%}"


def check(card: Any) -> list[str]:
    """Every problem of a card, each in words; an empty list for a good one."""
    return list(_problems(card))


def _problems(card: Any) -> Iterator[str]:
    if not isinstance(card, dict):
        yield "a card is a table such as [mymodel], with [mymodel.protocol] below it"
        return
    yield from _unknown_keys(card, (*HEAD, "note", "protocol"))
    for key, meaning in HEAD.items():
        if key not in card:
            yield f"{key}: missing ({meaning})"
        elif not _is_text(card[key]):
            yield f"{key}: is a text that is not empty, not {card[key]!r}"
    for key, words in (("unit", UNITS), ("status", STATUSES)):
        if _is_text(card.get(key)) and card[key] not in words:
            yield f"{key}: is {_either(words)}, not '{card[key]}'"
    protocol = card.get("protocol")
    if not isinstance(protocol, dict):
        yield f"protocol: missing (a table of {len(FIELDS)} fields)"
        return
    yield from (f"protocol.{problem}" for problem in _unknown_keys(protocol, tuple(FIELDS)))
    for name, field in FIELDS.items():
        if name not in protocol:
            yield f'protocol.{name}: missing ({field.meaning}); {{ value = "?" }} if it is not known'
        else:
            yield from (f"protocol.{name}: {problem}" for problem in _field_problems(protocol[name], field))


def _field_problems(entry: Any, field: Field) -> Iterator[str]:
    if not isinstance(entry, dict) or "value" not in entry:
        yield 'is a table with a value, such as { value = "?" }'
        return
    yield from _unknown_keys(entry, ENTRY)
    found, evidence = entry["value"], entry.get("evidence")
    if found == UNKNOWN:
        if evidence is not None:
            yield "'?' has no evidence: leave evidence out, or say what is known"
    elif evidence is None:
        yield f"evidence is missing: {_either(EVIDENCE)}"
    elif evidence not in EVIDENCE:
        yield f"evidence is {_either(EVIDENCE)}, not {evidence!r}"
    elif evidence != "guess" and not _is_text(entry.get("where")):
        yield f"where is missing: the place in the {evidence} that says so"
    if found != UNKNOWN:
        yield from _value_problems(found, field)
    for key in ("where", "note"):
        if key in entry and not _is_text(entry[key]):
            yield f"{key} is a text that is not empty, not {entry[key]!r}"


def _value_problems(found: Any, field: Field) -> Iterator[str]:
    if field.count:
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            yield f"is a whole number of at least 1, or '?', not {found!r}"
    elif not _is_text(found):
        yield f"is a text that is not empty, or '?', not {found!r}"
    elif field.words and found not in field.words:
        yield f"is {_either((*field.words, UNKNOWN))}, not '{found}'"


def _unknown_keys(table: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[str]:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            yield f"{key}: no such field" + (f", did you mean {near[0]}?" if near else "")


def _is_text(found: Any) -> bool:
    return isinstance(found, str) and bool(found.strip())


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
