"""Rows of a replay and of the TF32 experiment, as the tests on a processor and on a GPU read them."""

from typing import Any

import pytest

from convbench.cli import main
from convbench.papers import tf32


def by_knob(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["knob"]: row for row in rows}


def run(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(args)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def check_experiment(rows: list[dict[str, Any]], models: list[str], batches: list[int]) -> None:
    assert [(row["batch"], row["model"]) for row in rows] == [
        (batch, model) for batch in batches for model in models for _ in tf32.SWITCHES
    ]
    for row in rows:
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["ratio"] == 1 or row["model"] != models[0]
        assert row["flags"]["cudnn.allow_tf32"] == str(row["conv_tf32"] == "on")
        assert row["flags"]["cuda.matmul.allow_tf32"] == str(row["matmul_tf32"] == "on")
        assert row["papers_default"] == ((row["conv_tf32"], row["matmul_tf32"]) == ("on", "off"))
    assert len({row["case"] for row in rows}) == len(rows)
