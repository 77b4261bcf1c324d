"""The page of the rivals in the audit: printed sizes against our counts, and conditions instead of a ranking."""

import json
from typing import Any

import pytest

from convbench.cli import main
from convbench.papers import rivals


def row_of(model: str, source: str, res: int = 256) -> dict[str, Any]:
    (row,) = [row for row in rivals.rivals([model]) if row["printed_in"].endswith(source) and row["res"] == res]
    return row


def test_sizes_that_agree_to_the_printed_digits() -> None:
    row = row_of("jit_b_16", "Tables 6 and 7")
    assert (row["params_m_printed"], row["gmacs_printed"], row["macs"]) == (131, 25, 25282532352)
    assert (row["finding"], row["findings"], row["words"]) == ("as counted", [], "")
    row = row_of("jit_b_16", "Table 6")
    assert (row["params_m_printed"], row["finding"]) == (None, "")  # nothing to compare


def test_sizes_that_differ() -> None:
    row = row_of("ddt_xl_2", "Table 7")
    assert row["findings"] == ["macs_differ"] and row["finding"] == "MACs differ"
    assert row["words"] == "Printed 119 G MACs, ours 131.61: -9.6 %."
    row = row_of("sana_600m", "Tables 6 and 7", 1024)
    assert row["words"] == "Printed 590 M parameters, ours 591.75: -0.3 %."


def test_a_printed_throughput_whose_conditions_are_known_implies_a_rate() -> None:
    """FlowDCN in DiCo's Table 12: 1194 images/s on an A100."""
    row = row_of("flowdcn_s_2", "Table 12")
    assert row["implied_flops_per_s"] == 2 * 4813887744 * 1194
    assert row["share_fp32"] == pytest.approx(2 * 4813887744 * 1194 / 19.5e12)
    assert row["findings"] == ["macs_differ", "fp32"] and row["finding"] == "MACs differ; fits FP32"
    assert row_of("jit_b_16", "Table 6")["implied_flops_per_s"] is None


@pytest.mark.slow  # counts three models at 512 pixels
def test_every_quoted_line_is_there_and_none_is_ranked() -> None:
    rows = rivals.rivals()
    assert len({row["model"].split("_")[0] for row in rows}) == 7
    assert not any("rank" in key for row in rows for key in row)
    order = [(row["data"], row["res"], row["conditions"], row["macs"]) for row in rows]
    assert order == sorted(order)
    differ = {(row["model"], row["res"]) for row in rows if {"macs_differ", "params_differ"} & set(row["findings"])}
    assert differ == {("ddt_xl_2", 256), ("ddt_xl_2", 512), ("flowdcn_s_2", 256), ("sana_600m", 1024)}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "--paper", "rivals", *words])
    out, err = capsys.readouterr()
    return int(str(stopped.value.code or 0)), out, err


def test_the_command_shows_conditions_counts_and_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--model", "flowdcn_s_2,edm2_xs")
    assert code == 0
    for words in ("512 px, no guidance, 2147M images", "3.53", "MACs differ", "Printed 4.4 G MACs, ours 4.81"):
        assert words in out
    assert "not a ranking" in out and "15.5 % fewer MACs than SiT-XL/2" in out
    code, out, _ = run(capsys, "--model", "jit_b_16", "--format", "json")
    assert [row["printed_fid"] for row in json.loads(out)] == [4.37, 3.66]
    code, out, _ = run(capsys, "--model", "jit_b_16", "--format", "csv")
    assert out.splitlines()[0].startswith("model,label,data,res") and len(out.splitlines()) == 3


def test_what_it_cannot_show_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--model", "ddt_xl")
    assert (code, err) == (2, "convbench: no FID of 'ddt_xl' is quoted; choose from ddt_xl_2, ddt_l_2, mdtv2_xl_2\n")
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "--paper", "dic,rivals"])
    assert stopped.value.code == 2
    assert "--paper rivals has columns of its own: audit it alone" in capsys.readouterr().err
