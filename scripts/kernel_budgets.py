"""Write kernels/budgets.toml anew: what every shipped kernel configuration takes, by the oldest and the newest Triton.

Run it after a kernel or a configuration has changed, and read the difference before committing it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from convbench.kernels import aot


def main() -> None:
    rows = []
    for triton in aot.TRITONS:
        for row in aot.gate_rows(triton):
            if row["error"]:
                sys.exit(f"{aot.identity(row)}, Triton {triton}: {row['error']}")
            rows.append(row)
            print(f"Triton {triton} {aot.identity(row)}: {row['registers']} registers", file=sys.stderr)
    aot.write_budgets(rows)


if __name__ == "__main__":
    main()
