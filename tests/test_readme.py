"""The README's table says what the committed result file holds."""

from pathlib import Path

from convbench.metrics import COLUMNS, interval
from convbench.store import read

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "reports" / "results" / "cpu-amd-epyc-2threads-2026-11-21-fp32-256px.jsonl"


def test_the_table_is_made_from_the_result_file() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    keys = ("model", "params", "macs", "winograd_macs", "images_per_s", "interval", "latency_s_p50", "limit_fraction")
    rows = read(RESULTS)
    assert len(rows) == 5
    for row in rows:
        values = [*(COLUMNS[key].text({**row, "interval": interval(row)}[key]) for key in keys), row["verdict"]]
        assert f"| {' | '.join(values)} |" in lines
