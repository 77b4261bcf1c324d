"""Verdicts of runs whose noise is a real machine's: few false alarms, and every bias found."""

from pathlib import Path

import pytest
from simulated_runs import BIASED, HONEST, Recorded, Scenario, recorded, share, table, verdicts

RUNS = 1000
FALSE_ALARMS = 0.05
FOUND = 0.95


@pytest.fixture(scope="module")
def sources() -> list[Recorded]:
    return recorded()


def test_the_noise_is_that_of_the_stored_rows(sources: list[Recorded]) -> None:
    assert len(sources) >= 47
    assert all(len(source.noise) >= 6 for source in sources)


@pytest.mark.parametrize("scenario", HONEST[:2], ids=lambda scenario: scenario.name)
def test_ordinary_noise_is_seldom_suspect(scenario: Scenario, sources: list[Recorded]) -> None:
    found = verdicts(scenario, sources, RUNS)
    assert share(found, "SUSPECT", "INVALID") <= FALSE_ALARMS
    assert share(found, "INVALID") == 0


@pytest.mark.parametrize("scenario", BIASED, ids=lambda scenario: scenario.name)
def test_a_bias_is_suspect(scenario: Scenario, sources: list[Recorded]) -> None:
    assert share(verdicts(scenario, sources, RUNS), "SUSPECT", "INVALID") >= FOUND


def test_the_table_of_the_docs_is_the_one_that_is_made() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text("utf-8")
    assert table(RUNS) in page
