"""The other limits as numbers: of timing, of proofs, of files and of clients; SECURITY.md names the last two.

Whoever loosens one must loosen it here too, with its reason. Those of errors and checks: test_tolerances.py.
"""

from dataclasses import astuple
from importlib import import_module
from typing import Any

import pytest

LIMITS: dict[str, dict[str, Any]] = {
    "timing.clock": {"LATEST_STEPS": 5, "LATENCY_STEPS": 100, "LATENCY_S": 2.0},
    "timing.change_points": {"WINDOW": 30, "P_VALUE": 0.001, "FEWEST": 5},
    "timing.telemetry.summary": {"LEAST_ENERGY_S": 10.0, "PEAK_WINDOW_S": 0.5},
    "measure.world": {"LEAST_ROUNDS": 6},
    "run.pareto": {"LEAST_BATCHES": 6},
    "export.verify": {"BATCHES": (2, 3, 8), "TRAJECTORY_STEPS": 10, "MOST_NUMBERS_A_BYTE": 4, "LEAST_NUMBERS": 2**24},
    "export.trajectories": {"CLIP": 4.0, "CLIP_PIXELS": 1.0, "CLIP_RANDOM": 1.0},
    "tolerances": {"FID_GAP": 0.013, "QUALITY_MARGINS": {"recognised": 0.03, "frechet": 0.10}},
    "errors": {"MOST": 3000},
    "measure.opening": {"FLOOR_ATTEMPTS": 3},
    "store.lines": {"BLOCK": 2**20},
    "sampling.quality": {"Z": 1.96},
    "sampling.frechet": {"RESAMPLINGS": 400, "EXACT_SIDE": 256, "DRAWN": 4096},
    "sampling.reference": {"MOST_FEATURES": 8192, "MOST_HEADER": 4096, "LARGEST": 1e15, "ROUNDING": 1e-5},
    "sampling.verdict": {"POWER_Z": 0.84},
    "kernels.accuracy": {"TIMES_EAGER": {"fp32": 1.5, "fp16": 1.0, "bf16": 1.0}},
    "files": {
        **{"MOST_JSON": 2**26, "MOST_LINE": 2**24, "MOST_PAGE": 2**28, "MOST_TOML": 2**18},
        "MOST_DOTS": 100,
    },
    "sampling.shards": {"MOST_RECIPE": 2**20},
    "export.manifest": {
        **{"MOST_BYTES": 2**20, "MOST_FILES": 32, "MOST_DIMENSIONS": 8, "MOST_RES": 8192},
        **{"MOST_EXTENT": 2**16, "MOST_BATCH": 2**16, "MOST_ELEMENTS": 2**32},
        "LENGTHS": {"model": 400, "command": 2**16, "created_utc": 64},
    },
    "weights.container": {
        **{"MAX_BYTES": 2**37, "MAX_HEADER_BYTES": 10**7, "MAX_TENSORS": 50_000, "MAX_PICKLE_BYTES": 2**24},
        **{"MAX_DIRECTORY_BYTES": 2**24, "MAX_SMALL_BYTES": 2**16},
        **{"MAX_SIDE": 2**40, "MAX_AXES": 16, "MAX_KEY": 1024},
    },
    "weights.pickles": {"MAX_INSTRUCTIONS": 2_000_000, "MAX_KEY": 1024, "MAX_AXES": 16, "MAX_ELEMENTS": 2**28},
    "weights.locate": {"MAX_RECORD_BYTES": 2**20},
    "serving.limits": {"RATE": 2**16, "FEWEST": 16, "MOST": 1000},
    "serving.guard": {"HEADER_BYTES": 2**14, "READ_BYTES": 2**16, "CHUNKS": 1000, "CHUNK_BYTES": 64},
    "serving.bodies": {"SMALL": 2**18},
    "serving.served": {"MOST_JSON_BYTES": 2**22, "MOST_BODY_BYTES": 2**28},
    "serving.json_tensors": {"OBJECTS": 64, "QUOTES": 1024, "COMMAS": 1024, "WIDE_BYTES": 2**16},
    "serving.connection": {"ANSWER_BYTES": 2**29, "JSON_BYTES": 2**20, "BACKLOG_S": 60.0},
    "serving.description": {"MOST_INPUTS": 8, "MOST_AXES": 8, "MOST_NUMBERS": 2**26},
}


@pytest.mark.parametrize("module", LIMITS)
def test_limits_are_those_that_are_written_here(module: str) -> None:
    if module.startswith("serving."):
        pytest.importorskip("uvicorn")
    found = vars(import_module(f"convbench.{module}"))
    assert {name: found[name] for name in LIMITS[module]} == LIMITS[module]


def test_the_rules_of_timing() -> None:
    from convbench.timing.clock import RULES

    assert {device: astuple(rules) for device, rules in RULES.items()} == {
        "cpu": (0.1, 0.5, 3, 20, 15, 0.02, 0.0, 6),
        "cuda": (0.05, 2, 3, 30, 20, 0.005, 0.0, 6),
    }


def test_what_a_client_may_take() -> None:
    from convbench.serving.limits import ClientLimits

    assert astuple(ClientLimits()) == (10.0, 30.0, 1000, 2**28)


def test_what_rounding_explains() -> None:
    import torch

    from convbench.kernels.accuracy import ROUNDINGS

    assert dict(ROUNDINGS) == {torch.float32: 8.0, torch.float16: 1.2, torch.bfloat16: 1.2}
