"""Names of stored rows and environments, and the columns that a store keeps beside the whole row."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

StoredRow = Mapping[str, Any]

TEXT, WHOLE, NUMBER = "VARCHAR", "BIGINT", "DOUBLE PRECISION"  # in the SQL of DuckDB and of Postgres

COLUMNS = {
    "id": TEXT,
    "run": TEXT,  # file and first moment of the run that the row was pushed with
    "kind": TEXT,
    "case": TEXT,
    "model": TEXT,
    "res": WHOLE,
    "batch": WHOLE,
    "backend": TEXT,
    "precision": TEXT,
    "device": TEXT,
    "threads": WHOLE,
    "weights": TEXT,
    "repeat": WHOLE,
    "mode": TEXT,
    "sampling": TEXT,
    "status": TEXT,
    "verdict": TEXT,
    "measured_at": TEXT,
    "images_per_s": NUMBER,
    "images_per_s_low": NUMBER,
    "images_per_s_high": NUMBER,
    "environment": TEXT,  # id of its row in the table of environments
    "body": TEXT,  # the whole row without its environment, as JSON
}
"""Columns of the table of rows. What is not here is in ``body``."""

KEYS = ("kind", "case", "model", "res", "batch", "backend", "precision", "device", "threads", "weights", "repeat")
FILTERS = (*KEYS, "mode", "sampling", "status", "verdict")
"""Columns by which a store can be filtered."""

SAMPLES = ("block_s", "blocks", "cold_s", "images_per_s", "finished_images_per_s", "ratio", "status")
"""What two rows of one case, machine and second differ in."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def environment_id(environment: Mapping[str, Any]) -> str:
    """Hash of everything that is known of a machine and its software."""
    return hashlib.sha256(canonical(environment).encode()).hexdigest()[:32]


def row_id(row: StoredRow) -> str:
    """Hash of the case, the environment, the moment and the samples: the same row has it wherever it is kept.

    A row that is pushed twice is stored once; two writers with equal machines that measure one case in the same second
    have two rows.
    """
    facts = [row["kind"], row["case"], environment_id(row.get("environment") or {}), row.get("measured_at") or ""]
    samples = {key: row[key] for key in SAMPLES if row.get(key) not in (None, [], {})}
    samples.pop("ratio" if row["kind"] == "throughput" else "", None)  # schema 2 moved it to another row
    return hashlib.sha256(canonical([*facts, samples]).encode()).hexdigest()[:32]


def flat(row: StoredRow, run: str) -> list[Any]:
    """Values of ``COLUMNS`` for a row of today's schema."""
    body = {key: value for key, value in row.items() if key != "environment"}
    known = {
        "id": row_id(row),
        "run": run,
        "environment": environment_id(row.get("environment") or {}),
        "body": json.dumps(body, allow_nan=False),
    }
    found = [known[key] if key in known else row.get(key) for key in COLUMNS]
    # What a text column cannot hold is in the body all the same.
    return [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in found]
