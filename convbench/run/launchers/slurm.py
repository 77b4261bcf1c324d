"""Jobs of a Slurm cluster, submitted through submitit: one array for the cases of equal needs.

Partition, account and the like are those of the user's environment (SBATCH_PARTITION, SBATCH_ACCOUNT ...). Jobs are
asked for by name, which no other submission has, and cancelled by number. Slurm does not requeue them: a preempted job
ends, and ``run.fleet`` submits it again on another node.
"""

import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UsageError, first_line
from .job import NODE, JobState, Order
from .local import last_line, paths

GPU_CORES = 4  # of a job on a GPU: the case, its worker and the telemetry
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
VISIBLE_S = 60.0  # until a file that a node wrote is seen here, through a network file system
QUERY_S = 60.0


class Slurm:
    """Jobs of a cluster that shares this folder. A handle is Slurm's number of a job, such as 1234_5."""

    name = "slurm"
    poll_s = 2.0
    elsewhere = True

    def __init__(self, folder: Path, program: str = NODE) -> None:
        """Prepare for submissions. Raises UsageError without Slurm's programs."""
        self.folder, self.program = folder, program
        self.completed: dict[str, float] = {}  # when jobs were first seen to be over, by handle

    def free(self) -> int:
        """Return a large number: the queue is Slurm's."""
        return sys.maxsize

    def executor(self) -> Any:
        """Make submitit's executor. Raises UsageError where no Slurm is installed."""
        import submitit

        try:
            return submitit.SlurmExecutor(folder=self.folder / "submitit")
        except RuntimeError as error:
            raise UsageError(f"--launcher slurm: {first_line(error)}") from None

    def parameters(self, batch: str, order: Order) -> dict[str, Any]:
        """Return what the batch script asks for: resources, a time limit in minutes, and no requeueing."""
        asked: dict[str, Any] = {
            "job_name": batch,
            "time": math.ceil(order.limit_s / 60),
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": order.cores or GPU_CORES,
            "use_srun": False,  # since 22.05 srun does not pass on the cores of the job
            "setup": [f"export PYTHONPATH={shlex.quote(paths())}"],
            "additional_parameters": {"no-requeue": True},
        }
        if order.gpu:
            asked["gres"] = f"gpu:{order.on}:1" if order.on else "gpu:1"
        elif order.on:
            asked["constraint"] = order.on
        if order.avoid:
            asked["exclude"] = ",".join(order.avoid)
        return asked

    def submit(self, batch: str, orders: Sequence[Order]) -> list[str]:
        """Submit one array. Raises UsageError with Slurm's words if it refuses."""
        files = []
        for order in orders:
            path = self.folder / f"{order.name}.order.json"
            path.write_text(json.dumps({**order.content, "launcher": self.name, "job": order.name}))
            files.append(str(path))
        results = [str(self.folder / f"{order.name}.json") for order in orders]
        executor, asked = self.executor(), self.parameters(batch, orders[0])
        try:
            return self._submit(executor, asked, files, results)
        except Exception as error:  # of submitit, with what sbatch said
            if not orders[0].avoid:
                raise UsageError(f"sbatch refused the jobs: {_said(error)}") from None
        try:  # no node is left but those that lost it
            return self._submit(executor, asked | {"exclude": None}, files, results)
        except Exception as error:
            raise UsageError(f"sbatch refused the jobs: {_said(error)}") from None

    def _submit(self, executor: Any, asked: dict[str, Any], files: list[str], results: list[str]) -> list[str]:
        executor.update_parameters(**asked)
        jobs = executor.map_array(carry_out, [self.program] * len(files), files, results)
        return [str(job.job_id) for job in jobs]

    def find(self, batch: str, jobs: Sequence[str]) -> dict[str, str]:
        """Ask Slurm for the jobs of that name; the task of an array is the last number of a job's name."""
        found = {}
        for handle in self.states([batch]) or {}:
            name = f"{batch}-{handle.partition('_')[2] or 0}"
            if name in jobs:
                found[name] = handle
        return found

    def poll(self, handles: Mapping[str, str]) -> dict[str, JobState]:
        """Ask squeue, which knows finished jobs for some minutes."""
        if not handles:
            return {}
        states = self.states(sorted({job.rpartition("-")[0] for job in handles}))
        if states is None:  # the controller does not answer: nothing is known, so nothing is lost
            return dict.fromkeys(handles, JobState("waiting"))
        return {job: self._seen(job, handle, *states.get(handle, ("", ""))) for job, handle in handles.items()}

    def _seen(self, job: str, handle: str, state: str, node: str) -> JobState:
        if state in WAITING:
            return JobState("waiting")
        if state in RUNNING:
            return JobState("running", node)
        over = self.completed.setdefault(handle, time.monotonic())
        if state in ("COMPLETED", "") and time.monotonic() - over < VISIBLE_S:
            return JobState("running", node or None)
        said = last_line(self.folder / "submitit" / f"{handle}_0_log.err")
        words = f"Slurm ended it ({state})" if state else "Slurm does not know it any more"
        return JobState("ended", node or None, f"{words}: {said}" if said else words)

    def states(self, batches: Sequence[str]) -> dict[str, tuple[str, str]] | None:
        """State and node of the jobs of these names, by number; None where Slurm does not answer."""
        asked = ["squeue", "--noheader", "--array", "--states=all", f"--name={','.join(batches)}", "--format=%i|%T|%N"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=QUERY_S)
        except (OSError, subprocess.SubprocessError):
            return None
        lines = (line.strip().split("|") for line in done.stdout.splitlines())
        return {line[0]: (line[1], line[2]) for line in lines if len(line) == 3}

    def cancel(self, handles: Mapping[str, str]) -> None:
        """Cancel these jobs, by their numbers."""
        if handles:
            subprocess.run(["scancel", *handles.values()], capture_output=True, check=False, timeout=QUERY_S)

    def close(self, done: bool) -> None:
        """Leave the jobs to Slurm."""


def carry_out(program: str, order: str, result: str) -> None:
    """Run an order's program, in the job. Raises CalledProcessError if it fails, which ends the job as failed."""
    subprocess.run([sys.executable, "-m", program, order, result], check=True, env=dict(os.environ))


def _said(error: Exception) -> str:
    text = str(getattr(error, "stderr", "") or error)
    lines = [line.strip() for line in text.splitlines() if "error" in line.lower()] or [first_line(error)]
    return lines[-1][:200]
