"""What several test files share: the counts and key lists of the official models."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def reference() -> dict[str, dict[str, Any]]:
    """Parameters, MACs and the ordered state dict of 23 official models by id; how it was made: data/README.md."""
    return json.loads(gzip.decompress((Path(__file__).parent / "data" / "reference.json.gz").read_bytes()))
