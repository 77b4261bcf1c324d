"""Launchers as they are: cores and scratch of this machine, processes, submitit, a real Slurm, a real Ray cluster.

The jobs of a cluster here make up their rows (``light_node``): what is tested is that none is lost or doubled.
"""

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import slurm_cluster
from shown_commands import shown
from throttled import throttled
from waiting import until

from convbench.errors import UsageError
from convbench.run import launchers, node, staging
from convbench.run.cases import Settings, cases
from convbench.run.jobs import Limits
from convbench.run.launchers import create
from convbench.run.launchers.cores import Slot, core_slots, gpu_slots
from convbench.run.launchers.job import Order
from convbench.run.launchers.local import Local
from convbench.run.launchers.slurm import Slurm
from convbench.run.plan import Request
from convbench.run.staging import Staged, stage
from convbench.store import read

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
VARIABLES = {"PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}", "OMP_NUM_THREADS": "1"}


# Cores and GPUs


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SIMULATED: 8 cores of two threads on two NUMA nodes, and four GPUs, two near each."""
    cores = range(8)
    for core in cores:
        for cpu in (core, core + 8):
            folder = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{core},{core + 8}\n")
    listed = []
    for gpu in range(4):
        address = f"0000:{gpu + 1}a:00.0"
        folder = tmp_path / "bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "local_cpulist").write_text("0-3,8-11\n" if gpu < 2 else "4-7,12-15\n")
        listed.append(f"{gpu}, GPU-{gpu}, 0000{address.upper()}")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\ncat <<E\n" + "\n".join(listed) + "\nE\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    return tmp_path


def test_each_job_has_a_group_of_whole_cores(machine: Path) -> None:
    assert core_slots(3, machine) == [Slot((0, 8, 1, 9, 2, 10)), Slot((3, 11, 4, 12, 5, 13))]
    assert len(core_slots(8, machine)) == 1
    with pytest.raises(UsageError, match="9 threads need 9 cores of their own and this process may use 8: cores would"):
        core_slots(9, machine)


def test_each_gpu_has_the_cores_near_it(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = gpu_slots(machine)
    assert [slot.gpu for slot in slots] == ["0", "1", "2", "3"]
    assert [slot.cpus for slot in slots] == [(0, 8, 2, 10), (1, 9, 3, 11), (4, 12, 6, 14), (5, 13, 7, 15)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-3,1,7")
    assert [slot.gpu for slot in gpu_slots(machine)] == ["GPU-3", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match="no GPU"):
        gpu_slots(machine)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CONVBENCH_SCRATCH", str(tmp_path / "scratch"))
    before = os.sched_getaffinity(0)
    yield tmp_path / "scratch"
    os.sched_setaffinity(0, before)


def test_jobs_of_one_node_do_not_share_cores(scratch: Path) -> None:
    with node.bound(None, 1):
        first = os.sched_getaffinity(0)
        with pytest.raises(
            UsageError, match="cores would be shared: the job needs 1 of its own, and other jobs of convbench hold"
        ):
            node.bound(None, 1).__enter__()  # it follows the affinity that it has
    with node.bound(sorted(first), 1):
        assert os.sched_getaffinity(0) == first
    with node.bound(None, 0, "GPU-1"), pytest.raises(UsageError, match="another job of convbench uses GPU GPU-1"):
        node.bound(None, 0, "GPU-1").__enter__()
    with pytest.raises(UsageError, match="64 threads need as many cores of their own, and the job has 1"):
        node.bound(None, 64).__enter__()


# Scratch


def staged(path: Path, content: bytes = b"weights") -> Staged:
    path.write_bytes(content)
    return Staged.of(path, hashlib.sha256(content).hexdigest())


def test_a_file_is_copied_once_and_its_hash_is_checked(tmp_path: Path) -> None:
    wanted, folder = staged(tmp_path / "w.pt"), tmp_path / "scratch"
    copy = stage(wanted, folder)
    assert copy.read_bytes() == b"weights"
    first = copy.stat().st_ino
    assert stage(wanted, folder).stat().st_ino == first
    copy.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"w\.pt has another content here: SHA-256 "):
        stage(wanted, folder)
    assert stage(wanted, folder).read_bytes() == b"weights"
    (tmp_path / "w.pt").write_bytes(b"changed since")
    copy.unlink()
    with pytest.raises(UsageError, match="has another content"):
        stage(wanted, folder)


def test_a_full_disk_and_a_missing_file_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = staged(tmp_path / "w.pt")
    (tmp_path / "w.pt").unlink()
    with pytest.raises(UsageError, match=r"cannot stage w\.pt on .*: No such file"):
        stage(wanted, tmp_path / "scratch")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: type("", (), {"free": 3}))
    with pytest.raises(UsageError, match=r"the scratch disk is full: \S+ has 3 bytes free, w\.pt needs 7"):
        stage(wanted, tmp_path / "scratch")
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["lock"]


def test_the_scratch_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    with pytest.raises(UsageError, match="belongs to another user: set CONVBENCH_SCRATCH"):
        stage(staged(tmp_path / "w.pt"), tmp_path / "scratch")


# Slurm's script


def test_the_batch_script_asks_for_what_a_case_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "srun").write_text("#!/bin/sh\n")  # by which submitit tells that there is a Slurm
    (tmp_path / "srun").chmod(0o755)
    launcher = Slurm(tmp_path)
    executor = launcher.executor()

    def script(order: Order) -> set[str]:
        executor.update_parameters(**launcher.parameters("convbench-1234abcd-1", order))
        text = executor._make_submission_file_text("run it", "x")  # what submitit would write for sbatch
        assert "\nrun it\n" in text
        assert "srun" not in text
        return {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}

    on_cpu = script(Order("a", {}, 8, False, "epyc", 601.0, ("n3", "n5")))
    expected = {"job-name=convbench-1234abcd-1", "time=11", "nodes=1", "ntasks-per-node=1", "cpus-per-task=8"}
    assert on_cpu >= expected | {"constraint=epyc", "exclude=n3,n5", "no-requeue"}
    assert not any(line.startswith("gres") for line in on_cpu)
    on_gpu = script(Order("a", {}, 0, True, "h100", 3900.0))
    assert on_gpu >= {"gres=gpu:h100:1", "cpus-per-task=4", "time=65", "no-requeue"}
    assert "partition" not in " ".join(on_cpu | on_gpu)  # of the user's environment


# Sweeps


def page_commands(page: str, launcher: str) -> list[str]:
    """Command lines of a how-to page for a launcher, each whole."""
    text = (ROOT / "docs" / "howto" / page).read_text("utf-8")
    lines = [line for line, whole in shown(text) if whole and f"--launcher {launcher}" in line]
    assert sorted(line.split()[1] for line in lines) == ["kernels", "pareto", "throughput", "throughput"]
    return lines


def run_page(page: str, launcher: str, folder: Path, **variables: str) -> None:
    """Run the commands of a page in a folder: with light jobs where they need processors only; the plan of others."""
    for line in page_commands(page, launcher):
        on_gpus = "--device cuda" in line or "kernels bench" in line
        command = [sys.executable, str(SUPPORT / "fleet_driver.py"), "--line", line + " --dry-run" * on_gpus]
        ran = subprocess.run(
            command, cwd=folder, env=os.environ | VARIABLES | variables, capture_output=True, text=True, check=False
        )
        if on_gpus and launcher == "local":  # whose plan is for this machine, which has no GPU
            assert ran.returncode == 0
            continue
        assert ran.returncode == 0, ran.stderr
        words = line.split()
        axes = {key: words[words.index(key) + 1].split(",") for key in ("--model", "--seed", "--on") if key in words}
        count = math.prod(map(len, axes.values()))
        if "kernels" in words:
            assert all(f" {kind} " in ran.stdout for kind in axes["--on"])
        elif on_gpus:
            assert f"{count} cases to measure" in ran.stdout
        else:
            rows = read(folder / words[words.index("--out") + 1])
            assert {(row["status"], row["place"]["launcher"]) for row in rows} == {("ok", launcher)}
            assert len({row["place"]["job"] for row in rows}) == count
            assert len(rows) == count or "pareto" in words  # with a row for each way


DRIVERS: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_driver_is_left() -> Iterator[None]:
    """End the drivers of a test that failed."""
    yield
    while DRIVERS:
        driver = DRIVERS.pop()
        driver.kill()
        driver.wait()


def drive(out: Path, launcher: str, count: int, *more: str, **variables: str) -> subprocess.Popen[str]:
    """A driver of its own, whose jobs are light."""
    command = [sys.executable, str(SUPPORT / "fleet_driver.py"), str(out), launcher, str(count), *more]
    log = out.with_suffix(".log").open("a")
    with log:
        variables = os.environ | VARIABLES | variables
        DRIVERS.append(subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log, text=True))
    return DRIVERS[-1]


def until_or_end(driver: subprocess.Popen[str], happened: Callable[[], object]) -> None:
    """Wait for something that a driver does; fail with its log if it ends before."""
    until(lambda: happened() or driver.poll() is not None)
    assert happened(), Path(str(driver.args[2])).with_suffix(".log").read_text()  # type: ignore[index]


def said(out: Path) -> str:
    return out.with_suffix(".log").read_text()


def done(path: Path) -> list[list[str]]:
    """Case, job and node of everything that was carried out to its end."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def batches(out: Path) -> Counter[int]:
    return Counter(row["batch"] for row in read(out))


