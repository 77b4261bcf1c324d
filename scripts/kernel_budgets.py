"""Regenerate kernels/aot/budgets.toml: what every shipped kernel configuration takes, by the oldest and newest Triton.

Run it after changing a kernel or a configuration, and read the difference before committing it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from convbench.kernels.aot.budgets import TRITONS, budget_key, gate_rows, write_budgets


def main() -> None:
    rows = []
    for triton in TRITONS:
        for row in gate_rows(triton):
            if row["error"]:
                sys.exit(f"{budget_key(row)}, Triton {triton}: {row['error']}")
            rows.append(row)
            print(f"Triton {triton} {budget_key(row)}: {row['registers']} registers", file=sys.stderr)
    write_budgets(rows)


if __name__ == "__main__":
    main()
