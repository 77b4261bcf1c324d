"""Printed FIDs with their conditions: what is quoted, from where, and what may stand beside what."""

from convbench.catalogue import NOT_STATED, condition_words, find, quoted_lines, states_conditions, table_lines
from convbench.catalogue.quality import CONDITIONS

# As the readme of the reference data lists them: model, pixels, FID.
LISTED = {
    ("flowdcn_xl_2", 256, 2.0),
    ("flowdcn_xl_2", 512, 2.44),
    ("lightningdit_xl_1", 256, 1.35),
    ("lightningdit_xl_1", 256, 2.17),
    ("lightningdit_xl_1", 256, 2.11),
    ("lightningdit_xl_1", 256, 5.14),
    ("ddt_xl_2", 256, 1.26),
    ("ddt_xl_2", 512, 1.28),
    ("mdtv2_xl_2", 256, 1.58),
    # "from memory" there; looked up since.
    *(("edm2_" + size, 512, fid) for size, fid in (("xs", 3.53), ("s", 2.56), ("m", 2.25), ("l", 2.06), ("xl", 1.96))),
    *(("edm2_" + size, 512, fid) for size, fid in (("xs", 2.91), ("s", 2.23), ("m", 2.01), ("l", 1.88), ("xl", 1.85))),
    *(("edm2_xxl", 512, fid) for fid in (1.91, 1.81)),
    *((f"jit_{size}_16", 256, fid) for size, fid in (("b", 3.66), ("l", 2.36), ("h", 1.86))),
    *((f"jit_{size}_32", 512, fid) for size, fid in (("b", 4.02), ("l", 2.53), ("h", 1.94))),
}


def test_the_known_fids_are_quoted() -> None:
    assert {(line["model"], line["res"], line["fid"]) for line in quoted_lines()} >= LISTED


def test_a_line_has_every_condition_and_a_source() -> None:
    for line in (*quoted_lines(), *table_lines()):
        assert all(line[key] for key in CONDITIONS), line
        assert line["printed_in"].startswith("arXiv:") or " at " in line["printed_in"], line
        assert find(line["model"]).id == line["model"] and not find(line["model"]).ablated


def test_autoguidance_and_the_aid_of_another_network_are_conditions() -> None:
    lines = quoted_lines()
    assert sum("autoguidance" in line["guidance"] for line in lines) == 2
    aided = {find(line["model"]).family.module for line in lines if line["aid"] != "none"}
    assert aided == {"ddt", "lightningdit"}
    (line,) = [line for line in lines if line["fid"] == 1.34]
    assert condition_words(line) == "512 px, autoguidance 2.1 from XS at 134M images, 2147M images"


def test_a_line_without_a_condition_says_so_and_compares_with_nothing() -> None:
    (line,) = [line for line in quoted_lines() if line["fid"] == 2.44]
    assert line["guidance"] == NOT_STATED and not states_conditions(line)
    assert condition_words(line) == "512 px, guidance not stated, 100K"
    (line,) = [line for line in quoted_lines() if (line["model"], line["fid"]) == ("sana_600m", 5.81)]
    assert condition_words(line) == "MJHQ-30K, 1024 px, guidance not stated, training not stated"
    assert not states_conditions(line)


def test_a_number_that_papers_quote_from_each_other_is_one_line() -> None:
    found = [(line["model"], line["fid"], *(line[key] for key in CONDITIONS)) for line in table_lines()]
    assert len(found) == len(set(found)) > 100
    assert ("dit_xl_2", 19.47, "ImageNet", 256, "none", "400K", "none") in found
