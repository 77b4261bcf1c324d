"""Jobs of a launched run: lost ones are submitted again, none is doubled or lost, and nodes are held against peers.

The launcher is made up and answers at once; test_launchers.py has the real ones.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from convbench.errors import UsageError
from convbench.run import fleet, peers
from convbench.run.cases import unmeasured
from convbench.run.jobs import USED_UP, Limits, open_results
from convbench.run.launchers.job import JobState, Order
from convbench.schema import Case, CaseRow, KernelTiming, Measurement, QualityRow, Row
from convbench.store import append, read

Answer = Callable[[int, str], JobState | dict[str, Any] | None]
"""What a job does, by its attempt and node: a state, a result, or None while it runs."""


def case(batch: int) -> Case:
    return Case("dico_s", 64, batch, threads=1)


def row(batch: int, **known: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"verdict": "VALID", "images_per_s": 1.0, "images_per_s_low": 1.0, "images_per_s_high": 1.0}
    return Measurement.of(case(batch), **(given | known)).to_json()


def result(batch: int, node: str = "n1", **known: Any) -> dict[str, Any]:
    return {"rows": [row(batch, **known)], "place": {"node": node, "host": "h", "job": "j"}}


@dataclass
class Scripted:
    """A launcher that answers from a script, by batch size; notes what was asked of it."""

    folder: Path
    script: dict[int, Sequence[Any]]  # what each attempt at a case gives: a JobState, a result, an exception, or None
    name: str = "scripted"
    poll_s: float = 0.0
    elsewhere: bool = True
    orders: list[Order] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    polls: int = 0

    def free(self) -> int:
        return 99

    def submit(self, batch: str, orders: Sequence[Order]) -> list[str]:
        self.orders += orders
        return [f"handle-{order.name}" for order in orders]

    def find(self, batch: str, jobs: Sequence[str]) -> dict[str, str]:
        return {job: self.known[job] for job in jobs if job in self.known}

    def poll(self, handles: Mapping[str, str]) -> dict[str, JobState]:
        self.polls += 1
        return {job: self._answer(job) for job in handles}

    def _answer(self, job: str) -> JobState:
        order = next(order for order in self.orders if order.name == job)
        batch = order.content["cases"][0]["batch"]
        attempt = [each.name for each in self.orders if each.content == order.content].index(job)
        said = self.script[batch][attempt]
        if isinstance(said, Killed):
            raise said
        if said is None:
            return JobState("running", "n1")
        return said if isinstance(said, JobState) else JobState("ended", result=json.dumps(said))

    def cancel(self, handles: Mapping[str, str]) -> None:
        self.cancelled += handles

    def close(self, done: bool) -> None:
        pass


def task(batch: int, limit_s: float = 60) -> fleet.Task:
    content = {"cases": [{"batch": batch}]}
    return fleet.Task(
        ((case(batch).id, None),),
        Order("", content, 1, False, None, limit_s),
        lambda status, reason: [unmeasured(case(batch), status, reason)],
    )


@dataclass
class Ran:
    """A run, and what it said."""

    launcher: Scripted
    rows: list[Any]
    said: list[str]


def run(
    tmp_path: Path, script: dict[int, Sequence[Any]], limits: Limits | None = None, launcher: Scripted | None = None
) -> Ran:
    out = tmp_path / "run.jsonl"
    used = launcher or Scripted(fleet.folder_of(out), script)
    said: list[str] = []
    made = fleet.Fleet(
        used,
        fleet.folder_of(out),
        [task(batch) for batch in script],
        open_results(out, anywhere=True),
        limits or Limits(),
        lambda *_: None,
        said.append,
    )
    return Ran(used, list(made.rows()), said)


LOST = JobState("ended", "n7", "NODE_FAIL")


def test_a_lost_case_is_submitted_again_on_another_node(tmp_path: Path) -> None:
    ran = run(tmp_path, {1: [LOST, result(1)], 2: [result(2)]})
    assert sorted(each.batch for each in ran.rows) == [1, 2]
    assert {each.status for each in ran.rows} == {"ok"}
    first, again = (order for order in ran.launcher.orders if order.content["cases"][0]["batch"] == 1)
    assert (first.avoid, again.avoid) == ((), ("n7",))
    assert first.name != again.name
    assert ran.said == [
        f"{case(1).id}: lost on node n7 after 0 s: NODE_FAIL; submitted again, attempt 2 of 3",
        "1 job lost and submitted again: 0 s of work lost",
    ]
    assert not fleet.folder_of(tmp_path / "run.jsonl").exists()


def test_a_case_that_is_lost_every_time_becomes_a_failed_row(tmp_path: Path) -> None:
    ran = run(tmp_path, {1: [LOST, LOST, LOST], 2: [result(2)]})
    by_batch = {each.batch: each for each in ran.rows}
    assert (by_batch[1].status, by_batch[1].reason) == ("failed", "lost on node n7 (3 times): NODE_FAIL")
    assert by_batch[2].status == "ok"
    assert len(ran.launcher.orders) == 4
    assert [each["batch"] for each in read(tmp_path / "run.jsonl")].count(1) == 1


@pytest.mark.parametrize(
    "why", ["the scratch disk is full: /x has 0 bytes free", "w.pt has another content here: SHA-256 0…, not 1…"]
)
def test_a_node_that_refuses_is_one_line_and_the_sweep_goes_on(why: str, tmp_path: Path) -> None:
    refused = {"refused": why, "place": {"node": "bad"}}
    ran = run(tmp_path, {1: [refused, result(1)], 2: [result(2)]})
    assert {each.status for each in ran.rows} == {"ok"}
    assert ran.said[0] == f"{case(1).id}: refused on node bad after 0 s: {why}; submitted again, attempt 2 of 3"
    assert ran.launcher.orders[-1].avoid == ("bad",)


def test_on_one_machine_a_refusal_is_final(tmp_path: Path) -> None:
    launcher = Scripted(tmp_path / "run.jsonl.fleet", {1: [{"refused": "full"}]}, elsewhere=False)
    ran = run(tmp_path, launcher.script, launcher=launcher)
    assert [(each.status, each.reason) for each in ran.rows] == [("failed", "refused: full")]


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        ([1], "not a result of a job"),
        ({"rows": [{"kind": "kernel"}], "place": {}}, "a row of an unknown kind"),
        ({"rows": [row(1) | {"images_per_s": -1.0}], "place": {}}, "a row has images_per_s -1.0, not above 0"),
        ({"rows": [row(9)], "place": {}}, f"no row of {case(1).id}"),
        ({"rows": [{key: value for key, value in row(1).items() if key != "model"}], "place": {}}, "'model'"),
    ],
)
def test_a_result_is_checked_before_it_is_used(damaged: Any, why: str, tmp_path: Path) -> None:
    ran = run(tmp_path, {1: [damaged, result(1)]})
    assert [each.status for each in ran.rows] == ["ok"]
    assert "its result cannot be read: " in ran.said[0]
    assert why in ran.said[0]


def test_rows_of_other_cases_are_left_out(tmp_path: Path) -> None:
    both = result(1)
    both["rows"].append(row(9))
    ran = run(tmp_path, {1: [both]})
    assert [each.batch for each in ran.rows] == [1]


def test_a_job_may_give_more_rows_than_were_asked_for(tmp_path: Path) -> None:
    """As of a frontier, whose plain ways follow from times; of the kind and the job that the task says."""
    given = result(1)
    given["rows"] += [row(7), row(9)]
    launcher = Scripted(tmp_path / "run.jsonl.fleet", {1: [given]})
    one = replace(task(1), further=lambda each: getattr(each, "batch", None) == 7)
    results = open_results(tmp_path / "run.jsonl", anywhere=True)
    rows = fleet.Fleet(launcher, launcher.folder, [one], results, Limits(), lambda *_: None, print).rows()
    assert [each.case for each in rows] == [case(1).id, case(7).id]
    assert [each["batch"] for each in read(tmp_path / "run.jsonl")] == [1, 7]


def test_a_job_without_rows_for_a_failure_says_so_and_is_run_again(tmp_path: Path) -> None:
    launcher = Scripted(tmp_path / "run.jsonl.fleet", {1: [{"refused": "no such engine"}]}, elsewhere=False)
    one = replace(task(1), without=lambda status, reason: (), kind=QualityRow)
    said: list[str] = []
    results = open_results(tmp_path / "run.jsonl", anywhere=True)
    made = fleet.Fleet(launcher, launcher.folder, [one], results, Limits(), lambda *_: None, said.append)
    assert list(made.rows()) == []
    assert said == [f"{case(1).id}: refused after 0 s: no such engine"]
    assert os.listdir(tmp_path) == []


def test_rows_that_the_budget_of_a_job_did_not_reach_are_not_stored(tmp_path: Path) -> None:
    given = result(1, status="skipped", reason=USED_UP, verdict=None)
    ran = run(tmp_path, {1: [given]})
    assert [(each.status, each.reason) for each in ran.rows] == [("skipped", USED_UP)]
    assert not (tmp_path / "run.jsonl").exists()


def test_ctrl_c_cancels_its_own_jobs_and_keeps_what_came_back(tmp_path: Path) -> None:
    script: dict[int, Sequence[Any]] = {1: [result(1)], 2: [None]}
    launcher = Scripted(tmp_path / "run.jsonl.fleet", script)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, script, launcher=_interrupting(launcher, after=2))
    assert launcher.cancelled == [order.name for order in launcher.orders if order.content["cases"][0]["batch"] == 2]
    assert [each["batch"] for each in read(tmp_path / "run.jsonl")] == [1]
    assert not (tmp_path / "run.jsonl.fleet").exists()


def _interrupting(launcher: Scripted, after: int) -> Scripted:
    poll = launcher.poll

    def interrupted(handles: Mapping[str, str]) -> dict[str, JobState]:
        if launcher.polls == after:
            launcher.polls += 1
            raise KeyboardInterrupt
        return poll(handles)

    launcher.poll = interrupted  # type: ignore[method-assign]
    return launcher


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the driver runs after it."""


