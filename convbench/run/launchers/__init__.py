"""Launchers: where the cases of a run are measured. A launcher starts jobs, says how they are and cancels them.

A job carries out one order (``run.node``), leaves one result and ends. What is submitted, and again where a node was
lost, is decided in ``run.fleet``.
"""

from importlib import import_module
from pathlib import Path

from ...errors import UsageError
from .job import Launcher

NAMES = ("local", "slurm", "ray")


def create(name: str, folder: Path, cores: int, gpu: bool) -> Launcher:
    """Open a launcher.

    Args:
        folder: of the run; files of jobs go there.
        cores: that the largest job needs for itself.
        gpu: whether any job needs a GPU.

    Raises:
        UsageError: its package, program or cluster is missing, or cores would be shared.
    """
    if name == "local":
        from .local import Local

        return Local(folder, cores, gpu)
    package = {"slurm": "submitit", "ray": "ray"}[name]
    try:
        import_module(package)
    except ImportError:
        raise UsageError(f"--launcher {name} needs {package}: pip install 'convbench[fleet]'") from None
    if name == "slurm":
        from .slurm import Slurm

        return Slurm(folder)
    from .ray_cluster import RayCluster

    return RayCluster(folder)
