#!/usr/bin/env python3
"""Change a line of the program at random, a hundred and fifty times: do its tests notice?

    make mutants                    the seeded sample of scripts/mutants.toml, with cosmic-ray
    make mutants ARGS="--only output.py,timing.py --again"
    make mutants ARGS=--by-hand     the faults of scripts/mutants_by_hand.toml, one after the other: minutes

Works on a copy in build/mutants; a run that was stopped goes on where it was. Prints how many mutants were killed and
the change of every survivor: docs/mutants.md has both, and why each survivor may live. Takes ten minutes to an hour.

    --only PARTS  the modules whose path contains one of these, a comma list
    --again       judge the survivors of an earlier run again, with the tests of now
    --report      print what is known and run nothing
    --seed N      another sample than that of scripts/mutants.toml
    --by-hand     put in the faults that are listed, and name the test that notices; ends with 1 where none does
"""

import argparse
import random
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "mutants"
TREE = WORK / "tree"
BY_HAND = ROOT / "scripts" / "mutants_by_hand.toml"
ASKED: dict[str, Any] = tomllib.loads((ROOT / "scripts" / "mutants.toml").read_text("utf-8"))
MODULES: dict[str, str] = ASKED["modules"]
TOOL = Path(sys.executable).with_name("cosmic-ray")
QUICK, SLOW = "not gpu and not slow", "slow and not gpu"
NO_TEST = 5  # pytest's exit code where it selected none
SKIPPED = WorkResult(output="not in the sample", worker_outcome=WorkerOutcome.SKIPPED)


