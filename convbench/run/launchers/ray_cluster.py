"""Jobs of a Ray cluster: one task each, placed by cores, GPU and kind of GPU.

Ray ends the tasks of a driver that ends, so an actor that outlives the driver submits them and keeps their results; no
file system is shared. The cluster is that of RAY_ADDRESS, or the one on this machine.
"""

import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...errors import UsageError, first_line
from .job import NODE, JobState, Order

SHARE = 0.001  # of a custom resource that marks a kind of node: it is there or not
ANSWER_S = 60.0
KEEPERS = 3  # that may be lost in a row
NAMESPACE = "convbench"
Answers = dict[str, tuple[str, str, str]]  # state, node, and the result or the reason


class Keeper:
    """Submits tasks and keeps what they return, in a process of the cluster that outlives the driver."""

    def __init__(self) -> None:
        self.tasks: dict[str, Any] = {}
        self.nodes: dict[str, str] = {}
        self.over: Answers = {}

    def submit(self, me: Any, program: str, jobs: list[tuple[str, str, dict[str, Any]]]) -> None:
        """Submit tasks by name with their orders and needs; one of a name that is known is left out."""
        for name, text, needs in jobs:
            if name not in self.tasks:
                self.tasks[name] = carry_out.options(name=name, **needs).remote(me, name, text, program)

    def began(self, name: str, node: str) -> None:
        """Note the node on which a task has begun."""
        self.nodes[name] = node

    def poll(self, names: list[str]) -> Answers:
        """State, node, and result or reason of each task."""
        running = {self.tasks[name]: name for name in names if name in self.tasks and name not in self.over}
        ready, _ = ray.wait(list(running), num_returns=len(running), timeout=0) if running else ([], [])
        for task in ready:
            name = running[task]
            try:
                self.over[name] = ("ended", self.nodes.get(name, ""), "=" + ray.get(task))
            except RayError as error:
                self.over[name] = ("ended", self.nodes.get(name, ""), f"{type(error).__name__}: {first_line(error)}")
        return {name: self._state(name) for name in names}

    def _state(self, name: str) -> tuple[str, str, str]:
        if name in self.over:
            return self.over[name]
        if name not in self.tasks:
            return ("ended", "", "Ray does not know it any more")
        return ("running", self.nodes[name], "") if name in self.nodes else ("waiting", "", "")

    def cancel(self, names: list[str]) -> None:
        """End tasks and the processes that they started."""
        for name in names:
            if name in self.tasks and name not in self.over:
                ray.cancel(self.tasks[name], force=True)