@pytest.mark.parametrize("when", ["before it was submitted", "while it was submitted", "after it was submitted"])
def test_a_killed_driver_finds_its_jobs(when: str, tmp_path: Path) -> None:
    script: dict[int, Sequence[Any]] = {1: [result(1), result(1)], 2: [result(2), result(2)]}
    launcher = Scripted(tmp_path / "run.jsonl.fleet", script)
    submit, poll = launcher.submit, launcher.poll

    def killed(*arguments: Any) -> Any:
        if when == "while it was submitted":
            launcher.known = dict.fromkeys((order.name for order in arguments[1]), "found")
            submit(*arguments)
        raise Killed

    setattr(launcher, "poll" if when == "after it was submitted" else "submit", killed)
    with pytest.raises(Killed):
        run(tmp_path, script, launcher=launcher)
    assert json.loads((launcher.folder / "state.json").read_text())["launcher"] == "scripted"
    launcher.submit, launcher.poll = submit, poll  # type: ignore[method-assign]

    ran = run(tmp_path, script, launcher=launcher)
    assert sorted(each.batch for each in ran.rows) == [1, 2]
    assert len(launcher.orders) == 2  # nothing was measured twice
    assert len(read(tmp_path / "run.jsonl")) == 2


def test_results_that_had_come_back_before_the_kill_are_kept(tmp_path: Path) -> None:
    """Rows wait for the peers of their nodes; a driver that is killed meanwhile measures none of them again."""
    script: dict[int, Sequence[Any]] = {1: [result(1)], 2: [None, result(2)]}
    launcher = Scripted(tmp_path / "run.jsonl.fleet", script)
    poll = launcher.poll

    def killed(handles: Mapping[str, str]) -> dict[str, JobState]:
        if launcher.polls == 3:
            raise Killed
        return poll(handles)

    launcher.poll = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run(tmp_path, script, launcher=launcher)
    assert not (tmp_path / "run.jsonl").exists()
    launcher.poll = poll  # type: ignore[method-assign]
    script[2] = [result(2)]
    ran = run(tmp_path, script, launcher=launcher)
    assert sorted(each.batch for each in ran.rows) == [1, 2]
    assert len(launcher.orders) == 2
    assert ran.said == ["found 1 job of the run that was ended"]


