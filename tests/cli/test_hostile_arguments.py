"""Arguments that cannot be meant, and streams that are full or closed: one line, never a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from hostile import ESCAPES, ROOT

from convbench.cli import main, options
from convbench.cli.options import MOST_VALUES, BatchList, CommaList, Number

Shown = tuple[int, str, str]


@pytest.fixture
def convbench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Shown]:
    def run(*arguments: object) -> Shown:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, shown.out, shown.err

    return run


LIST = ",".join(["1"] * 10_000)
ARGUMENTS: dict[str, list[str]] = {
    "10,000 batches": ["throughput", "--model", "dico_s", "--dry-run", "--batch", LIST],
    "10,000 models": ["flops", "--model", ",".join(["dico_s"] * 10_000)],
    "10,000 sizes": ["flops", "--model", "dico_s", "--res", LIST],
    "a batch of many digits": ["throughput", "--model", "dico_s", "--dry-run", "--batch", "9" * 4000],
    "a batch of more digits": ["throughput", "--model", "dico_s", "--dry-run", "--batch", "9" * 5000],
    "a size of many digits": ["flops", "--model", "dico_s", "--res", "9" * 400],
    "a huge size": ["flops", "--model", "dico_s", "--res", "262144"],
    "a huge size to export": [
        "export",
        "--model",
        "dico_s",
        "--to",
        "onnx",
        "--out",
        "x",
        "--res",
        "1000000000000000000",
    ],
    "a guidance of nan": ["sample", "--out", "x.png", "--cfg-scale", "nan"],
    "a guidance of inf": ["sample", "--out", "x.png", "--cfg-scale", "inf"],
    "a guidance of -nan": ["sample", "--out", "x.png", "--cfg-scale", "-nan"],
    "a guidance of 1e999": ["sample", "--out", "x.png", "--cfg-scale", "1e999"],
    "a rate of nan": ["load", "http://127.0.0.1:1", "--rate", "nan"],
    "a rate of inf": ["load", "http://127.0.0.1:1", "--rate", "inf"],
    "a rate of 1e300": ["load", "http://127.0.0.1:1", "--rate", "1e300"],
    "a share of nan": ["compare", "a", "b", "--fail-above", "nan"],
    "a share of inf": ["compare", "a", "b", "--fail-above", "inf%"],
    "a time of nan": ["throughput", "--model", "dico_s", "--cap", "nan"],
    "a time of inf": ["throughput", "--model", "dico_s", "--cap", "inf"],
    "a model of dots": ["throughput", "--model", ".x:y"],
    "a backend of dots": ["throughput", "--model", "dico_s", "--backend", ".x:y"],
    "a backend without a name": ["throughput", "--model", "dico_s", "--backend", "x:"],
    "a backend that is a sentence": ["throughput", "--model", "dico_s", "--backend", "os:x y"],
    "a model of two dots": ["flops", "--model", "..x:y"],
    "a module without a name": ["flops", "--model", ":y"],
    "a name that is a sentence": ["flops", "--model", "os:path; import sys"],
    "a model in a file": ["flops", "--model", "/tmp/x.py:net"],
    "a model with escapes": ["flops", "--model", ESCAPES],
    "a config that never ends": ["flops", "--model", "diffusers:/dev/zero"],
    "a name that is too long": ["report", "x" * 5000],
    "a page of a name that is too long": ["verify-report", "x" * 5000],
    "weights of a name that is too long": ["sample", "--out", "x.png", "--weights", "x" * 5000],
    "weights of a null character": ["sample", "--out", "x.png", "--weights", "a\0b"],
    "a surrogate": ["report", "\udcff"],
    "a surrogate to write": ["sample", "--out", "/nowhere/\udcff"],
    "an ablation of a huge width": ["flops", "--model", "dic_s@width=100000000000"],
    "an ablation of many blocks": ["flops", "--model", "dic_s@depths=1000000-1-1-1-1"],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_that_cannot_be_meant_is_one_line(
    name: str, convbench: Callable[..., Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = convbench(*ARGUMENTS[name])
    assert (code, out) == (2, ""), err
    assert err.startswith("convbench: ") and err.count("\n") == 1
    assert err[:-1].isprintable(), err
    assert list(tmp_path.iterdir()) == []


def test_a_list_is_bounded_and_says_so(convbench: Callable[..., Shown]) -> None:
    for kind in (CommaList(), CommaList(int), BatchList()):
        assert len(kind.convert(",".join(["1"] * MOST_VALUES), None, None)) == MOST_VALUES
        with pytest.raises(click.BadParameter, match=f"a list of {MOST_VALUES + 1} values; at most {MOST_VALUES} are"):
            kind.convert(",".join(["1"] * (MOST_VALUES + 1)), None, None)
    assert BatchList().convert("max,1000000000", None, None) == ["max", 10**9]
    with pytest.raises(click.BadParameter, match="a number beyond 1000000000"):
        BatchList().convert("1000000001", None, None)


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e999", "x", ""])
def test_a_number_is_finite(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Number().convert(text, None, None)
    assert Number(min=0).convert("1.5", None, None) == 1.5


def float_options(group: click.Command, path: str = "") -> list[tuple[str, click.Option]]:
    if isinstance(group, click.Group):
        context = click.Context(group)
        commands = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
        return [each for name, command in commands if command for each in float_options(command, f"{path} {name}")]
    found = [p for p in group.params if isinstance(p, click.Option) and isinstance(p.type, click.FloatRange)]
    return [(f"{path} {option.opts[0]}".strip(), option) for option in found]


def test_every_option_that_takes_a_number_takes_a_finite_one() -> None:
    from convbench.cli import contents

    plain = {name for name, option in float_options(contents) if not isinstance(option.type, Number)}
    assert plain <= {"throughput --price"}  # which the plan's own check refuses


# ---- modules of the working folder ----


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("net = 5", "is a int, not a function that takes a resolution and returns a network"),
        ("def net(res): return 5", "'theirs:net' returns a int, not a torch.nn.Module"),
        ("1 / 0", "no model at 'theirs:net': ZeroDivisionError: division by zero"),
        ("def", "no model at 'theirs:net': SyntaxError: "),
        ("import nothing_such", "no model at 'theirs:net': No module named 'nothing_such'"),
        ("raise Exception('a\\nb\\x1b[2J')", "no model at 'theirs:net': Exception: a"),
        ("def net(res): ...\nnet.inputs = {'channels': 3, 'evil': 1}", "declares unknown inputs"),
    ],
)
def test_a_module_that_fails_is_one_line(source: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(source + "\n")
    done = called(["flops", "--model", "theirs:net", "--res", "8"], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("convbench: ") and words in done.stderr and done.stderr.count("\n") == 1


def called(arguments: list[str], **settings: Any) -> "subprocess.CompletedProcess[str]":
    """The installed command, which does not look for modules where it is called, unlike `python -m`."""
    program = "import sys; from convbench.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        check=False,
        **({"capture_output": True} if "stdout" not in settings else {"stderr": subprocess.PIPE}),
        **settings,
    )


def test_a_module_of_the_working_folder_hides_no_other(tmp_path: Path) -> None:
    """It can be imported, with what it imports itself; installed packages come first, and nothing stays behind."""
    (tmp_path / "theirs.py").write_text(
        "import sys, torch, beside\n"
        "def net(res):\n"
        "    import later\n"
        "    print([path for path in sys.path if path in ('', '.')], file=sys.stderr)\n"
        "    return torch.nn.Conv2d(4, 8, 1)\n"
    )
    (tmp_path / "beside.py").touch()
    (tmp_path / "later.py").touch()
    for name in ("torch", "numpy", "json", "rich"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w')\n")
    program = (
        "import os, sys\n"
        "from convbench import models\n"
        "from convbench.catalogue import find\n"
        "before = list(sys.path)\n"
        "models.build(find('theirs:net'), 8)\n"
        "assert sys.path == before and os.getcwd() not in sys.path and '' not in sys.path\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert not (tmp_path / "canary").exists()


# ---- streams ----


@pytest.mark.parametrize(
    "arguments",
    [["models", "--format", "json"], ["flops", "--model", "dico_s", "--res", "64"], ["--help"], ["report", "--help"],
     ["--version"]],
    ids=" ".join,
)  # fmt: skip
def test_a_full_stdout_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = called(arguments, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "convbench: cannot write: No space left on device\n"


@pytest.mark.parametrize("arguments", [["models"], ["--help"], ["flops", "--model", "dic_xll"]], ids=" ".join)
def test_a_closed_stdout_is_one_line(arguments: list[str]) -> None:
    done = called(arguments, stdout=None, preexec_fn=lambda: os.close(1))  # type: ignore[arg-type]
    assert (done.returncode, done.stderr) == (
        2,
        "convbench: stdout is closed: redirect it to a file, or to /dev/null\n",
    )


@pytest.mark.parametrize("close", [*(pytest.param(each, marks=pytest.mark.slow) for each in ([0], [2])), [0, 2]])
def test_closed_streams_change_nothing_else(close: list[int], tmp_path: Path) -> None:
    """A file that is opened later must not get the number of a stream, or warnings would be written into it."""
    program = (
        "import os, sys\n"
        "from convbench.cli import main\n"
        "try:\n    main(['flops', '--model', 'dico_s', '--res', '64', '--format', 'json'])\n"
        "finally:\n    assert os.open('/dev/null', os.O_RDONLY) > 2"
    )
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=out,
            preexec_fn=lambda: [os.close(number) for number in close],  # type: ignore[arg-type, func-returns-value]
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert done.returncode == 0 and '"macs"' in (tmp_path / "out").read_text()


def test_a_full_stderr_leaves_the_exit_code() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "convbench", "flops", "--model", "dic_xll"], cwd=ROOT, stderr=full, check=False
        )
    assert done.returncode == 2


def test_errors_of_the_system_are_one_line(convbench: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they come from."""
    for error, words in (
        (OSError(28, "No space left on device"), "convbench: cannot write: No space left on device\n"),
        (PermissionError(13, "Permission denied", "/x"), "convbench: /x: Permission denied\n"),
        (MemoryError(), "convbench: not enough memory\n"),
    ):
        monkeypatch.setattr(options, "show", lambda *_, error=error, **__: raise_it(error))
        assert convbench("models") == (2, "", words)


def raise_it(error: BaseException) -> None:
    raise error