@ray.remote(max_retries=0)
def carry_out(keeper: Any, name: str, text: str, program: str) -> str:
    """Run an order in a process of its own, which ends with this one. Returns its result as a text."""
    node = node_name(ray.get_runtime_context().get_node_id())
    keeper.began.remote(name, node)
    with tempfile.TemporaryDirectory(prefix="convbench-job-") as folder:
        order, result = Path(folder, "order.json"), Path(folder, "result.json")
        order.write_text(text)
        child = subprocess.Popen(
            [sys.executable, "-m", program, str(order), str(result), "--tied"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CONVBENCH_NODE": node},
        )
        assert child.stderr
        said = [line for line in child.stderr if line.strip()]
        code = child.wait()
        if not result.exists():
            raise RuntimeError(f"exit code {code}: {said[-1].strip()[:200] if said else 'it said nothing'}")
        return result.read_text()


def node_name(id: str) -> str:
    """Name of the node with that id of Ray: several may be on one host."""
    return f"{socket.gethostname()}-{id[:8]}"


class RayCluster:
    """Tasks of a cluster. A handle is the name of the job, which the keeper knows."""

    name = "ray"
    poll_s = 0.5
    elsewhere = True

    def __init__(self, folder: Path, program: str = NODE) -> None:
        """Connect to the cluster. Raises UsageError if there is none."""
        self.folder, self.program = folder, program
        try:
            ray.init(
                address=os.environ.get("RAY_ADDRESS", "auto"),
                namespace=NAMESPACE,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster was found ({first_line(error)}): `ray start --head`, or set RAY_ADDRESS"
            ) from None
        self.keeper = self._keeper()

    def _keeper(self) -> Any:
        """The actor of this run: found again by the folder of the run, or new."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        name = f"convbench-{hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]}"
        kind: Any = ray.remote(Keeper)
        return kind.options(
            name=name, get_if_exists=True, lifetime="detached", num_cpus=0, scheduling_strategy=here
        ).remote()

    def _asked(self, ask: Callable[[Any], Any]) -> Any:
        """Answer of the keeper, or of a new one: Ray may place it on a node that has just died.

        Raises UsageError where the cluster loses each of them.
        """
        for _ in range(KEEPERS):
            try:
                return ray.get(ask(self.keeper), timeout=ANSWER_S)
            except RayActorError as error:
                self.keeper, reason = self._keeper(), first_line(error)
        raise UsageError(f"the Ray cluster lost the actor that keeps the jobs {KEEPERS} times: {reason}")

    def free(self) -> int:
        """Return a large number: the queue is Ray's."""
        return sys.maxsize

    def needs(self, order: Order) -> dict[str, Any]:
        """Return what a task asks for. Raises UsageError for a kind of node that the cluster does not have."""
        found: dict[str, Any] = {"num_cpus": order.cores or 1}
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if order.gpu:
            found["num_gpus"] = 1
        if order.on:
            marker = f"accelerator_type:{order.on}" if order.gpu else order.on
            if not any(marker in node["Resources"] for node in alive):
                raise UsageError(f"--on {order.on}: no node of the Ray cluster has the resource {marker}")
            found["resources"] = {marker: SHARE}
        ends = tuple(name.rpartition("-")[2] for name in order.avoid)
        bad = [node["NodeID"] for node in alive if ends and node["NodeID"].startswith(ends)]
        if bad and len(bad) < len(alive):
            found["label_selector"] = {"ray.io/node-id": f"!in({','.join(bad)})"}
        return found

    def submit(self, batch: str, orders: Sequence[Order]) -> list[str]:
        """Hand the orders to the keeper."""
        jobs = [
            (
                order.name,
                json.dumps({**order.content, "launcher": self.name, "job": order.name}),
                self.needs(order),
            )
            for order in orders
        ]
        self._asked(lambda keeper: keeper.submit.remote(keeper, self.program, jobs))
        return [order.name for order in orders]

    def find(self, batch: str, jobs: Sequence[str]) -> dict[str, str]:
        """Ask the keeper which of the jobs it has."""
        known: Answers = self._asked(lambda keeper: keeper.poll.remote(list(jobs)))
        return {job: job for job, (_, _, words) in known.items() if words != "Ray does not know it any more"}

    def poll(self, handles: Mapping[str, str]) -> dict[str, JobState]:
        """Ask the keeper; where it was lost with its node, so were its tasks."""
        try:
            answers: Answers = ray.get(self.keeper.poll.remote(list(handles)), timeout=ANSWER_S)
        except RayActorError:
            self.keeper = self._keeper()
            return dict.fromkeys(handles, JobState("ended", reason="Ray lost the actor that kept it"))
        found = {}
        for job, (state, node, words) in answers.items():
            if words.startswith("="):
                found[job] = JobState("ended", node or None, result=words[1:])
            else:
                found[job] = JobState(state, node or None, words)
        return found

    def cancel(self, handles: Mapping[str, str]) -> None:
        """End these tasks."""
        with suppress(RayError):
            ray.get(self.keeper.cancel.remote(list(handles)), timeout=ANSWER_S)

    def close(self, done: bool) -> None:
        """Leave the cluster; end the keeper where nothing is left to keep."""
        if done:
            with suppress(RayError, ValueError):
                ray.kill(self.keeper)
        ray.shutdown()