def test_jobs_of_another_command_are_not_taken_over(tmp_path: Path) -> None:
    launcher = Scripted(tmp_path / "run.jsonl.fleet", {1: [Killed()]})
    with pytest.raises(Killed):
        run(tmp_path, launcher.script, launcher=launcher)
    with pytest.raises(UsageError, match="holds 1 job of a command with other options"):
        run(tmp_path, {2: [result(2)]})


def state(**job: Any) -> str:
    name = "convbench-00000000-1"
    running = {"task": case(1).id, "name": f"{name}-0", "batch": name, "attempt": 1, "handle": "7"} | job
    return json.dumps({"run": "00000000", "launcher": "scripted", "jobs": [running]})


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"run": 1}', '{"run": "00000000", "launcher": "scripted"}'),
        state(task=1),
        state(name="../../x-0", batch="../../x"),
        state(batch="convbench-00000000-2"),
        state(handle="--user=root"),
    ],
)
def test_a_damaged_state_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    """Names in it become paths, and handles arguments of other programs."""
    folder = tmp_path / "run.jsonl.fleet"
    folder.mkdir()
    (folder / "state.json").write_text(text)
    with pytest.raises(UsageError, match=r"state\.json"):
        run(tmp_path, {1: [result(1)]})


def test_two_drivers_do_not_share_a_run(tmp_path: Path) -> None:
    launcher = Scripted(tmp_path / "run.jsonl.fleet", {1: [result(1)]})

    def second(handles: Mapping[str, str]) -> dict[str, JobState]:
        with pytest.raises(UsageError, match="another convbench is running"):
            run(tmp_path, {1: [result(1)]})
        raise Killed

    launcher.poll = second  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run(tmp_path, launcher.script, launcher=launcher)


