"""The sentences around the table of ``convbench throughput``, word for word."""

from typing import Any

import pytest

from convbench.cli.throughput_notes import above, below
from convbench.schema import Case, Measurement


def row(model: str = "dico_s", half: float = 0.01, verdict: str = "VALID", **known: Any) -> Measurement:
    """Timed for 10 s: 20 blocks of 5 steps of 0.1 s."""
    low_high = {"images_per_s": 10.0, "images_per_s_low": 10 - 10 * half, "images_per_s_high": 10 + 10 * half}
    timed = {"block_s": [0.1] * 20, "steps_per_block": 5, "smallest_difference": 0.061}
    return Measurement.of(Case(model, 256, 1, threads=1), verdict=verdict, **(low_high | timed | known))


NOISE = "Noise of this machine: differences below 6.1% cannot be detected (A/A comparison of this run)."


def test_the_noise_is_stated_once() -> None:
    assert list(above([row(), row("fcdm_s")], 30.0)) == [NOISE]
    assert list(above([row(smallest_difference=None)], 30.0)) == []


@pytest.mark.parametrize(
    ("half", "words"),
    [
        (0.04, "For intervals of ±2.0%: --cap 40s, about 2 min on this machine."),  # 10 s * 4; 60 s + 30 s
        (0.021, "For intervals of ±2.0%: --cap 20s, about 2 min on this machine."),
        (0.15, "For intervals of ±2.0%: --cap 570s, about 11 min on this machine."),  # 562.5 s
        (0.30, "Intervals of ±2.0% are out of reach here; for about ±3.9%: --cap 600s, about 11 min on this machine."),
    ],
)
def test_what_to_type_for_the_interval_that_is_asked(half: float, words: str) -> None:
    """The time needed grows with the square of the width, and stops at ten minutes."""
    assert list(above([row(half=half, verdict="NOISY"), row("fcdm_s")], 60.0)) == [NOISE, words]


def test_each_noisy_row_takes_as_long_as_it_needs() -> None:
    """30 s more for the one, 80 s more for the other, and 100 s as before."""
    noisy = [row(half=0.04, verdict="NOISY"), row("fcdm_s", half=0.06, verdict="NOISY")]
    assert list(above(noisy, 100.0))[1] == "For intervals of ±2.0%: --cap 90s, about 4 min on this machine."


def test_processes_share_the_samples() -> None:
    noisy = row(half=0.04, verdict="NOISY", processes=2)
    assert list(above([noisy], 60.0))[1] == "For intervals of ±2.0%: --cap 20s, about 2 min on this machine."


def test_noise_is_one_sentence_below_the_table_and_bias_one_for_each_row() -> None:
    rows = [
        row("dico_s", 0.04, "NOISY", reason="WIDE: interval ±4.0%, where ±2.0% is asked"),
        row("fcdm_s", 0.05, "NOISY", reason="WIDE: interval ±5.0%, where ±2.0% is asked; not ranked: a reference"),
        row("dic_s", 0.05, "SUSPECT", reason="CLK: x; WIDE: y"),
        row("dit_s_2", 0.05, "INVALID", reason="FLOOR: z"),
    ]
    assert list(below(rows)) == [
        "NOISY: the interval is wider than requested; the number is usable within it.",
        "FCDM-S: NOISY, not ranked: a reference",
        "DiC-S: SUSPECT, CLK: x; WIDE: y",
        "DiT-S/2: INVALID, FLOOR: z",
    ]
