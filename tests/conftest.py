"""Fixtures of several test files, and the table of slow tests."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

SLOW = Path(__file__).with_name("slow.txt")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow.txt: a line is a node id, or the beginning of several."""
    lines = tuple(line for line in SLOW.read_text("utf-8").splitlines() if line and not line.startswith("#"))
    for item in items:
        if item.nodeid.startswith(lines):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def reference() -> dict[str, dict[str, Any]]:
    """Parameters, MACs and the ordered state dict of 23 official models by id; how it was made: data/README.md."""
    return json.loads(gzip.decompress((Path(__file__).parent / "data" / "reference.json.gz").read_bytes()))
