"""Result files: what is written is read, whole lines only, whatever happens to the writer."""

import fcntl
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from contract import THROUGHPUT_KEYS

import convbench
from convbench.errors import UsageError
from convbench.schema import Case, Measurement
from convbench.schema.upgrade import SCHEMA
from convbench.store import Results, append, changed_conditions, load, read, require_writable, rows_of

ROOT = Path(__file__).parents[2]


def row(number: int = 1, **known: Any) -> Measurement:
    case = Case("dico_s", 64, number, threads=1)
    known = {"status": "ok", "verdict": "VALID", "images_per_s": 100.0 / number, "block_s": [0.01, 0.02]} | known
    return Measurement.of(case, **known)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def run_python(program: str, *args: object, **settings: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def test_round_trip(file: Path) -> None:
    rows = [row(1), row(2, reason='a "quoted", comma', images_per_s=None), row(3, environment={"cpu": "Größe ×3"})]
    for each in rows:
        append(file, each)
    assert read(file) == [{"schema": SCHEMA, **each.to_json()} for each in rows]
    assert rows_of(file) == rows
    assert file.read_bytes().count(b"\n") == 3


def test_the_latest_row_of_a_case_is_found(file: Path) -> None:
    held = Results(file)
    assert held.find(("nothing", None)) is None
    first, other, again = row(1), row(2), row(1, reason="again")
    for each in (first, other, again):
        assert held.add(each) is each
    assert held.find((first.case, None)) is again and held.find((other.case, None)) is other
    assert held.find((first.case, "x")) is None and held.find(("nothing", None)) is None
    compared = held.add(row(1, compared_with="x"))
    assert held.find((first.case, "x")) is compared
    assert Results(file).find((first.case, "x")) == compared


def test_each_line_is_json_by_itself(file: Path) -> None:
    append(file, row(1))
    append(file, row(2))
    assert [json.loads(line)["case"] for line in file.read_text("utf-8").splitlines()] == [
        "dico_s/64px/b1/eager/fp32/cpu/1threads",
        "dico_s/64px/b2/eager/fp32/cpu/1threads",
    ]


def test_a_number_that_json_lacks_is_refused_and_leaves_no_trace(file: Path) -> None:
    append(file, row(1))
    before = file.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        append(file, row(2, images_per_s=math.nan))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "torn", [b"{", b'{"sche', b'{"schema": 1, "case": "dico_s/64px/b9', b'{"schema": 1, "case": "x"}']
)
def test_a_torn_last_line_is_ignored_and_then_cut_off(file: Path, torn: bytes) -> None:
    append(file, row(1))
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    assert [each["batch"] for each in read(file)] == [1]
    append(file, row(2))
    assert [each["batch"] for each in read(file)] == [1, 2]
    assert file.read_bytes().startswith(whole)
    assert torn not in file.read_bytes()[len(whole) :].splitlines()


def test_a_torn_only_line_is_cut_off(file: Path) -> None:
    file.write_bytes(b'{"schema": 1, "ca')
    assert read(file) == []
    append(file, row(1))
    assert [each["batch"] for each in read(file)] == [1]


def test_a_long_torn_line_is_cut_off(file: Path) -> None:
    append(file, row(1))
    file.write_bytes(file.read_bytes() + b'{"schema": 1, "block_s": [' + b"0.1," * 100_000)
    append(file, row(2))
    assert [each["batch"] for each in read(file)] == [1, 2]


