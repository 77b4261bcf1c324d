"""A real Slurm for a test: its own folder, ports and key, several nodes on this machine, stopped at the end."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import waiting

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
MISSING = (
    None
    if all(map(shutil.which, PROGRAMS)) and os.geteuid() == 0
    else "no Slurm, or not root: apt-get install slurmctld slurmd slurm-client munge"
)
CONFIGURATION = """\
ClusterName=convbench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=10
SchedulerParameters=batch_sched_delay=0,sched_interval=1,defer
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 State=UNKNOWN"


@dataclass
class Cluster:
    """A controller and its nodes, each with one processor."""

    folder: Path
    names: tuple[str, ...]

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs to use this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """Output of one of Slurm's programs."""
        own = {"SBATCH_OUTPUT": "/dev/null"}  # or a job leaves its output in the folder of the tests
        environment = os.environ | own | self.variables
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def jobs(self) -> list[list[str]]:
        """Number, name, state and node of every job; asked at most twice a second, and again where nobody answers."""
        while True:
            time.sleep(0.5)
            with suppress(subprocess.CalledProcessError):  # a busy controller drops connections
                listed = self.call("squeue", "--noheader", "--array", "--states=all", "--format=%i|%j|%T|%N")
                return [line.split("|") for line in listed.splitlines()]


@contextmanager
def running(nodes: int) -> Iterator[Cluster]:
    """A new cluster without jobs."""
    folder = Path(tempfile.mkdtemp(prefix="convbench-slurm-"))
    folder.chmod(0o755)
    names = tuple(f"n{number}" for number in range(1, nodes + 1))
    cluster = Cluster(folder, names)
    try:
        _configure(cluster)
        _start(cluster)
        yield cluster
    finally:
        with suppress(subprocess.CalledProcessError):
            cluster.call("scancel", "--user=root")
            waiting.until(lambda: all(job[2] not in ("RUNNING", "PENDING", "COMPLETING") for job in cluster.jobs()))
        for pid in folder.rglob("*.pid"):  # our own, by the numbers that they wrote
            with suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(cluster: Cluster) -> None:
    folder, host = cluster.folder, socket.gethostname().partition(".")[0]
    (folder / "munge").mkdir(mode=0o711)
    (folder / "state").mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    ports = _free_ports(len(cluster.names) + 1)
    nodes = [NODE.format(name=name, host=host, port=port) for name, port in zip(cluster.names, ports[1:], strict=True)]
    text = CONFIGURATION.format(folder=folder, host=host, ports=ports, nodes="\n".join(nodes))
    (folder / "slurm.conf").write_text(text)


def _start(cluster: Cluster) -> None:
    munge = cluster.folder / "munge"
    files = {"key-file": "key", "socket": "socket", "pid-file": "munged.pid", "log-file": "log", "seed-file": "seed"}
    cluster.call("munged", "--force", *(f"--{option}={munge / name}" for option, name in files.items()))
    cluster.call("slurmctld", "-c")
    for name in cluster.names:
        cluster.call("slurmd", "-N", name)
    waiting.until(
        lambda: (
            cluster.call("sinfo", "--noheader", "--format=%D %t", "--partition=low").split()[:2]
            == [str(len(cluster.names)), "idle"]
        )
    )


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