@pytest.mark.slow
def test_local_jobs_outlive_their_driver_and_are_found_again(tmp_path: Path) -> None:
    """Killed, started again, interrupted, started again: every case once; the jobs of others are left alone."""
    out, log = tmp_path / "run.jsonl", tmp_path / "done"
    variables = {"CASES_DONE": str(log), "CONVBENCH_SCRATCH": str(tmp_path / "scratch"), "JOB_S": "1"}
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "another.order.json"])
    try:
        driver = drive(out, "local", 6, **variables)
        until_or_end(driver, lambda: len(done(log)) >= 1)
        driver.kill()
        driver.wait()
        state = json.loads((tmp_path / "run.jsonl.fleet" / "state.json").read_text())
        assert 1 <= len(state["jobs"]) <= len(os.sched_getaffinity(0))
        driver = drive(out, "local", 6, **variables)
        until_or_end(driver, lambda: len(done(log)) >= 4)
        driver.send_signal(signal.SIGINT)
        driver.wait()
        assert "interrupted" in said(out)
        assert not (tmp_path / "run.jsonl.fleet").exists()
        lines = [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
        assert [line for line in lines if "light_node" in line and str(tmp_path) in line] == []
        held = {row["case"] for row in read(out)}
        assert len(held) >= 2
        driver = drive(out, "local", 6, **variables)
        assert driver.wait() == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    finished = Counter(case for case, _, _ in done(log))
    run_page("eight-gpus.md", "local", tmp_path, **variables)
    assert batches(out) == Counter(range(1, 7))
    assert {row["place"]["launcher"] for row in read(out)} == {"local"}
    # Ctrl-C may end a job between its last line and its result: that one had no row, and was measured again.
    assert {case for case, times in finished.items() if times > 1} & held == set()


@pytest.mark.slow
def test_the_command_measures_through_local_jobs(tmp_path: Path) -> None:
    """Real workers; each job is bound to the cores of its slot."""
    out = tmp_path / "run.jsonl"
    line = "-m convbench throughput --model dico_s --res 64 --batch 1,2 --threads 1 --cap 0.05s --device cpu"
    command = [sys.executable, *line.split(), "--launcher", "local", "--out", str(out), "--format", "json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    rows = json.loads(ran.stdout)
    assert [(row["batch"], row["status"]) for row in rows] == [(1, "ok"), (2, "ok")]
    for row in rows:
        assert row["images_per_s_low"] <= row["images_per_s"] <= row["images_per_s_high"]
        assert tuple(row["place"]["cpus"]) in [tuple(sorted(slot.cpus)) for slot in core_slots(1)]
        assert row["place"]["job"].startswith("convbench-")
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".toml")] == ["run.jsonl"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.returncode, ran.returncode in (0, 4)) == (ran.returncode, True), again.stderr  # 4: a row is INVALID
    assert json.loads(again.stdout) == rows  # of the file, though jobs saw fewer cores than this process


