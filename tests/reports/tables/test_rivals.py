"""The page of the rivals in the report: one table a set of conditions, and frontiers by hand."""

from typing import Any

import pytest
from stored import MACHINE, measured, write_lines

from convbench.catalogue import quoted_lines, states_conditions, variants
from convbench.cli import main
from convbench.reports.runs import Runs
from convbench.reports.tables import rivals
from convbench.reports.tables.rivals import ALONE, rival_rows, rivals_tables

HEADLINE = "256 px, no guidance, 400K"


def runs_of(*rows: dict[str, Any], **others: Any) -> Runs:
    return Runs([{"file": "run.jsonl", **row} for row in rows], **others)


def test_a_table_holds_one_set_of_stated_conditions() -> None:
    *tables, alone = rivals_tables(Runs())
    assert len(tables) > 8 and alone.heading == f"Rivals: {ALONE}"
    for table in tables:
        assert len({row["conditions"] for row in table.rows}) == 1
        assert all(map(states_conditions, table.rows)) and len({row["model"] for row in table.rows}) > 1
        assert table.heading == f"Rivals: {table.rows[0]['conditions']}"
        macs = [row["macs"] for row in table.rows]
        assert macs == sorted(macs)
    assert all(row["frontier"] is row["on_macs"] is row["on_speed"] is None for row in alone.rows)


def test_every_rival_is_on_the_page() -> None:
    quoted = {(line["model"], line["res"], line["fid"]) for line in quoted_lines()}
    assert {(row["model"], row["res"], row["fid"]) for row in rival_rows(Runs())} >= quoted


def test_a_number_without_conditions_gives_way_to_the_same_one_with_them() -> None:
    """The readme of DDT states 1.26 alone, the paper its guidance, epochs and the aid of DINOv2."""
    rows = [row for row in rival_rows(Runs()) if row["fid"] == 1.26]
    assert [row["conditions"] for row in rows] == ["256 px, cfg=2 in [0.3, 1], 400 epochs, trained with DINOv2 (REPA)"]


def test_frontiers_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(model: str, fid: float, **others: Any) -> dict[str, Any]:
        conditions = {"data": "ImageNet", "res": 256, "guidance": "none", "training": "400K", "aid": "none"} | others
        return {"model": model, "label": model, "fid": fid, "printed_in": "here", **conditions}

    lines = [
        line("flowdcn_s_2", 50.0),  # the fewest MACs
        line("flowdcn_b_2", 51.0),  # more MACs and a higher FID
        line("ddt_b_2", 20.0),
        line("ddt_xl_2", 5.0, aid="DINOv2"),  # another condition: beats nobody
    ]
    monkeypatch.setattr(rivals.catalogue, "quoted_lines", lambda: lines)
    monkeypatch.setattr(rivals.catalogue, "table_lines", lambda: [])
    rows = {row["model"]: row for row in rival_rows(runs_of(measured("flowdcn_b_2", 9.0), measured("ddt_b_2", 4.0)))}
    assert {model: row["on_macs"] for model, row in rows.items()} == {
        "flowdcn_s_2": True,
        "flowdcn_b_2": False,
        "ddt_b_2": True,
        "ddt_xl_2": None,
    }
    assert {model: row["on_speed"] for model, row in rows.items()} == {
        "flowdcn_s_2": None,  # not measured
        "flowdcn_b_2": True,
        "ddt_b_2": True,
        "ddt_xl_2": None,
    }
    assert rows["ddt_b_2"]["frontier"] == "MACs and images/s"


def test_measurements_are_of_one_run_whatever_the_resolution() -> None:
    other = MACHINE | {"cpu": "another"}
    runs = runs_of(
        measured("jit_b_16", 1.0, environment=other),
        measured("jit_b_16", 2.0),
        measured("jit_b_32", 3.0, res=512),
        measured("jit_l_16", 4.0, verdict="INVALID"),
    )
    found = {row["model"]: row["our_images_per_s"] for row in rival_rows(runs) if row["our_images_per_s"]}
    assert found == {"jit_b_16": 2.0, "jit_b_32": 3.0}
    (row,) = [row for row in rival_rows(runs) if row["case"] and row["model"] == "jit_b_16" and row["fid"] == 3.66]
    assert row["our_interval"] == pytest.approx(0.01) and row["our_verdict"] == "VALID"


def test_macs_come_from_the_catalogue_or_the_files() -> None:
    rows = {(row["model"], row["res"]): row["macs"] for row in rival_rows(Runs())}
    assert rows["edm2_xs", 512] == variants()["edm2_xs"].macs and rows["flowdcn_xl_2", 512] is None
    counts = [{"model": "flowdcn_xl_2", "res": 512, "params": 1, "macs": 2, "winograd_macs": 3}]
    rows = {(row["model"], row["res"]): row["macs"] for row in rival_rows(runs_of(counts=counts))}
    assert rows["flowdcn_xl_2", 512] == 2


def test_latents_are_named() -> None:
    found = {row["model"]: row["latent"] for row in rival_rows(Runs()) if row["res"] in (256, 1024)}
    assert found["flowdcn_xl_2"] == "32x32x4" and found["lightningdit_xl_1"] == "16x16x32"
    assert found["jit_b_16"] == "pixels" and found["sana_600m"] == "32x32x32"


def test_the_command(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(tmp_path / "run.jsonl", [measured("jit_b_16", 2.0), measured("jit_l_16", 1.0)])
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(file), "--paper", "rivals"])
    out = capsys.readouterr().out
    assert not stopped.value.code
    assert "Rivals: 256 px, cfg in [0.1, 1], 600 epochs" in out and "MACs and images/s" in out
    assert "Ours: run.jsonl; test, 1 threads" in out and "FID is quoted" in out
    assert "convbench flops --model" in out  # what counts the missing MACs
