"""For all tests: marks of GPU tests and long grids, garbage collection, counts and key lists of official models."""

import gc
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

GPU = Path(__file__).parent / "gpu"
ATTACKS = ("test_hostile_", "test_cheats")
"""Files whose grids are long lists of attacks: the first of each grid is a quick test, the others are slow."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With -m gpu, import the tests in tests/gpu alone: a machine with a GPU need not have what the others import."""
    other = collection_path.suffix == ".py" and GPU not in collection_path.parents
    return True if other and config.getoption("markexpr") == "gpu" else None


@pytest.hookimpl(tryfirst=True)  # before -m takes its choice
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in tests/gpu as one, and all but the first case of each long grid as slow."""
    seen = set()
    for item in items:
        if GPU in item.path.parents:
            item.add_marker(pytest.mark.gpu)
        is_long = item.path.name.startswith(ATTACKS) or item.get_closest_marker("long_grid")
        if is_long and hasattr(item, "callspec"):
            grid = item.nodeid.partition("[")[0]
            if grid in seen:
                item.add_marker(pytest.mark.slow)
            seen.add(grid)


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of every later collection of garbage: timing starts with one each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def reference() -> dict[str, dict[str, Any]]:
    """Parameters, MACs and the ordered state dict of 23 official models by id; how it was made: data/README.md."""
    return json.loads(gzip.decompress((Path(__file__).parent / "data" / "reference.json.gz").read_bytes()))