def test_what_a_launcher_cannot_do_is_refused_in_one_line(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from convbench.cli import contents

    start = ["throughput", "--model", "dico_s", "--res", "64", "--device", "cpu"]
    out = ["--out", str(tmp_path / "x.jsonl")]
    for more, words in (
        (["--launcher", "local"], "--launcher local needs --out"),
        (["--on", "h100", *out], "--on needs --launcher slurm or ray"),
        (["--launcher", "local", "--on", "h100", *out], "has this machine only"),
        (["--launcher", "ray", "--batch", "max", *out], "--batch max is found on this machine"),
        (["--launcher", "ray", "--backend", "auto", *out], "--backend auto is found on this machine"),
        (["--launcher", "slurm", "--on", "h100;rm", *out], "a kind of node is letters"),
    ):
        ran = CliRunner().invoke(contents, [*start, *more])
        assert ran.exit_code != 0
        assert words in (ran.output + str(ran.exception))
    for line in ("pareto --model dico_digits --device cpu", "kernels bench"):
        for asked, words in (("--launcher local", "needs --out"), ("--on h100", "--on needs --launcher slurm or ray")):
            ran = CliRunner().invoke(contents, [*line.split(), *asked.split()])
            assert ran.exit_code != 0
            assert words in (ran.output + str(ran.exception))
    with pytest.raises(UsageError, match="cores would be shared; --threads"):
        Local(tmp_path, 4096, False)


@pytest.mark.slow
def test_each_model_and_seed_of_a_frontier_is_a_job(tmp_path: Path) -> None:
    """Real processes; their images are those of one process without a launcher."""
    out = tmp_path / "ways.jsonl"
    sampled = "--model dico_digits --images 20 --batch 20 --sampling steps=4"
    line = f"-m convbench pareto {sampled} --threads 1 --device cpu --format json"
    start = [sys.executable, *line.split()]
    launched = [*start, "--seed", "0,1", "--launcher", "local", "--out", str(out)]

    def rows(command: list[str]) -> list[dict[str, Any]]:
        ran = subprocess.run(command, cwd=ROOT, env=os.environ | VARIABLES, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        found: list[dict[str, Any]] = json.loads(ran.stdout)
        return found

    found = rows(launched)
    assert [(row["seed"], row["role"], row["images"]) for row in found] == [
        (seed, role, 20) for seed in (0, 1) for role in ("reference", "fewer steps")
    ]
    jobs = {row["place"]["job"]: row["seed"] for row in found}
    assert sorted(jobs.values()) == [0, 1]
    for row in found:
        assert tuple(row["place"]["cpus"]) in [tuple(sorted(slot.cpus)) for slot in core_slots(1)]
    assert not (tmp_path / "ways.jsonl.fleet").exists()
    assert rows(launched) == found  # from the file
    assert len(read(out)) == 4
    alone = rows([*start, "--seed", "1"])
    for here, there in zip(alone, found[2:], strict=True):
        assert here["case"] == there["case"]
        for key in ("recognised", "frechet", "drift"):
            assert here[key] == (None if there[key] is None else pytest.approx(there[key], rel=1e-6, abs=1e-9))


@pytest.mark.slow
def test_each_kernel_is_a_job_of_a_gpu(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes on SIMULATED GPUs: no number of them means anything."""
    monkeypatch.undo()  # this machine's own cores
    out, log = tmp_path / "kernels.jsonl", tmp_path / "jobs"
    line = "convbench kernels bench --kernel gate_residual,depthwise_7x7 --res 256 --batch 1,2 --format json"
    line += f" --launcher local --out {out}"
    variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CONVBENCH_SCRATCH": str(tmp_path / "scratch")}
    command = [sys.executable, str(SUPPORT / "fleet_driver.py"), "--line", line]
    asked = os.environ | VARIABLES | variables | {"CASES_DONE": str(log)}
    asked.pop("CUDA_VISIBLE_DEVICES", None)
    ran = subprocess.run(command, cwd=tmp_path, env=asked, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)
    assert {(row["kernel"], row["batch"], row["status"]) for row in rows} == {
        (kernel, batch, "ok") for kernel in ("gate_residual", "depthwise_7x7") for batch in (1, 2)
    }
    jobs = {(row["kernel"], row["place"]["job"], row["place"]["gpu"]) for row in rows}
    assert len(jobs) == len({gpu for *_, gpu in jobs}) == 2  # each kernel on a GPU of its own
    again = subprocess.run(command, cwd=tmp_path, env=asked, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == rows
    assert len(done(log)) == 2


@pytest.mark.slow
def test_a_node_that_is_really_slow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three nodes of one kind, one after the other on a core of this machine; the second runs a seventh of the time."""
    names, started = iter(("n1", "n2", "n3")), list[Local]()

    class Nodes(Local):
        elsewhere = True

        def submit(self, batch: str, orders: Sequence[Order]) -> list[str]:
            monkeypatch.setenv("CONVBENCH_NODE", next(names))
            return super().submit(batch, orders)

    def create(name: str, folder: Path, *_: Any, **__: Any) -> Nodes:
        made = Nodes(folder, 1, False)
        del made.slots[1:]
        started.append(made)
        return made

    def second() -> list[psutil.Process]:
        """The job of that node and its workers, once they have imported torch: that alone would take half a minute."""
        jobs = [job for job in psutil.Process().children() if job.environ().get("CONVBENCH_NODE") == "n2"]
        every = [each for job in jobs for each in (job, *job.children(recursive=True))]
        return [each for each in every if each.memory_info().rss > 200e6]

    monkeypatch.setattr(launchers, "create", create)
    monkeypatch.setenv("PYTHONPATH", VARIABLES["PYTHONPATH"])
    request = Request(["tiny:dico"], [64], [1, 2, 3], threads=1)
    with throttled(second):
        rows = list(cases(request, tmp_path / "run.jsonl", Settings(Limits(cap_s=0.05), launcher="ray")))
    for child in started[0].children.values():
        child.wait()  # its result was there before it had ended
    found = {str(row.place["node"]): row for row in rows}
    assert {name: row.status for name, row in found.items()} == {"n1": "ok", "n2": "ok", "n3": "ok"}
    print({name: (row.verdict, row.reason, row.to_json()["rates"]) for name, row in found.items()})
    assert re.search(r"NODE: node n2 is slow: \S.* at [0-9]+% of the rate of 2 other nodes", found["n2"].reason)
    assert found["n2"].verdict in ("SUSPECT", "INVALID")


@pytest.mark.slow
def test_submitits_local_executor_runs_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is submitted to Slurm, carried out by submitit's processes; a job meets a damaged copy of the weights."""
    import submitit

    jobs: dict[str, Any] = {}

    class OnThisMachine(Slurm):
        """submitit starts a process where Slurm would start a job, and says how it is in place of squeue."""

        def executor(self) -> Any:
            executor = submitit.LocalExecutor(folder=self.folder / "submitit")
            submit = executor.map_array

            def kept(*given: Any) -> list[Any]:
                made = submit(*given)
                jobs.update({str(job.job_id): job for job in made})
                return made

            executor.map_array = kept
            return executor

        def parameters(self, batch: str, order: Order) -> dict[str, Any]:
            return {"timeout_min": 5, "setup": super().parameters(batch, order)["setup"]}

        def states(self, batches: Sequence[str]) -> dict[str, tuple[str, str]]:
            return {id: ("COMPLETED" if job.done() else "RUNNING", "here") for id, job in jobs.items()}

    for name, value in (VARIABLES | {"CONVBENCH_SCRATCH": str(tmp_path / "scratch")}).items():
        monkeypatch.setenv(name, value)
    wanted = staged(tmp_path / "w.pt", os.urandom(2**10))
    (tmp_path / "scratch").mkdir(mode=0o700)
    (tmp_path / "scratch" / f"{wanted.sha256}.pt").write_bytes(b"damaged")
    monkeypatch.setattr(launchers, "create", lambda name, folder, *_, **__: OnThisMachine(folder, "light_node"))
    told: list[str] = []
    settings = Settings(Limits(timeout_s=60), launcher="slurm", say=told.append)
    request = Request(["dico_s"], [64], [1, 2, 3], threads=1, weights=str(tmp_path / "w.pt"))
    rows = list(cases(request, tmp_path / "run.jsonl", settings))
    for job in jobs.values():
        job._process.wait()  # submitit leaves it to Python, which would warn
    assert sorted((row.batch, row.status, row.place["launcher"]) for row in rows) == [
        (batch, "ok", "slurm") for batch in (1, 2, 3)
    ]
    assert len(jobs) == 4
    assert len(told) == 2
    assert "refused on node " in told[0]
    assert "w.pt has another content here: SHA-256 " in told[0]
    assert told[1].startswith("1 job lost and submitted again: ")
    assert not (tmp_path / "run.jsonl.fleet").exists()


@pytest.mark.slow
@pytest.mark.skipif(slurm_cluster.MISSING is not None, reason=slurm_cluster.MISSING or "")
def test_a_real_slurm_with_one_job_preempted_and_others_cancelled_by_name(tmp_path: Path) -> None:
    out, log = tmp_path / "run.jsonl", tmp_path / "done"
    with slurm_cluster.running(2) as cluster:
        variables = cluster.variables | {"CASES_DONE": str(log), "JOB_S": "3", "CONVBENCH_SCRATCH": str(tmp_path / "s")}
        driver = drive(out, "slurm", 5, **variables, SBATCH_PARTITION="low")

        def ours(state: str) -> list[list[str]]:
            return [job for job in cluster.jobs() if job[1].startswith("convbench-") and job[2] == state]

        until_or_end(driver, lambda: len(ours("RUNNING")) == 2)
        name = ours("RUNNING")[0][1]
        cluster.call("sbatch", "--job-name=convbench-00000000-1", "--hold", "--wrap=true")  # another run's
        cluster.call("scancel", "--name=convbench-00000000-1")
        first = ours("RUNNING")[0]
        cluster.call("sbatch", "--partition=high", "--job-name=urgent", f"--nodelist={first[3]}", "--wrap=sleep 1")
        assert driver.wait() == 0
        states = {job[0]: job[2] for job in cluster.jobs()}
        assert states[first[0]] in ("PREEMPTED", "CANCELLED")
        names = {job[1] for job in cluster.jobs() if job[1].startswith(name.rpartition("-")[0])}
        assert names == {name, f"{name.rpartition('-')[0]}-2"}  # the second submission: of the preempted case alone
        again = [job for job in cluster.jobs() if job[1].endswith("-2")]
        assert [(job[2], job[3] != first[3]) for job in again] == [("COMPLETED", True)]
        finished = Counter(case for case, _, _ in done(log))
        run_page("slurm.md", "slurm", tmp_path, **variables, SBATCH_PARTITION="low")

        cluster.call("sbatch", "--job-name=convbench-ffffffff-1", "--nodelist=n1", "--wrap=sleep 600")  # another run's
        more = tmp_path / "more.jsonl"
        driver = drive(more, "slurm", 3, **variables | {"JOB_S": "600"}, SBATCH_PARTITION="low")
        until_or_end(driver, lambda: len(ours("RUNNING")) == 2)
        driver.send_signal(signal.SIGINT)
        driver.wait()
        assert "interrupted" in said(more)
        assert [job[1] for job in cluster.jobs() if job[2] in ("RUNNING", "PENDING")] == ["convbench-ffffffff-1"]
    assert batches(out) == Counter(range(1, 6))
    assert max(finished.values()) == 1
    assert "submitted again, attempt 2 of 3" in said(out)
    assert {row["place"]["node"] for row in read(out)} == {"n1", "n2"}


CASES = 40


KEEPER_IS_LOST = """
import pathlib, ray
from convbench.run.launchers.job import Order
from convbench.run.launchers.ray_cluster import RayCluster
launcher = RayCluster(pathlib.Path("lost"))
ray.kill(launcher.keeper)
submitted = launcher.submit("batch", [Order("job", {}, 1, False, None, 60.0)])
print(submitted, launcher.find("batch", ["job", "other"]))
launcher.close(done=True)
"""


@pytest.mark.slow
def test_a_real_ray_cluster_that_loses_two_nodes_and_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven nodes: one has a slow calibration (SIMULATED), one another torch (SIMULATED), one a full scratch disk, one
    a damaged copy of the weights; two are killed while they measure. 40 cases, 40 rows."""
    from ray.cluster_utils import Cluster

    out, log, weights = tmp_path / "run.jsonl", tmp_path / "done", tmp_path / "w.pt"
    wanted = staged(weights, os.urandom(2**17))
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CASES_DONE", str(log))
    monkeypatch.setenv("JOB_S", "0.5")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    small = {"object_store_memory": 80 * 2**20}
    (tmp_path / "n2").mkdir()
    (tmp_path / "n3").mkdir()
    (tmp_path / "n3" / f"{wanted.sha256}.pt").write_bytes(b"damaged")
    full = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path / "n2"], check=False).returncode
        == 0
    )
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        kinds = [{"RATE": "5e10"}, {"TORCH": "2.12.0"}, {}, {}, {}, {}, {}]
        nodes = [
            cluster.add_node(num_cpus=1, env_vars={"CONVBENCH_SCRATCH": str(tmp_path / f"n{n}"), **kind}, **small)
            for n, kind in enumerate(kinds)
        ]
        names = [node.node_id[:8] for node in nodes]
        driver = drive(out, "ray", CASES, str(weights), RAY_ADDRESS=cluster.address)
        until_or_end(driver, lambda: len(done(log)) >= 8)
        driver.kill()  # its jobs go on
        driver.wait()
        count = len(done(log))
        until(lambda: len(done(log)) >= count + 6)
        driver = drive(out, "ray", CASES, str(weights), RAY_ADDRESS=cluster.address)
        until_or_end(driver, lambda: "found " in said(out))
        for node in nodes[5:]:
            for each in node.all_processes["raylet"]:
                os.kill(each.process.pid, signal.SIGKILL)
        assert driver.wait() == 0
        carried_out = done(log)
        run_page("ray.md", "ray", tmp_path, RAY_ADDRESS=cluster.address)
        variables = {**os.environ, **VARIABLES, "RAY_ADDRESS": cluster.address}
        lost = subprocess.run(
            [sys.executable, "-c", KEEPER_IS_LOST], check=False, env=variables, text=True, capture_output=True
        )
        assert lost.stdout == "['job'] {'job': 'job'}\n", lost.stderr
    finally:
        cluster.shutdown()
        if full:
            subprocess.run(["umount", "--lazy", tmp_path / "n2"], check=False)
    text, rows = said(out), read(out)
    assert batches(out) == Counter(range(1, CASES + 1))
    assert not (tmp_path / "run.jsonl.fleet").exists()
    by_node: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_node.setdefault(row["place"]["node"].rpartition("-")[2], []).append(row)
    verdicts = {name: {row["verdict"] for row in found} for name, found in by_node.items()}
    assert verdicts.pop(names[0]) == {"SUSPECT"}
    assert verdicts.pop(names[1]) == {"SUSPECT"}
    assert set(map(frozenset, verdicts.values())) == {frozenset({"VALID"})}
    assert all("is slow: matrix products at 50% of the rate" in row["reason"] for row in by_node[names[0]])
    assert all("has torch 2.12.0, " in row["reason"] for row in by_node[names[1]])
    assert "w.pt has another content here" in text
    assert ("the scratch disk is full" in text) == full
    assert "lost and submitted again: " in text
    # A case is carried out again only where its node took the result with it.
    finished = Counter(case for case, _, _ in carried_out)
    killed = {case for case, _, node in carried_out if node.endswith((names[5], names[6]))}
    assert {case for case, times in finished.items() if times > 1} <= killed


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_missing_package_says_what_to_install(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"slurm": "submitit", "ray": "ray"}[name], None)
    with pytest.raises(UsageError, match=rf"--launcher {name} needs .*: pip install 'convbench\[fleet\]'"):
        create(name, tmp_path, 1, False)
