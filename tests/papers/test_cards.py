"""Protocol cards: each fault of a card is named, the papers' are sound, and ours says what the program does."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from probed import check_card

from convbench import catalogue
from convbench.cli import main
from convbench.papers import cards
from convbench.run.plan import DEFAULT_BATCH
from convbench.schema import Case
from convbench.timing.clock import RULES

OWN = ("convbench_cpu", "convbench_cuda")


def run(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(args)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_every_paper_has_a_card_and_so_have_we() -> None:
    assert list(cards.cards()) == [*catalogue.papers(), *OWN]


@pytest.mark.parametrize("name", cards.cards())
def test_a_card_of_ours_has_no_fault(name: str) -> None:
    assert cards.check(cards.cards()[name]) == []


@pytest.mark.parametrize("paper", catalogue.papers())
def test_cards_agree_with_the_table_of_papers(paper: str) -> None:
    facts, card = catalogue.papers()[paper], cards.cards()[paper]
    assert cards.value(card, "batch") == facts["batch"]
    assert cards.value(card, "gpu") == ("?" if facts["gpu"].startswith("not stated") else facts["gpu"])
    assert cards.value(card, "weights") == ("?" if facts["precision"] == "not stated" else facts["precision"])
    printed = {row["table"] for row in catalogue.printed_lines() if row["paper"] == paper and row.get("images_per_s")}
    assert set(re.findall(r"[0-9]+", card["figures"]) or [card["figures"]]) == printed


@pytest.mark.parametrize(
    ("name", "known", "ranked"),
    [("dic", 5, False), ("dic_poster", 5, False), ("dico", 19, True), ("fcdm", 5, False), ("convbench_cpu", 25, True)],
)
def test_what_is_mostly_unknown_is_never_ranked(name: str, known: int, ranked: bool) -> None:
    card = cards.cards()[name]
    assert (cards.completeness(card).known, cards.completeness(card).fields) == (known, 25)
    why = cards.unranked(card)
    assert why == (None if ranked else f"{known} of 25 fields of its protocol are known, under 60%")


def test_a_guess_is_not_known() -> None:
    card = copy.deepcopy(cards.cards()["dico"])
    for field in ("batch", "gpu", "clock", "timed"):
        card["protocol"][field]["evidence"] = "guess"
    assert cards.check(card) == []
    assert cards.completeness(card).known == 15
    assert cards.unranked(card) is None  # 60 % to the point
    card["protocol"]["warmup"]["evidence"] = "guess"
    assert cards.unranked(card) == "14 of 25 fields of its protocol are known, under 60%"


def entry(field: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda card: card["protocol"][field].update(changes)


FAULTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda card: card.pop("title"), "title: missing (what the figures are)"),
    (lambda card: card.update(title=" "), "title: is a text that is not empty, not ' '"),
    (lambda card: card.update(unit="fps"), "unit: is images/s, it/s or s, not 'fps'"),
    (lambda card: card.update(status="good"), "status: is quoted or measured, not 'good'"),
    (lambda card: card.update(figure="1"), "figure: no such field, did you mean figures?"),
    (lambda card: card.pop("protocol"), "protocol: missing (a table of 25 fields)"),
    (lambda card: card["protocol"].update(sync={"value": "?"}), "protocol.sync: no such field"),
    (
        lambda card: card["protocol"].pop("driver"),
        'protocol.driver: missing (version of the GPU\'s driver); { value = "?" } if it is not known',
    ),
    (
        lambda card: card["protocol"].update(gpu="A100"),
        'protocol.gpu: is a table with a value, such as { value = "?" }',
    ),
    (entry("gpu", evidence="hearsay"), "protocol.gpu: evidence is code, paper or guess, not 'hearsay'"),
    (lambda card: card["protocol"]["gpu"].pop("evidence"), "protocol.gpu: evidence is missing: code, paper or guess"),
    (
        lambda card: card["protocol"]["gpu"].pop("where"),
        "protocol.gpu: where is missing: the place in the paper that says so",
    ),
    (entry("gpu", source="Table 1"), "protocol.gpu: source: no such field"),
    (entry("gpu", value=""), "protocol.gpu: is a text that is not empty, or '?', not ''"),
    (entry("gpu", note=""), "protocol.gpu: note is a text that is not empty, not ''"),
    (
        entry("driver", evidence="paper"),
        "protocol.driver: '?' has no evidence: leave evidence out, or say what is known",
    ),
    (entry("batch", value="64"), "protocol.batch: is a whole number of at least 1, or '?', not '64'"),
    (entry("batch", value=0), "protocol.batch: is a whole number of at least 1, or '?', not 0"),
    (entry("batch", value=True), "protocol.batch: is a whole number of at least 1, or '?', not True"),
    (entry("sync_end", value="never"), "protocol.sync_end: is yes, no or ?, not 'never'"),
    (entry("t_shape", value="[64]"), "protocol.t_shape: is [1], [batch] or ?, not '[64]'"),
]


@pytest.mark.parametrize(("spoil", "problem"), FAULTS, ids=[problem[:40] for _, problem in FAULTS])
def test_each_fault_is_named(spoil: Callable[[dict[str, Any]], Any], problem: str) -> None:
    card = copy.deepcopy(cards.cards()["dico"])
    spoil(card)
    found = cards.check(card)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_what_is_no_table_is_no_card() -> None:
    assert cards.check(3) == ["a card is a table such as [mymodel], with [mymodel.protocol] below it"]


def test_check_passes_a_good_file(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(cards.__file__).with_name("cards.toml")
    code, out, err = run(["card", "check", str(file)], capsys)
    assert (code, err) == (0, "")
    assert "dico: no problems; 19 of 25 fields of its protocol are known" in out.splitlines()


def test_check_names_problems_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[mine]\ntitle = "m"\nfigures = "Table 1"\nunit = "images/s"\nstatus = "quoted"\nprotocol = {}\n')
    code, out, _ = run(["card", "check", str(file)], capsys)
    assert code == 1
    assert len(out.splitlines()) == len(cards.FIELDS)
    assert out.startswith("mine: protocol.gpu: missing (model of the device; none for a CPU)")


@pytest.mark.parametrize(
    ("text", "words"),
    [("[a", "is not TOML"), ("", "contains no card"), (None, "cannot read")],
    ids=["torn", "empty", "no"],
)
def test_a_file_that_cannot_be_read(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    if text is not None:
        file.write_text(text)
    code, out, err = run(["card", "check", str(file)], capsys)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_list_has_every_card_with_its_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(["card", "list", "--format", "json"], capsys)
    rows = {row["card"]: row for row in json.loads(out)}
    assert list(rows) == list(cards.cards())
    assert rows["dico"]["sync_end"] == "no"
    assert rows["dico"]["protocol"]["sync_end"]["evidence"] == "code"
    assert rows["fcdm"]["unranked"] == "5 of 25 fields of its protocol are known, under 60%"
    _, out, _ = run(["card", "list"], capsys)
    assert [line.split()[0] for line in out.splitlines()][1 : 1 + len(rows)] == list(rows)
    assert "under" not in out and "may be listed, never ranked" in " ".join(out.split())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_our_card_has_the_rules_of_the_clock(device: str) -> None:
    card, rules = cards.cards()[f"convbench_{device}"], RULES[device]
    assert cards.value(card, "batch") == DEFAULT_BATCH[device]
    assert cards.value(card, "warmup") == f"{rules.warmup_s:g} s"
    assert cards.value(card, "timed") == (
        f"blocks of {rules.block_s:g} s or more, at least {rules.min_blocks} and {rules.min_s:g} s, "
        f"to ±{100 * rules.half_width:g} % or {rules.cap_s:g} s"
    )


@pytest.mark.slow
def test_our_card_is_what_a_step_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    check_card("cpu", monkeypatch)


def test_our_inputs_are_four_normal_sets() -> None:
    from convbench.checks.output import input_sets

    sets = input_sets(Case("dico_s", 256, 64))
    assert len(sets) == 4
    assert cards.value(cards.cards()["convbench_cpu"], "input") == f"N(0,1), {len(sets)} sets, interleaved"
    assert float(sets[0][0].mean()) == pytest.approx(0, abs=0.02)
    assert float(sets[0][0].std()) == pytest.approx(1, abs=0.02)