def main() -> None:
    """Sample, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=str(ROOT / ".venv" / "bin" / "python"), help="runs the tests")
    parser.add_argument("--only", default="")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--seed", type=int, default=ASKED["seed"])
    parser.add_argument("--by-hand", action="store_true")
    asked = parser.parse_args()
    if asked.by_hand:
        copy_tree()
        sys.exit(put_in_by_hand(asked.python, asked.only.split(",")))
    modules = [module for module in MODULES if any(part in module for part in asked.only.split(","))]
    if not asked.report:
        if (seed := WORK / "seed").exists() and seed.read_text() != str(asked.seed):
            shutil.rmtree(WORK)
        copy_tree()
        seed.write_text(str(asked.seed))
        sessions = {module: session(module, asked.python) for module in MODULES}
        for module, count in sample_sizes(sessions).items():
            if module in modules:
                keep_sample(module, sessions[module], count, asked.seed)
                run(module, sessions[module], again=asked.again)
    print(report(modules))


def copy_tree() -> None:
    """Copy what is under version control, with its links: cosmic-ray changes files in place."""
    shutil.rmtree(TREE, ignore_errors=True)
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.rstrip("\0").split("\0"):
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, TREE / name, follow_symlinks=False)


def session(module: str, python: str) -> Path:
    """The session of a module with all its mutants; a new one where the module has changed since."""
    folder = WORK / module.replace("/", ".")
    held, source = folder / "source.py", (ROOT / module).read_text("utf-8")
    if not held.exists() or held.read_text("utf-8") != source:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    command = f"{python} -m pytest -q -x -p no:cacheprovider -m 'not gpu and not slow' {MODULES[module]}"
    (folder / "config.toml").write_text(
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {ASKED["timeout_s"]}\nexcluded-modules = []\n'
        f'test-command = """{command}"""\n\n[cosmic-ray.distributor]\nname = "local"\n',
        "utf-8",
    )
    if not held.exists():
        tool("init", folder)
        held.write_text(source, "utf-8")
    return folder


def tool(command: str, folder: Path) -> None:
    """Run a command of cosmic-ray on a session, in the copy."""
    subprocess.run([TOOL, command, folder / "config.toml", folder / "session.sqlite"], cwd=TREE, check=True)


def mutants(folder: Path) -> list[WorkItem]:
    """The mutants of a session that are asked for, always in the same order."""
    wanted = {f"core/{name}" for name in ASKED["operators"]}
    with use_db(folder / "session.sqlite", WorkDB.Mode.open) as db:
        items = [item for item in db.work_items if item.mutations[0].operator_name in wanted]
    return sorted(items, key=lambda item: (item.mutations[0].operator_name, item.mutations[0].occurrence))


def sample_sizes(sessions: dict[str, Path]) -> dict[str, int]:
    """How many mutants of each module are run."""
    counts = {module: len(mutants(folder)) for module, folder in sessions.items()}
    share = ASKED["sample"] / sum(counts.values())
    return {module: min(count, max(ASKED["least"], round(count * share))) for module, count in counts.items()}


def keep_sample(module: str, folder: Path, count: int, seed: int) -> None:
    """Mark every other mutant as skipped."""
    chosen = random.Random(f"{seed} {module}").sample(mutants(folder), count)
    kept = {item.job_id for item in chosen}
    with use_db(folder / "session.sqlite", WorkDB.Mode.open) as db:
        db.set_multiple_results([item.job_id for item in db.pending_work_items if item.job_id not in kept], SKIPPED)


def run(module: str, folder: Path, again: bool) -> None:
    """Judge what has no result yet; the tests must pass on the module as it is."""
    if again:
        forget_survivors(folder)
    with use_db(folder / "session.sqlite", WorkDB.Mode.open) as db:
        waiting = len(db.pending_work_items)
    print(f"{module}: {waiting} to run", flush=True)
    if waiting:
        subprocess.run([TOOL, "baseline", folder / "config.toml"], cwd=TREE, check=True)
        tool("exec", folder)


def forget_survivors(folder: Path) -> None:
    """Make the survivors pending again; the store of cosmic-ray can only add results."""
    import sqlite3

    with sqlite3.connect(folder / "session.sqlite") as db:
        db.execute("DELETE FROM work_results WHERE test_outcome = 'SURVIVED'")


def put_in_by_hand(python: str, parts: Sequence[str]) -> int:
    """Judge the listed faults; print a row for each, and return 1 if one survives. Their tests must pass without."""
    faults = tomllib.loads(BY_HAND.read_text("utf-8"))["fault"]
    faults = [fault for fault in faults if any(part in fault["file"] or part in fault["says"] for part in parts)]
    for tests in dict.fromkeys(fault["tests"] for fault in faults):
        code, found = judge(python, tests, QUICK)
        if code:
            sys.exit(f"{tests} fail as they are: {found}")
    print("| fault | noticed by |\n| --- | --- |")
    survived = 0
    for fault in faults:
        file = TREE / fault["file"]
        source = file.read_text("utf-8")
        if source.count(fault["old"]) != 1:
            sys.exit(f"{fault['file']} has {source.count(fault['old'])} times: {fault['old']}")
        file.write_text(source.replace(fault["old"], fault["new"]), "utf-8")
        try:
            code, found = judge(python, fault["tests"], QUICK)
            if code == 0:
                code, found = judge(python, fault["tests"], SLOW)
        finally:
            file.write_text(source, "utf-8")
        if code not in (0, 1, NO_TEST):
            sys.exit(f"{fault['says']}: the tests could not run: {found}")
        survived += code != 1
        print(f"| {fault['says']} | {found if code == 1 else '**nothing**'} |", flush=True)
    return int(survived > 0)


def judge(python: str, tests: str, marks: str) -> tuple[int, str]:
    """Run tests in the copy up to the first that fails. -> pytest's exit code, and which failed or the last line"""
    command = [python, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", marks]
    command += shlex.split(tests)
    ran = subprocess.run(command, cwd=TREE, capture_output=True, text=True, check=False)
    lines = ran.stdout.splitlines() or [ran.stderr]
    failed = [line.split()[1] for line in lines if line.startswith(("FAILED", "ERROR"))]
    return ran.returncode, f"`{failed[0].partition('[')[0]}`" if failed else lines[-1]


def report(modules: Sequence[str]) -> str:
    """The table of the figures, and the change of each survivor."""
    lines = ["| module | mutants | run | killed |", "| --- | --- | --- | --- |"]
    totals, changes = [0, 0, 0], []
    for module in modules:
        folder = WORK / module.replace("/", ".")
        with use_db(folder / "session.sqlite", WorkDB.Mode.open) as db:
            found = [result for _, result in db.completed_work_items if result.worker_outcome != WorkerOutcome.SKIPPED]
        alive = [result for result in found if result.test_outcome == TestOutcome.SURVIVED]
        row = [len(mutants(folder)), len(found), len(found) - len(alive)]
        totals = [total + number for total, number in zip(totals, row, strict=True)]
        lines.append(f"| `{module}` | {row[0]} | {row[1]} | {row[2]} |")
        changes += [result.diff for result in alive]
    lines.append(f"| all | {totals[0]} | {totals[1]} | {totals[2]}, {totals[2] / max(1, totals[1]):.1%} |")
    return "\n".join(["", *lines, "", *changes])


if __name__ == "__main__":
    main()
