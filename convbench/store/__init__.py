"""Stored rows: JSON lines of a run, and the stores that keep many runs (DuckDB, Parquet, Postgres).

``lines`` is the file of a run, ``identity`` names a row, ``places`` turns a text such as ``duckdb:///all.db`` into a
place to read or push to.
"""

from .lines import (
    CONDITIONS,
    Key,
    Results,
    append,
    changed_conditions,
    load,
    read,
    require_writable,
    rows_of,
)

__all__ = [
    "CONDITIONS",
    "Key",
    "Results",
    "append",
    "changed_conditions",
    "load",
    "read",
    "require_writable",
    "rows_of",
]