NOT_OURS = {
    "text": (b"hello\nworld\n", "line 1 is not JSON: not a result file of convbench"),
    "text without line break": (b"hello", "ends in something else than a measurement: not a result file of convbench"),
    "json of others": (b'{"case": 1}\n', "line 1 is not a measurement: not a result file of convbench"),
    "json of others on one line": (b'{"hello": 1}', "ends in something else than a measurement"),
    "a json list": (b"[1, 2]\n", "line 1 is not a measurement: not a result file of convbench"),
    "a schema in words": (b'{"case": "x", "schema": "first"}\n', "line 1 is not a measurement"),
    "an empty line": (b"\n", "line 1 is not JSON: not a result file of convbench"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00\xff", "line 1 is not JSON: not a result file of convbench"),
    "binary without line break": (b"\x80\x02}q\x00\xff", "ends in something else than a measurement"),
    "from the future": (
        b'{"schema": 99, "case": "x"}\n',
        "line 1 was written by a newer convbench (schema 99): upgrade",
    ),
    "good, then bad": (b'{"schema": 1, "case": "x"}\n{"a\n', "line 2 is not JSON: not a result file of convbench"),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_a_file_that_is_not_ours_is_refused_in_one_line_and_left_alone(file: Path, name: str) -> None:
    content, words = NOT_OURS[name]
    file.write_bytes(content)
    for refuse in (read, require_writable, load):
        with pytest.raises(UsageError) as error:
            refuse(file)
        assert str(error.value).startswith(f"{file} ")
        assert words in str(error.value)
        assert "\n" not in str(error.value)
    assert file.read_bytes() == content


def test_an_empty_file_is_a_file_with_no_rows(file: Path) -> None:
    """As mktemp makes it: results may be appended."""
    file.write_bytes(b"")
    require_writable(file)
    assert read(file) == []
    assert load(file).shape[0] == 0


def test_a_missing_file_is_a_usage_error(file: Path) -> None:
    with pytest.raises(UsageError, match=r"^cannot read .*run\.jsonl: No such file or directory$"):
        read(file)


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    expected = {
        "nowhere/run.jsonl": f"the folder {tmp_path}/nowhere does not exist",
        "file/run.jsonl": f"the folder {tmp_path}/file does not exist",
        "pipe": "it is not an ordinary file",
        ".": "it is not an ordinary file",
        "x" * 300: "File name too long",
    }
    for name, words in expected.items():
        with pytest.raises(UsageError) as error:
            require_writable(tmp_path / name)
        assert str(error.value) == f"cannot write {tmp_path / name}: {words}"


def test_dev_full_is_refused() -> None:
    """Reading it would never end."""
    with pytest.raises(UsageError, match=r"^cannot write /dev/full: it is not an ordinary file$"):
        require_writable(Path("/dev/full"))


def test_asking_whether_a_file_can_be_written_changes_nothing(file: Path) -> None:
    require_writable(file)
    assert not file.exists()
    append(file, row(1))
    content = file.read_bytes()
    require_writable(file)
    assert file.read_bytes() == content


APPEND_MANY = """
import sys
from pathlib import Path
from convbench.schema import Measurement
from convbench.store import append
file, writer, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    row = Measurement(case=f"{writer}-{number}", model="m", res=8, batch=1, block_s=[0.001] * (number % 50 * 20))
    append(file, row)
    if sys.argv[4:]:
        print(number, flush=True)
"""


def test_two_writers_at_once_lose_and_tear_nothing(file: Path) -> None:
    writers = [run_python(APPEND_MANY, file, name, 200, stdin=subprocess.PIPE) for name in "ab"]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
    for writer in writers:  # both now, after their imports
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        assert (writer.communicate()[1], writer.returncode) == ("", 0)
    cases = [each["case"] for each in read(file)]
    assert len(cases) == 400
    for name in "ab":
        assert [case for case in cases if case.startswith(name)] == [f"{name}-{number}" for number in range(200)]
    assert all(len(json.loads(line)["block_s"]) % 20 == 0 for line in file.read_bytes().splitlines())


@pytest.mark.parametrize("after", [5, 40])
def test_a_killed_writer_leaves_a_readable_file(file: Path, after: int) -> None:
    writer = run_python(APPEND_MANY, file, "a", 10**6, "say", stdin=subprocess.PIPE)
    assert writer.stdin and writer.stdout
    writer.stdin.write("\n")
    writer.stdin.flush()
    while (line := writer.stdout.readline()) != f"{after}\n":
        assert line
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    cases = [each["case"] for each in read(file)]
    assert len(cases) > after  # what it said it had written is there
    assert cases == [f"a-{number}" for number in range(len(cases))]
    append(file, row(1))
    assert [each["case"] for each in read(file)] == [*cases, row(1).case]


def test_a_lock_that_another_process_holds_is_waited_for(file: Path) -> None:
    append(file, row(1))
    with file.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer = run_python(APPEND_MANY, file, "a", 1, stdin=subprocess.PIPE)
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
        time.sleep(0.5)
        assert len(read(file)) == 1
    assert (writer.communicate()[1], writer.returncode) == ("", 0)
    assert len(read(file)) == 2


FILL_UP = """
import resource, signal, sys
from pathlib import Path
from convbench.errors import UsageError
from convbench.schema import Measurement
from convbench.store import append
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
written = 0
try:
    while written < 1000:
        append(Path(sys.argv[1]), Measurement(case=f"a-{written}", model="m", res=8, batch=1, block_s=[0.5] * 30))
        written += 1
except UsageError as error:
    print(written, error)
"""


@pytest.mark.parametrize("limit", [4000, 4096, 20000, 20001])
def test_a_full_disk_leaves_no_half_line(file: Path, limit: int) -> None:
    """A limit on the size of files stands in for the disk: it cuts the last write short, and then refuses."""
    process = run_python(FILL_UP, file, limit)
    out, errors = process.communicate()
    assert (errors, process.returncode) == ("", 0)
    written, words = out.strip().split(" ", 1)
    assert words in (
        f"cannot write {file}: No space left on device",  # what was written of the line was cut off again
        f"cannot write {file}: File too large",
    )
    assert file.stat().st_size <= limit
    assert file.read_bytes().endswith(b"\n")
    assert [each["case"] for each in read(file)] == [f"a-{number}" for number in range(int(written))]
    line = file.stat().st_size // int(written)
    assert int(written) >= limit // (line + 2)
    append(file, row(1))  # the disk has room again
    assert len(read(file)) == int(written) + 1


def test_the_stand_in_for_a_full_disk_cuts_a_write_short(tmp_path: Path) -> None:
    program = (
        "import os, resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY));"
        "print(os.write(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), b'x' * 20))"
    )
    assert run_python(program, tmp_path / "short").communicate() == ("10\n", "")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_load_gives_a_table_with_the_keys_of_the_contract(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    append(file, row(1))
    append(file, row(2, status="skipped", images_per_s=None, reason="no GPU"))
    append(other, row(4))
    table = convbench.load(file, str(other))
    assert sorted(THROUGHPUT_KEYS - set(table.columns)) == []
    assert list(table.columns) == ["schema", "kind", *Measurement.keys()]
    assert table["batch"].tolist() == [1, 2, 4]
    assert table["images_per_s"].tolist()[::2] == [100.0, 25.0]
    assert table["images_per_s"].isna().tolist() == [False, True, False]
    assert table["block_s"].tolist()[0] == [0.01, 0.02]


def test_a_file_of_before_a_key_was_added_has_none_for_it(file: Path) -> None:
    old = {key: value for key, value in row(1).to_json().items() if key not in ("ratio", "block_s")}
    file.write_text(json.dumps({"schema": SCHEMA, **old}) + "\n", "utf-8")
    (found,) = read(file)
    assert (found["ratio"], found["block_s"], found["batch"]) == (None, None, 1)
    assert list(load(file).columns) == ["schema", "kind", *Measurement.keys()]


def test_changed_conditions_are_those_that_differ() -> None:
    a = {"cpu": "one", "cores": 2, "torch": "2.13", "hostname": "x"}
    assert changed_conditions(a, a) == []
    assert changed_conditions(a, a | {"cores": 4, "hostname": "y"}) == ["cores: 2 and 4"]
    assert changed_conditions(a, {"cpu": "one", "cores": 2}) == ["torch: 2.13 and None"]


def test_load_of_nothing_has_the_columns_all_the_same() -> None:
    assert list(load().columns) == ["schema", "kind", *Measurement.keys()]


def lines(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps({"schema": 1, **each}) + "\n" for each in rows), "utf-8")
    return file


def old_row(backend: str, **known: Any) -> dict[str, Any]:
    row = Measurement.of(Case("dico_s", 64, 1, backend, threads=1), images_per_s=1.0).to_json()
    return {key: value for key, value in row.items() if key != "kind"} | known


def test_schema_1_kept_a_ratio_on_the_row_of_the_counterpart(file: Path) -> None:
    """The counterpart over the case: 0.5 [0.4, 0.8], slower. Today the case over its counterpart: 2 [1.25, 2.5]."""
    eager, aoti, again = old_row("eager"), old_row("aoti"), old_row("aoti", repeat=2)
    again["case"] += "/repeat2"
    aoti |= {"compared_with": eager["case"], "ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.8, "difference": "slower"}
    again |= {"compared_with": aoti["case"], "ratio": 1.01, "ratio_low": 1.0, "ratio_high": 1.02, "difference": "same"}
    first, second, third = rows_of(lines(file, eager, aoti, again))
    assert isinstance(first, Measurement) and isinstance(second, Measurement) and isinstance(third, Measurement)
    assert (first.compared_with, first.ratio, first.ratio_low, first.ratio_high) == (aoti["case"], 2.0, 1.25, 2.5)
    assert (first.difference, second.ratio, second.compared_with) == ("faster", None, None)
    assert (third.ratio, third.difference) == (1.01, "same")  # an A/A repeat keeps its own


WIDE = "WIDE: interval \u00b12.6%, where \u00b12.0% is asked"


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize(
    ("verdict", "reason", "expected"),
    [
        ("SUSPECT", WIDE, "NOISY"),
        ("SUSPECT", f"{WIDE}; {WIDE}", "NOISY"),
        ("SUSPECT", f"STDY: steps became 5.8% faster meanwhile; {WIDE}", "SUSPECT"),
        ("SUSPECT", f"{WIDE}; LIN: twice the steps took 2.2 times the time", "SUSPECT"),
        ("SUSPECT", None, "SUSPECT"),
        ("SUSPECT", "", "SUSPECT"),
        ("INVALID", WIDE, "INVALID"),
        ("VALID", None, "VALID"),
    ],
)
def test_a_row_that_was_suspect_for_its_interval_alone_is_noisy(
    verdict: str, reason: str | None, expected: str, schema: int, file: Path
) -> None:
    """NOISY came later: an interval wider than asked is no sign of bias."""
    one = old_row("eager", verdict=verdict, reason=reason) | {"schema": schema}
    one |= {"kind": "throughput"} if schema == SCHEMA else {}
    (found,) = read(lines(file, one))
    assert (found["verdict"], found["reason"]) == (expected, reason)


def test_a_regraded_row_of_today_keeps_its_ratio(file: Path) -> None:
    """Only rows of schema 1 have theirs on the row of the counterpart."""
    eager, aoti = (old_row(name) | {"kind": "throughput", "schema": SCHEMA} for name in ("eager", "aoti"))
    aoti |= {"compared_with": eager["case"], "ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1, "difference": "faster"}
    first, second = read(lines(file, eager, aoti | {"verdict": "SUSPECT", "reason": WIDE}))
    assert (first["ratio"], second["ratio"], second["verdict"]) == (None, 2.0, "NOISY")


def test_schema_1_says_no_kind(file: Path) -> None:
    sampled: dict[str, Any] = {
        "sampling_case": "dico_s/64px/b1/steps=5,cfg=1",
        "model": "dico_s",
        "res": 64,
        "batch": 1,
    }
    sampled |= {"sampler": "iddpm", "steps": 5, "cfg_scale": 1.0, "decode": False, "finished_images_per_s": 2.0}
    replayed = {"case": "replay/dico/x/sync_end", "paper": "dico", "model": "x", "res": 64, "device": "cpu"}
    replayed |= {"threads": 1, "step": "knob", "knob": "sync_end", "from": "no", "to": "yes"}
    found = rows_of(lines(file, old_row("eager"), sampled, replayed))
    assert [row.kind for row in found] == ["throughput", "sampling", "replay"]
    assert (found[1].case, getattr(found[1], "sampling", None)) == (sampled["sampling_case"], "steps=5,cfg=1")
    assert (getattr(found[2], "before", None), getattr(found[2], "after", None)) == ("no", "yes")


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda path: path.stem)
def test_every_stored_file_reads_as_rows_of_its_kind(path: Path) -> None:
    rows = rows_of(path)
    assert len(rows) == len(path.read_bytes().splitlines())
    assert {row.kind for row in rows} == {"throughput"}


def test_a_line_that_lacks_a_needed_key_is_refused(file: Path) -> None:
    file.write_text('{"schema": 2, "kind": "throughput", "case": "x"}\n', "utf-8")
    with pytest.raises(UsageError, match=r"line 1 is not a whole row: .*missing"):
        rows_of(file)
    file.write_text('{"schema": 2, "kind": "poem", "case": "x"}\n', "utf-8")
    with pytest.raises(UsageError, match="line 1 is of an unknown kind 'poem'"):
        read(file)
