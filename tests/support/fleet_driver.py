"""The driver of a sweep over light nodes, as a process that a test can kill.

fleet_driver.py OUT LAUNCHER CASES [WEIGHTS]
fleet_driver.py --line "convbench throughput …"      a command as a page shows it
"""

import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from convbench import cli
from convbench.run import launchers
from convbench.run.cases import Settings, cases
from convbench.run.jobs import Limits
from convbench.run.plan import Request

create = launchers.create


def light(name: str, folder: Path, cores: int, gpu: bool) -> Any:
    """A launcher whose jobs run ``light_node``."""
    made: Any = create(name, folder, cores, gpu)
    made.program = "light_node"
    return made


def run(out: Path, launcher: str, count: int, weights: str | None = None) -> None:
    """Run the sweep and print a line for each row."""
    request = Request(["dico_s"], [64], list(range(1, count + 1)), threads=1, weights=weights)
    settings = Settings(Limits(timeout_s=60), launcher=launcher, say=lambda line: print("say", line, flush=True))
    try:
        for row in cases(request, out, settings):
            print("row", row.case, row.status, row.verdict, row.reason, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    launchers.create = light
    if sys.argv[1] == "--line":
        cli.main(shlex.split(sys.argv[2])[1:])
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:5])
