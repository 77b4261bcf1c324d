"""For all tests: the mark of GPU tests; the counts and key lists of the official models."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

GPU = Path(__file__).parent / "gpu"


@pytest.hookimpl(tryfirst=True)  # before -m takes its choice
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in tests/gpu."""
    for item in items:
        if GPU in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def reference() -> dict[str, dict[str, Any]]:
    """Parameters, MACs and the ordered state dict of 23 official models by id; how it was made: data/README.md."""
    return json.loads(gzip.decompress((Path(__file__).parent / "data" / "reference.json.gz").read_bytes()))
