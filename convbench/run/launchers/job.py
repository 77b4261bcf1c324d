"""Definition of a launcher, and of the orders that it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...schema import Second

NODE = "convbench.run.node"
"""The module that a job runs: ``python -m MODULE ORDER.json RESULT.json``."""


@dataclass(frozen=True)
class Order:
    """One job: what its node is to do, and what it needs."""

    name: str  # no other job ever has it
    content: Mapping[str, Any]  # for the program of the node, as JSON
    cores: int  # processor cores of its own; 0 leaves that to the scheduler
    gpu: bool
    on: str | None  # kind of node
    limit_s: Second
    avoid: tuple[str, ...] = ()  # nodes on which it was lost


@dataclass(frozen=True)
class JobState:
    """The state of a job: waiting, running or ended; with its node where that is known."""

    state: str
    node: str | None = None
    reason: str = ""  # why it ended, of one that left no result
    result: str | None = None  # where the launcher carries it; otherwise it is in the folder


class Launcher(Protocol):
    """Starts jobs for ``run.fleet``. A handle is a text that finds a job again from another process."""

    name: str
    poll_s: Second  # between two questions
    elsewhere: bool  # jobs run on other machines than this one

    def free(self) -> int:
        """Count the jobs that may be submitted now."""
        ...

    def submit(self, batch: str, orders: Sequence[Order]) -> list[str]:
        """Submit jobs of equal needs under a name that no other submission has. Returns their handles."""
        ...

    def find(self, batch: str, jobs: Sequence[str]) -> dict[str, str]:
        """Find the handles of those jobs of a submission that a killed driver did submit, by their names."""
        ...

    def poll(self, handles: Mapping[str, str]) -> dict[str, JobState]:
        """Ask how jobs are. Returns an entry for each, by its name."""
        ...

    def cancel(self, handles: Mapping[str, str]) -> None:
        """End these jobs and no others."""
        ...

    def close(self, done: bool) -> None:
        """Leave the cluster; ``done`` if no job of this run is left there."""
        ...
