"""One job of a launched run, on its node: ``python -m convbench.run.node ORDER.json RESULT.json``.

Takes cores of its own, copies the weights to the node's own disk, measures (cases in a worker; a frontier or kernels in
this process), and writes the result whole: ``{"rows": [...]}``, or ``{"refused": why}`` of a node that cannot do it, so
that another one may. With ``--tied`` it ends when its stdin is closed, with whoever started it.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConvbenchError, UsageError, first_line
from ..files import locked, read_json, write_whole
from .launchers.cores import physical_cores
from .staging import Staged, require_own, scratch, stage

Content = Mapping[str, Any]


def main(carry_out: Callable[[Content], list[dict[str, Any]]] | None = None) -> None:
    """Carry out the order of the command line. ``carry_out`` gives its rows."""
    order, result = (Path(argument) for argument in sys.argv[1:3])
    if "--tied" in sys.argv:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    write_whole(result, json.dumps(answered(read_json(order), carry_out or measured_rows)).encode())


def answered(order: Content, carry_out: Callable[[Content], list[dict[str, Any]]]) -> dict[str, Any]:
    """The result of an order, whatever happens short of the end of this process."""
    place: dict[str, Any] = {
        "launcher": order["launcher"],
        "job": order["job"],
        "host": socket.gethostname(),
        "node": node_name(),
    }
    try:
        with bound(order.get("cpus"), order["cores"], order.get("gpu")):
            place |= {"cpus": sorted(os.sched_getaffinity(0)), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
            rows = carry_out(order)
    except ConvbenchError as error:
        return {"refused": str(error), "place": place}
    except Exception as error:  # a node may fail in any way; the sweep goes on elsewhere
        return {"refused": f"{type(error).__name__}: {first_line(error)}", "place": place}
    return {"rows": rows, "place": place}


def node_name() -> str:
    """Name of this node: that of Slurm, that of the launcher, else of the host."""
    return os.environ.get("CONVBENCH_NODE") or os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@contextmanager
def bound(cpus: list[int] | None, cores: int, gpu: str | None = None) -> Iterator[None]:
    """Bind this process and those that it starts to cores that no other job of convbench on this node uses.

    Args:
        cpus: what the launcher chose; None to follow the affinity that the scheduler set, or to take free ones of it.
        cores: physical cores that are needed; 0 for whatever there is.
        gpu: the launcher's choice; None where a scheduler gives GPUs out.

    Raises UsageError where cores or a GPU would be shared.
    """
    if cpus:
        os.sched_setaffinity(0, cpus)
    allowed = physical_cores()
    if cores > len(allowed):
        raise UsageError(f"{cores} threads need as many cores of their own, and the job has {len(allowed)}")
    folder = scratch()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_own(folder)
    own: list[tuple[int, ...]] = []
    with ExitStack() as locks:
        if gpu is not None:
            try:
                locks.enter_context(locked(folder / f"gpu-{gpu.replace('/', '-')}", wait=False))
            except BlockingIOError:
                raise UsageError(f"another job of convbench uses GPU {gpu}") from None
        for core in allowed if cores else ():
            with suppress(BlockingIOError):
                locks.enter_context(locked(folder / f"core-{core[0]}", wait=False))
                own.append(core)
            if len(own) == cores:
                os.sched_setaffinity(0, [cpu for core in own for cpu in core])
                break
        if len(own) < cores:
            held = f"other jobs of convbench hold {len(allowed) - len(own)} of {len(allowed)}"
            raise UsageError(f"cores would be shared: the job needs {cores} of its own, and {held}")
        yield


def measured_rows(order: Content) -> list[dict[str, Any]]:
    """Rows of an order as JSON: of its cases, the ways to sample of a frontier, or kernels."""
    os.environ.setdefault("CONVBENCH_CACHE", str(scratch() / "cache"))  # artefacts that backends build
    staged = stage(Staged(**order["stage"]), scratch()) if order["stage"] else None
    if "frontier" in order:
        from . import pareto

        return [row.to_json() for row in pareto.rows_of_order(order["frontier"], staged)]
    if "kernels" in order:
        from . import kernels

        return [row.to_json() for row in kernels.rows_of_order(order["kernels"])]
    return _case_rows(order, staged)


def _case_rows(order: Content, staged: Path | None) -> list[dict[str, Any]]:
    """Rows of cases, named as in the order, though their weights were read from scratch."""
    from ..schema import Case
    from .cases import Settings, measure_alone
    from .jobs import Limits

    cases = [Case(**case) for case in order["cases"]]
    local = [replace(case, weights=str(staged)) if staged else case for case in cases]
    names = {here.id: case for here, case in zip(local, cases, strict=True)}
    rules = dict(order["rules"])
    settings = Settings(Limits(order["cap_s"], order["timeout_s"]), order["processes"], rules)
    rows = []
    for row in measure_alone(tuple(local), settings):
        case, other = names[row.case], names.get(row.compared_with or "")
        renamed = replace(row, case=case.id, weights=case.weights)
        rows.append((replace(renamed, compared_with=other.id) if other else renamed).to_json())
    return rows


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the other end is closed
    os._exit(1)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
