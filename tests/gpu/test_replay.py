"""Replaying papers and the TF32 experiment on an NVIDIA GPU."""

import json
import math
from pathlib import Path

import pytest
from replayed import by_knob, check_experiment, run

from convbench.papers import cards, differences, replay, tf32, waterfall
from convbench.store import read


def test_a_replay_on_a_gpu_flips_what_a_cpu_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "replay.jsonl"
    args = ["replay", "dico", "--model", "dico_s", "--batch", "8", "--device", "cuda", "--cap", "0.5s"]
    code, text, _ = run([*args, "--out", str(out), "--format", "json"], capsys)
    assert code == 0
    rows = json.loads(text)
    found = by_knob(rows)
    assert {knob for knob in differences.KNOBS if found[knob]["exists_here"]} == set(differences.KNOBS) - {
        "checkpointing"
    }
    assert found["matmul_tf32"]["step"] == "aside"
    assert (found["matmul_tf32"]["before"], found["matmul_tf32"]["after"]) == ("torch-default", "tf32")
    factors = [row["factor"] for row in rows if row["step"] == "knob" and row["exists_here"]]
    assert found["replayed"]["images_per_s"] * math.prod(factors) == pytest.approx(found["ours"]["images_per_s"])
    assert found["ours"]["verdict"] != "INVALID", found["ours"]["reason"]
    assert len(read(out)) == len(rows)


def test_checkpointing_on_a_gpu() -> None:
    made = replay.replay("fcdm", "fcdm_s", 256, "cuda", batch=8, cap_s=0.5)
    found = by_knob([row.to_json() for row in waterfall.rows(made)])
    assert found["checkpointing"]["exists_here"] is True
    assert found["ours"]["verdict"] != "INVALID", found["ours"]["reason"]


def test_the_experiment_on_a_gpu() -> None:
    models = ["dit_s_2", "dig_s_2", "dic_s", "dico_s", "fcdm_s"]
    rows = [cell.to_json() for cell in tf32.measure_batch(models, 8, 256, "cuda", cap_s=0.5, blocks=6)]
    check_experiment(rows, models, [8])
    assert cards.value(cards.cards()["convbench_cuda"], "sync_end") == "yes"
