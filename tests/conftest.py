"""For all tests: the mark of GPU tests, cheap garbage collection, the counts and key lists of the official models."""

import gc
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

GPU = Path(__file__).parent / "gpu"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With -m gpu, import the tests in tests/gpu alone: a machine with a GPU need not have what the others import."""
    other = collection_path.suffix == ".py" and GPU not in collection_path.parents
    return True if other and config.getoption("markexpr") == "gpu" else None


@pytest.hookimpl(tryfirst=True)  # before -m takes its choice
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in tests/gpu."""
    for item in items:
        if GPU in item.path.parents:
            item.add_marker(pytest.mark.gpu)


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of every later collection of garbage: timing starts with one each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def reference() -> dict[str, dict[str, Any]]:
    """Parameters, MACs and the ordered state dict of 23 official models by id; how it was made: data/README.md."""
    return json.loads(gzip.decompress((Path(__file__).parent / "data" / "reference.json.gz").read_bytes()))
