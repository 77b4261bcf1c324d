"""Result files, sweeps, cards and pages that somebody else wrote, and paths that lead to something else than a file."""

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import ESCAPES, SURROGATE, deep, in_little_memory
from stored import measured, write_lines

from convbench import files, store
from convbench.cli import main
from convbench.errors import UsageError, printable
from convbench.reports.listed_rows import NEEDED, TYPES, list_of, listed_problem
from convbench.schema import KINDS, Measurement
from convbench.schema.rowcheck import row_problem
from convbench.schema.typecheck import problem, record_problem
from convbench.schema.upgrade import renamed

Shown = tuple[int, str, str]


@pytest.fixture
def convbench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Shown]:
    def run(*arguments: object) -> Shown:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        assert "Traceback" not in shown.err
        for text in (shown.out, shown.err):
            assert "\x1b" not in text and "\u202e" not in text and "\r" not in text
        return ended.value.code, shown.out, shown.err

    return run


def row_of(model: str) -> Measurement:
    return Measurement.from_json(measured(model))


def assert_one_line(shown: Shown, words: str = "", code: int = 2) -> None:
    assert (shown[0], shown[1]) == (code, ""), shown
    assert shown[2].count("\n") == 1 and shown[2].startswith("convbench: ") and words in shown[2], shown


# ---- 7: what is written over ----


def not_a_file(kind: str, folder: Path) -> Path:
    path = folder / "target.html"
    if kind == "device":
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        (path / "theirs").touch()
    elif kind == "link to a device":
        path.symlink_to("/dev/null")
    elif kind == "link to a folder":
        (folder / "folder").mkdir()
        path.symlink_to(folder / "folder")
    elif kind == "link to a fifo":
        os.mkfifo(folder / "pipe")
        path.symlink_to(folder / "pipe")
    elif kind == "link to nothing":
        path.symlink_to(folder / "nowhere")
    elif kind == "link to itself":
        path.symlink_to(path)
    return path


KINDS_OF_PATH = ("device", "fifo", "folder", "link to a device", "link to a folder", "link to a fifo",
                 "link to nothing", "link to itself")  # fmt: skip
WRITERS: dict[str, list[Any]] = {
    "report --html": ["report", "RUN", "--html", "TARGET"],
    "sample --out": ["sample", "--count", "1", "--steps", "1", "--out", "TARGET"],
    "sample --npz": ["sample", "--count", "1", "--steps", "1", "--npz", "TARGET"],
    "export": ["export", "--model", "dico_s", "--to", "onnx", "--out", "TARGET"],
    "throughput": ["throughput", "--model", "dico_s", "--res", "64", "--dry-run", "--out", "TARGET"],
}


@pytest.mark.parametrize("kind", KINDS_OF_PATH)
@pytest.mark.parametrize("writer", WRITERS)
def test_no_writer_replaces_what_is_not_a_file(
    writer: str, kind: str, convbench: Callable[..., Shown], tmp_path: Path
) -> None:
    """As root, `report --html` once replaced a device."""
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    path = not_a_file(kind, tmp_path)
    before = os.lstat(path)
    run = write_lines(tmp_path / "run.jsonl", [measured("dico_s")])
    shown = convbench(*({"RUN": run, "TARGET": path}.get(word, word) for word in WRITERS[writer]))
    assert shown[0] == 2 and shown[2].splitlines()[-1].startswith("convbench: "), shown
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode, before.st_rdev) == (after.st_ino, after.st_mode, after.st_rdev)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", KINDS_OF_PATH)
def test_the_functions_that_write_refuse_them_too(kind: str, tmp_path: Path) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    path = not_a_file(kind, tmp_path)
    for write in (
        lambda: files.write_whole(path, b"x"),
        lambda: files.require_writable(path),
        lambda: store.append(path, row_of("dico_s")),
        lambda: store.require_writable(path),
    ):
        with pytest.raises(UsageError, match=r"^cannot write .*target\.html: "):
            write()