def test_the_budget_cancels_what_runs_and_stores_nothing_of_it(tmp_path: Path) -> None:
    ran = run(tmp_path, {1: [None]}, Limits(budget_s=0.05))
    assert [(each.status, each.reason) for each in ran.rows] == [("skipped", USED_UP)]
    assert ran.launcher.cancelled == [ran.launcher.orders[0].name]
    assert not (tmp_path / "run.jsonl").exists()


def test_a_submission_that_the_scheduler_refuses_leaves_nothing(tmp_path: Path) -> None:
    launcher = Scripted(tmp_path / "run.jsonl.fleet", {1: [result(1)]})

    def refused(*_: Any) -> Any:
        raise UsageError("sbatch refused the jobs: invalid partition")

    launcher.submit = refused  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="invalid partition"):
        run(tmp_path, launcher.script, launcher=launcher)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("seen", "place", "changed"),
    [
        ({"cores": 1, "gpus": [{"name": "b"}]}, {"launcher": "local"}, None),
        ({"cores": 1, "gpus": [{"name": "b"}]}, {}, "cores: 1 and 8"),
        ({"cores": 1, "gpus": [{"name": "c"}]}, {"launcher": "local"}, "gpus: "),
        ({"cores": 1, "gpus": [{"name": "b"}], "torch": "1"}, {"launcher": "local"}, "torch: 1 and 2"),
    ],
)
def test_a_job_saw_only_its_own_part_of_this_machine(
    seen: dict[str, Any], place: dict[str, Any], changed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of a launcher on this machine is resumed although its jobs had one core and one GPU each."""
    here = {"cores": 8, "gpus": [{"name": "a"}, {"name": "b"}], "torch": "2"}
    monkeypatch.setattr("convbench.run.survey.conditions", lambda: here)
    append(tmp_path / "run.jsonl", Measurement.of(case(1), environment={"torch": "2"} | seen, place=place))
    if changed is None:
        assert len(open_results(tmp_path / "run.jsonl").rows) == 1
    else:
        with pytest.raises(UsageError, match=f"measured under different conditions \\({changed}"):
            open_results(tmp_path / "run.jsonl")


# Nodes against their peers


def on_node(batch: int, node: str, rate: float, noise: float = 0.05, **environment: Any) -> dict[str, Any]:
    known = {"cpu": "c", "torch": "2.13.0", "python": "3.11.7"} | environment
    rates = {"matmul_flops_per_s": rate, "copy_bytes_per_s": 1e10}
    return result(batch, node, rates=rates, smallest_difference=noise, environment=known)


@pytest.mark.parametrize(("rate", "noise", "slow"), [(0.8e11, 0.05, True), (0.8e11, 0.3, False), (0.97e11, 0.0, False)])
def test_a_slow_node_is_named_and_its_rows_are_suspect(rate: float, noise: float, slow: bool, tmp_path: Path) -> None:
    ran = run(
        tmp_path,
        {
            1: [on_node(1, "n1", 1e11)],
            2: [on_node(2, "n2", rate, noise)],
            3: [on_node(3, "n3", 1.02e11)],
            4: [on_node(4, "n2", rate, noise)],
        },
    )
    verdicts = {each.batch: each.verdict for each in ran.rows}
    assert (
        verdicts == {1: "VALID", 2: "SUSPECT", 3: "VALID", 4: "SUSPECT"}
        if slow
        else dict.fromkeys(range(1, 5), "VALID")
    )
    if slow:
        reason = next(each.reason for each in ran.rows if each.batch == 2)
        assert (
            reason == "NODE: node n2 is slow: matrix products at 79% of the rate of 2 other nodes, with a noise of 5%"
        )
        assert next(each for each in read(tmp_path / "run.jsonl") if each["batch"] == 2)["verdict"] == "SUSPECT"


def test_other_versions_are_a_finding_of_the_node_that_has_them(tmp_path: Path) -> None:
    ran = run(
        tmp_path,
        {
            1: [on_node(1, "n1", 1e11)],
            2: [on_node(2, "n2", 1e11, torch="2.12.0", python="3.12.1")],
            3: [on_node(3, "n3", 1e11)],
            4: [on_node(4, "n3", 1e11, telemetry={"driver": "1"})],
        },
    )
    reasons = {each.batch: each.reason for each in ran.rows}
    assert reasons[2] == "VERS: node n2 has torch 2.12.0, 2 others 2.13.0 and python 3.12.1, 2 others 3.11.7"
    assert (reasons[1], reasons[3]) == ("", "")


def kernel_row(node: str, copy: float, **known: Any) -> Row:
    shape = {"where": "", "model": "dic_xl", "res": 256, "level": 1, "channels": 1, "out_channels": None, "flops": 1}
    shape |= {"height": 1, "width": 1, "batch": 1, "precision": "bf16", "min_bytes": 1, "gpu": "g", "triton": "3.6.0"}
    made = {"case": node, "kernel": "k", "copy_bytes_per_s": copy, "torch": "2.13.0", "place": {"node": node}}
    return KernelTiming(**shape | made | known)


def test_nodes_of_kernels_are_held_against_each_other_by_their_copies() -> None:
    rows = [kernel_row("n1", 4e12), kernel_row("n2", 2e12), kernel_row("n3", 4e12, triton="3.5.0")]
    assert [bool(peers.slow_node(each, rows)) for each in rows] == [False, True, False]
    assert peers.slow_node(kernel_row("n2", 2e12, gpu="another"), rows) is None
    found = [peers.other_versions(each, rows) for each in rows]
    assert [str(each) for each in found if each] == ["VERS: node n3 has triton 3.5.0, 2 others 3.6.0"]


def test_only_nodes_of_one_kind_are_peers() -> None:
    def made(batch: int, node: str, rate: float, **known: Any) -> CaseRow:
        place, environment = {"node": node}, {"cpu": known.pop("cpu", "c")}
        return Measurement.of(
            case(batch), rates={"matmul_flops_per_s": rate}, place=place, environment=environment, **known
        )

    other = [made(1, "n1", 1e11, cpu="faster"), made(2, "n2", 1e11, cpu="faster")]
    assert peers.slow_node(made(3, "n3", 0.5e11), other) is None
    assert peers.slow_node(made(3, "n3", 0.5e11, cpu="faster"), [*other, made(3, "n3", 0.5e11, cpu="faster")])
    assert not peers.can_judge(other[0], other)
    assert peers.can_judge(other[0], [*other, made(3, "n3", 1e11, cpu="faster")])