def test_a_file_is_written_through_no_link_that_somebody_laid(tmp_path: Path) -> None:
    """The name under which a file is written first can be guessed."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".page.html.{os.getpid()}.part").symlink_to(victim)
    files.write_whole(tmp_path / "page.html", b"page")
    assert (victim.read_text(), (tmp_path / "page.html").read_bytes()) == ("precious", b"page")
    assert not (tmp_path / "page.html").is_symlink()


def test_a_link_to_a_file_and_a_hard_link_leave_the_other_name_alone(tmp_path: Path) -> None:
    for name, link in (("soft", os.symlink), ("hard", os.link)):
        (tmp_path / "victim").write_text("precious")
        link(tmp_path / "victim", tmp_path / name)
        files.write_whole(tmp_path / name, b"page")
        assert (tmp_path / "victim").read_text() == "precious"


def test_a_result_file_cuts_no_line_of_another_kind(tmp_path: Path) -> None:
    """A file without a last line break, which is somebody's shell settings."""
    (tmp_path / "rc").write_text("export PATH=x\nalias ls='ls -l'")
    with pytest.raises(UsageError, match="ends in something else than a measurement"):
        store.append(tmp_path / "rc", row_of("dico_s"))
    assert (tmp_path / "rc").read_text().endswith("alias ls='ls -l'")


def test_force_replaces_no_folder_of_a_web_page(convbench: Callable[..., Shown], tmp_path: Path) -> None:
    """Which has a manifest.json, too."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"name": "My app", "icons": []}')
    (tmp_path / "app" / "index.html").touch()
    line = ["export", "--model", "dico_s", "--to", "onnx", "--force", "--out", tmp_path / "app"]
    assert_one_line(convbench(*line), "exists and is not an artefact of convbench")
    assert (tmp_path / "app" / "index.html").exists()


# ---- 19: what never ends ----

READERS: dict[str, list[Any]] = {
    "--sweep": ["throughput", "--sweep", "TARGET"],
    "card check": ["card", "check", "TARGET"],
    "report": ["report", "TARGET"],
    "compare": ["compare", "TARGET", "TARGET"],
    "verify-report": ["verify-report", "TARGET"],
    "throughput --out": ["throughput", "--model", "dico_s", "--res", "64", "--dry-run", "--out", "TARGET"],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["zero", "tty", "fifo", "link", "folder"])
def test_what_never_ends_is_not_read(reader: str, kind: str, convbench: Callable[..., Shown], tmp_path: Path) -> None:
    path = tmp_path / "endless"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path = Path(f"/dev/{kind}")
    shown = convbench(*(path if word == "TARGET" else word for word in READERS[reader]))
    words = "no .jsonl or .json file in" if reader in ("report", "compare") and kind == "folder" else ""
    assert shown[0] == 2 and shown[2].startswith(
        ("convbench: cannot ", "convbench: Invalid value", f"convbench: {words}")
    )


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_file_larger_than_the_memory_takes_little_of_it(reader: str, tmp_path: Path) -> None:
    """A sparse file of 1.2 GB without a line break."""
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(b'{"schema": 1, ')
        file.truncate(1200 * 10**6)
    arguments = [path if word == "TARGET" else word for word in READERS[reader]]
    done = in_little_memory(*arguments, limit=2**30, imports="pandas,torch")
    # A result file without a line break is one whose only line is torn: there is nothing in it.
    code = {"report": 3, "compare": 3, "throughput --out": 0}.get(reader, 2)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert code == 0 or done.stderr.splitlines()[-1].startswith("convbench: ")


@pytest.mark.parametrize(
    "content",
    [
        "model = " + "[" * 100_000,
        "model = " + "{a=" * 50_000,
        "a." * 100_000 + "a = 1",
        "[" + "a." * 100_000 + "a]",
        "model = " + "9" * 10_000,
        "x" * 2**19,
        "model = [" + "[" * 200 + "]" * 200 + "]",
        f'model = "{ESCAPES}"',
        'model = "dico_s"\nbatch = nan',
        'model = "dico_s"\nbatch = inf',
        'model = "dico_s"\nbatch = 1979-05-27',
        'model = "dico_s"\nbatch = {a = 1}',
        'model = "dico_s"\nbatch = [[1], [2]]',
        'model = "dico_s"\nprice = nan',
        'model = "dico_s"\nres = -9223372036854775808',
        f'"{ESCAPES[:4]}" = 1',
    ],
    ids=lambda content: content[:24].encode("unicode_escape").decode(),
)
def test_toml_of_any_shape_is_one_line(content: str, convbench: Callable[..., Shown], tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(content.replace("\x1b", "\\u001b").replace("\x9b", "\\u009b").replace("\x07", "").replace("\r", ""))
    if content != 'model = "dico_s"\nprice = nan':  # an option of the plan
        assert_one_line(convbench("throughput", "--dry-run", "--sweep", path))
    shown = convbench("card", "check", path)
    assert shown[0] in (1, 2)


@pytest.mark.parametrize(
    "line", ['model = "payload:net"', 'model = "dico_s,payload:net"', 'model = ["payload:net"]',
             'model = "dico_s"\nbackend = "payload:net"', 'model = "dico_s"\ncompare-with = "payload:net"'],
)  # fmt: skip
def test_a_sweep_names_no_code(
    line: str, convbench: Callable[..., Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "payload.py").write_text("from pathlib import Path\nPath('canary').mkdir()\ndef net(res): ...\n")
    (tmp_path / "sweep.toml").write_text(f"{line}\nres = 64\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert_one_line(convbench("throughput", "--dry-run", "--sweep", "sweep.toml"), "which only the command line may")
    assert not (tmp_path / "canary").exists()
    given = ["--model", "dico_s", "--backend", "eager", "--compare-with", "eager"]  # takes precedence over the file
    assert convbench("throughput", "--dry-run", "--format", "json", "--sweep", "sweep.toml", *given)[0] == 0
    assert not (tmp_path / "canary").exists()


# ---- 14: lines of any length ----


@pytest.mark.parametrize("length", [2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20, 40 * 2**20])
def test_a_torn_line_of_any_length_is_left_out_and_cut_off(length: int, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "run.jsonl", [measured("dico_s"), measured("dic_s")])
    whole = path.read_bytes()
    torn = b'{"schema": 1, "block_s": ['
    path.write_bytes(whole + torn + b"1" * (length - len(torn)))
    assert [row["model"] for row in store.read(path)] == ["dico_s", "dic_s"]
    store.append(path, row_of("fcdm_s"))
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 3
    assert [row["model"] for row in store.read(path)] == ["dico_s", "dic_s", "fcdm_s"]


def test_a_torn_line_alone_and_one_whole_line_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"schema": 1, "case": "' + b"x" * (3 * 2**20))
    assert store.read(path) == []
    store.append(path, row_of("dico_s"))
    assert [row["model"] for row in store.read(path)] == ["dico_s"]
    with path.open("ab") as file:
        file.write(b'{"schema": 1, "case": "' + b"x" * files.MOST_LINE + b'"}\n')
    with pytest.raises(UsageError, match="line 2 is too long: not a result file of convbench"):
        store.read(path)


def test_a_long_torn_line_takes_little_memory(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "run.jsonl", [measured("dico_s"), measured("dic_s")])
    with path.open("ab") as file:
        file.write(b'{"schema": 1, ')
        file.truncate(500 * 10**6)  # sparse
    done = in_little_memory("compare", path, path, limit=2**28, imports="pandas,convbench.reports.tables.text")
    assert done.returncode == 0, done.stderr


# ---- 18: rows of another kind ----

WRONG: list[Any] = [
    "x",
    "",
    SURROGATE,
    True,
    -1,
    0,
    0.5,
    1e300,
    5e-324,
    2**70,
    [],
    ["x"],
    [None],
    {},
    {"x": "y"},
    {"x": []},
]
FULL = {  # a row with a value for every key
    **measured("dico_s", 100.0),
    **{"params": 33, "macs": 266, "macs_full": 266, "winograd_macs": 200, "block_s": [0.01, 0.02], "process_s": [0.01]},
    **{"latency_s_p90": 0.01, "latency_s_p99": 0.01, "blocks": 2, "steps_per_block": 1, "prepare_s": 1.0},
    **{"build_s": 1.0, "load_s": 1.0, "peak_bytes": 10**9, "flops_per_s": 1e9, "peak_flops_per_s": 1e10, "mfu": 0.1},
    **{"ratio": 1.1},
    **{"limit_images_per_s": 200.0, "limit_fraction": 0.5, "limit_wall": "compute", "error_vs_fp32": 1e-7},
    **{"zeros_ratio": 1.0, "compared_with": "x", "ratio_low": 1.0, "ratio_high": 1.2, "difference": "same"},
    **{"smallest_difference": 0.03, "kernels": {"attention": "math"}, "flags": {"tf32": "off"}},
    **{"rates": {"matmul_flops_per_s": 1e10, "conv1x1_flops_per_s": 1e10, "conv3x3_flops_per_s": 1e10,
                 "copy_bytes_per_s": 1e10, "launches_per_s": 1e5}},
    **{"load": {"cpu": 0.1}, "joules_per_image": 1.0, "measured_at": "2026-11-21T00:00:00+00:00", "unranked": None},
}  # fmt: skip


@pytest.mark.parametrize("key", [*Measurement.keys(), "schema", "environment.gpus"])
def test_every_key_of_every_wrong_type_is_one_line_or_a_table(
    key: str, convbench: Callable[..., Shown], tmp_path: Path
) -> None:
    for number, wrong in enumerate([*WRONG, None]):
        row = json.loads(json.dumps(FULL))
        if "." in key:
            row["environment"]["gpus"] = wrong
        else:
            row[key] = wrong
        path = write_lines(tmp_path / f"{number}.jsonl", [row, measured("dit_xl_2", 50.0)])
        listed = tmp_path / f"{number}.json"
        listed.write_text(json.dumps([row, measured("dit_xl_2", 50.0)]))
        lines: list[list[Any]] = [["report", path]]
        if is_read(path):  # else every command refuses it in the same place
            lines += [
                ["report", listed],
                ["report", path, "--paper", "dico", "--format", "csv"],
                ["report", path, "--explain", "dit_xl_2/images_per_s"],
                ["report", path, "--sort", "images_per_s", "--format", "latex"],
                ["compare", path, path],
                ["throughput", "--model", "dico_s", "--res", "64", "--dry-run", "--out", path],
            ]
        for line in lines:
            shown = convbench(*line)
            assert shown[0] in (0, 2), (line, wrong, shown)
            if shown[0] == 2:
                assert shown[2].splitlines()[-1].startswith("convbench: ") and len(shown[2]) < 2000


def is_read(path: Path) -> bool:
    try:
        return bool(store.read(path))
    except UsageError:
        return False


@pytest.mark.parametrize("key", [*Measurement.keys(), "environment.gpus"])
def test_a_page_and_pictures_of_every_wrong_type_are_one_line_or_there(
    key: str, convbench: Callable[..., Shown], tmp_path: Path
) -> None:
    """Slower, so that one wrong value of each kind must do."""
    for number, wrong in enumerate(("x", 0, 1e300, ["x"], {"x": "y"})):
        row = json.loads(json.dumps(FULL))
        row["environment" if "." in key else key] = {"gpus": wrong} if "." in key else wrong
        path = write_lines(tmp_path / f"{number}.jsonl", [row])
        if not is_read(path):
            continue
        shown = convbench("report", path, "--html", tmp_path / f"{number}.html")
        assert shown[0] in (0, 2), (wrong, shown)
        if shown[0] == 0:
            assert convbench("verify-report", tmp_path / f"{number}.html")[0] in (0, 1)


def test_no_text_of_a_row_is_drawn_as_a_formula(convbench: Callable[..., Shown], tmp_path: Path) -> None:
    """Matplotlib takes what stands between two dollars for one, and ended in a traceback where it is none."""
    formula = "$\\frac$"
    rows = [
        measured(model, speed, batch=batch, threads=threads)
        | {"environment": {"cpu": formula, "gpus": [{"name": formula}]}, "backend": backend}
        for model, speed in (("dit_xl_2", 10.0), (f"dico_s{formula}", 20.0))
        for batch, threads, backend in ((1, 1, "eager"), (2, 1, "eager"), (1, 2, formula))
    ]
    path = write_lines(tmp_path / "run.jsonl", rows)
    code, _, err = convbench("report", path, "--html", tmp_path / "page.html")
    assert code == 0 and "Traceback" not in err
    pictures = re.findall(r"<svg.*?</svg>", (tmp_path / "page.html").read_text("utf-8"), re.DOTALL)
    assert len(pictures) >= 5 and sum(formula in picture for picture in pictures) >= 3


EXAMPLES: dict[str, dict[str, Any]] = {  # of the other kinds, as the commands write them
    "kinds": {"model": "dico_s", "res": 256, "kind": "linear", "macs": 5, "share": 0.5},
    "modules": {"model": "dico_s", "res": 256, "module": "head", "macs": 5, "share": 0.5},
    "counts": {
        **{"model": "dico_s", "res": 256, "params": 1, "macs": 2, "flops": 4, "winograd_macs": 1, "macs_full": 2},
        **{"winograd_macs_all": 1, "macs_as_printed": 2, "weight_bytes": 4, "activation_bytes": 8},
        "arithmetic_intensity": 0.3,
    },
    "audit": {
        **{"paper": "dic", "table": "5", "model": "dic_xl", "label": "DiC-XL", "res": 256, "gpu": "A100", "batch": 32},
        **{"peaks_of": "A100", "images_per_s": 300.0, "gmacs_printed": 116.1, "macs": 5, "macs_full": 5},
        **{"implied_flops_per_s": 1e12, "share_fp32": 0.5, "share_tf32": 0.1, "share_fp16": 0.05, "findings": []},
        "words": "",
    },
    "kernel": {
        **{"schema": 1, "case": "k/x", "kernel": "k", "where": "w", "model": "dico_s", "res": 256, "batch": 1},
        **{"precision": "fp16", "status": "ok", "reason": "", "min_bytes": 100, "flops": 100, "cold_s": 1e-5},
        **{"cold_s_p20": 1e-5, "cold_s_p80": 2e-5, "hot_s": 1e-5, "flops_per_s": 1e9, "peak_flops_per_s": 1e12},
        **{"copy_bytes_per_s": 1e12, "copy_fraction": 0.5, "roofline_fraction": 0.5, "error": 1e-3},
    },
    "replay": {
        **{"schema": 1, "case": "replay/x", "paper": "dico", "model": "dico_xl", "res": 256, "device": "cpu"},
        **{"step": "replayed", "knob": "replayed", "images_per_s": 5.0, "ratio": 1.0, "ratio_low": 0.9},
        **{"ratio_high": 1.1, "verdict": None, "reason": None, "batch": 4, "exists_here": None},
    },
    "quality": {
        **{"schema": 2, "kind": "quality", "case": "q/x", "model": "dic_glyphs", "res": 32, "batch": 4, "status": "ok"},
        **{"sampling": "steps=10,cfg=3,decode=no,sampler=ddim", "role": "method", "evaluations": 10, "seed": 0},
        **{"images": 8, "planned": 8, "image_set": "glyphs", "images_per_s": 5.0, "batch_s": [0.8, 0.8], "ratio": 2.0},
        **{"recognised": 0.9, "frechet": 3.0, "recognised_difference": 0.0, "frechet_ratio": 1.0, "quality": "same"},
    },
    "tf32": {
        **{"schema": 1, "case": "tf32/x", "model": "dico_xl", "res": 256, "batch": 4, "conv_tf32": "on"},
        **{"matmul_tf32": "off", "papers_default": True, "images_per_s": 5.0, "printed_ratio": None},
    },
    "sampling": {
        **{
            "schema": 1,
            "case": "x",
            "sampling_case": "x",
            "model": "dico_s",
            "res": 256,
            "batch": 1,
            "sampler": "ddim",
        },
        **{"steps": 5, "cfg_scale": 1.5, "decode": False, "status": "ok", "finished_images_per_s": 1.0, "blocks": {}},
    },
}


def test_every_kind_of_row_has_an_example() -> None:
    assert set(EXAMPLES) == {*TYPES, *KINDS} - {"throughput"}
    for kind, row in EXAMPLES.items():
        if kind in TYPES:
            assert (list_of(row), listed_problem(row, kind)) == (kind, None)
        else:
            stored = renamed(row)
            assert (stored["kind"], row_problem(stored)) == (kind, None)
        assert set(NEEDED.get(kind, ())) <= set(row)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_key_of_the_other_kinds_of_every_wrong_type_is_one_line_or_a_picture(
    kind: str, convbench: Callable[..., Shown], tmp_path: Path
) -> None:
    for key in EXAMPLES[kind]:
        for wrong in ("x", SURROGATE, -1, 0, 1e300, 2**70, ["x"], {"x": "y"}, None):
            rows = [EXAMPLES[kind] | {key: wrong}, measured("dico_s")]
            lined = "case" in EXAMPLES[kind]
            path = tmp_path / ("run.jsonl" if lined else "run.json")
            path.write_text("".join(json.dumps(row) + "\n" for row in rows) if lined else json.dumps(rows))
            for line in (["report", path], ["report", path, "--paper", "dic:5,dico:2"]):
                shown = convbench(*line)
                assert shown[0] in (0, 2), (key, wrong, shown)


@pytest.mark.parametrize(
    "line",
    [
        deep(), "{" * 10**5, '{"schema": 1, "case": ' + deep() + "}", '{"schema": 1, "case": NaN}',
        '{"schema": 1, "case": Infinity}', '{"schema": 1e999, "case": "x"}', '{"schema": ' + "9" * 5000 + "}",
        '{"schema": true, "case": "x"}', '{"schema": 1, "case": null}', '{"schema": 1, "case": ["x"]}', "5", "null",
        '"x"', "\ud800".encode("utf-8", "surrogatepass"), b"\xff\xfe" + "{}".encode("utf-16-le"),
    ],
    ids=lambda line: repr(line)[:24],
)  # fmt: skip
def test_a_line_that_is_no_row_is_one_line(line: str | bytes, convbench: Callable[..., Shown], tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes((line.encode() if isinstance(line, str) else line) + b"\n")
    for command in (["report", path], ["compare", path, path]):
        assert_one_line(convbench(*command), "not ")


# ---- 15: terminals ----


def test_no_text_of_a_row_steers_a_terminal(convbench: Callable[..., Shown], tmp_path: Path) -> None:
    """``convbench`` looks at all that is printed."""
    texts = ("case", "model", "backend", "precision", "mode", "weights", "reason", "unranked", "difference")
    row = measured("dico_s") | {key: f"{key}{ESCAPES}" for key in texts} | {"verdict": "INVALID"}
    row |= {"environment": {"cpu": ESCAPES, "gpus": [{"name": ESCAPES}], f"k{ESCAPES}": ESCAPES}, f"key{ESCAPES}": 1}
    a = write_lines(tmp_path / "a.jsonl", [row, measured("dit_xl_2")])
    b = write_lines(tmp_path / "b.jsonl", [row | {"environment": {}}, measured("dit_xl_2")])
    for form in ("table", "markdown", "csv", "json", "latex"):
        code, out, _ = convbench("report", a, "--format", form)
        assert code == 0 and "\\x1b[2J" in out.replace("\\u001b", "\\x1b").replace("\\textbackslash{}", "\\")
    for line in (
        ["compare", a, b],
        ["compare", a, b, "--format", "json"],
        ["report", a, "--explain", f"model{ESCAPES}/reason"],
    ):
        convbench(*line)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"schema": 1, "case": "x", "model": ESCAPES, "images_per_s": ESCAPES}) + "\n")
    assert_one_line(convbench("report", tmp_path / "a.jsonl"), "row 3 has images_per_s")


def test_commands_that_show_files_print_through_one_place() -> None:
    """What does not is printed as it is."""
    folder = Path(files.__file__).parent / "cli"
    for name in ("card", "compare", "export", "load", "report", "verify", "verify_report"):
        assert "click.echo" not in (folder / f"{name}.py").read_text("utf-8"), name


def test_only_what_steers_is_escaped() -> None:
    kept = "Größe ×3 – “q” é 漢字 🙂 a\tb\nc"
    assert printable(kept) == kept
    assert printable("\x1b[1m\x7f\x9b\u202e\u2066\u200b\ufeff\ud800\r\x00\U000e0041") == (
        "\\x1b[1m\\x7f\\x9b\\u202e\\u2066\\u200b\\ufeff\\ud800\\r\\x00\\U000e0041"
    )


# ---- 16: spreadsheets ----


def test_a_cell_that_begins_like_a_formula_is_a_text(convbench: Callable[..., Shown], tmp_path: Path) -> None:
    import csv
    import io

    formulas = {
        "model": "=cmd|'/C calc'!A0", "case": "+1+1", "backend": "@SUM(1)", "weights": "-2+3", "reason": " =1",
        "compared_with": "＝1", "mode": "\u3000-1", "=HYPERLINK(1)": 5,
    }  # fmt: skip
    row = measured("dico_s", ratio=-1.5) | formulas
    path = write_lines(tmp_path / "run.jsonl", [row])
    code, out, _ = convbench("report", path, "--format", "csv")
    assert code == 0
    (found,) = csv.DictReader(io.StringIO(out))
    for key, text in formulas.items():
        if isinstance(text, str):
            assert found[key] == f"'{text}"
    assert found["'=HYPERLINK(1)"] == "5" and "=HYPERLINK(1)" not in found
    assert (found["ratio"], found["images_per_s"], found["res"]) == ("-1.5", "1.0", "256")  # numbers as they are
    assert found["status"] == "ok"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "text",
    [
        *("\t=1", "\r=1", "\n=1", "a;=1", "a; +1", "a;;-1", "a\t@1", "a\r\n=1", "a\n\n =1", ";=1", '";=1', 'a";=1;"'),
        *('a;"=1"', 'a;""=1', 'a,b;=1;"', "=1;=2\t=3\n=4", "a;\u3000=1", "a;\t\uff1d1"),
    ],
)
def test_no_cell_begins_like_a_formula_whatever_separates_them(separator: str, text: str) -> None:
    """Spreadsheets in many languages separate by semicolons, and to them a quotation mark inside a cell is a letter."""
    import csv
    import io

    from convbench.reports.tables.text import render

    shown = render([{"model": "dico_s", "reason": text, "case": text, "ratio": -1.5}], (), "csv")
    cells = [cell for line in csv.reader(io.StringIO(shown, newline=""), delimiter=separator) for cell in line]
    for cell in cells:
        assert not cell.strip(' "\t\u3000').startswith(("=", "+", "@", "\uff1d")), cells
        assert not cell.strip(' "\t').startswith("-") or cell.startswith("-1.5")
    assert "'" in shown


def test_words_between_separators_stay_as_they_are() -> None:
    from convbench.reports.tables.text import render

    row = {"reason": "WIDE: interval of ±3 %; LIN: a = b; 5 - 3", "case": "dico_s/256px/b1", "command": "a -b\n--c=d"}
    assert render([row], (), "csv").splitlines()[1:] == [f'{row["reason"]},{row["case"]},"a -b', "'--c=d\""]


# ---- a page with a line break in a name ----


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n", "\u2028", "\x85", "\v", "\t"])
def test_a_page_with_a_line_break_in_a_name_passes_its_own_check(
    line_break: str, convbench: Callable[..., Shown], tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "run.jsonl", [measured(f"a{line_break}b"), measured("dic_s", 2.0)])
    assert convbench("report", path, "--html", tmp_path / "page.html")[0] == 0
    assert convbench("verify-report", tmp_path / "page.html")[0] == 0
    for form in ("markdown", "table"):
        _, out, _ = convbench("report", path, "--format", form)
        assert sum(line.lstrip("| ").startswith("a") and "b" in line for line in out.splitlines()) == 1


# ---- types ----


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (1, int, None),
        (True, int, "True, not a whole number"),
        (1.0, int, "1.0, not a whole number"),
        (2**63, int, "a number of more than 64 bits, not a whole number"),
        (1, float, None),
        (0.5, float, None),
        (float("nan"), float, "nan, not a finite number"),
        (True, float, "True, not a finite number"),
        ("x", str, None),
        (SURROGATE, str, "'\\ud800', not a text"),
        (5, str, "5, not a text"),
        (None, int | None, None),
        ("x", int | None, "'x', not a whole number"),
        ([1], list[int], None),
        (["x"], list[int], "'x', not a whole number"),
        ("x", list[str], "'x', not a list"),
        ({"a": 1}, dict[str, int], None),
        ({"a": "x"}, dict[str, int], "'x', not a whole number"),
        ([], dict[str, str], "a list, not an object"),
        ([1, 2], tuple[int, int], None),
        ([1], tuple[int, int], "a list of 1 values, not of 2"),
        ([1, "h"], tuple[int | str, ...], None),
        ({"a": [1, {"b": None}]}, Any, None),
        ({"a": float("inf")}, Any, "an object with something in it that is not plain JSON"),
        (json.loads("[" * 40 + "]" * 40), Any, "a list with something in it that is not plain JSON"),
    ],
)
def test_a_value_is_of_a_type_or_not_in_words(value: Any, kind: Any, words: str | None) -> None:
    assert problem(value, kind) == words


def test_an_object_has_the_fields_of_a_class_or_not_in_words() -> None:
    from convbench.export.manifest import Port

    right = {"name": "x", "dtype": "float32", "shape": ["batch", 4]}
    assert record_problem(right, Port) is None
    assert record_problem([], Port) == "a list, not an object"
    assert record_problem(right | {"more": 1}, Port) == "an unknown key 'more'"
    assert record_problem({"name": "x"}, Port) == "no dtype"
    assert record_problem(right | {"shape": [None]}, Port) == "shape None, not a whole number"
