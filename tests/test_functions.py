"""The public Python functions: each gives what its command gives."""

import json
from pathlib import Path

import numpy as np
import pytest

import convbench
from convbench.cli import main
from convbench.errors import NothingMeasured, UsageError

RESULTS = Path(__file__).parents[1] / "results"
RUN = RESULTS / "cpu-amd-epyc-1thread-2026-11-21-engines.jsonl"
OTHER = RESULTS / "cpu-amd-epyc-2threads-2026-11-21-fp32-256px.jsonl"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--format", "json"])
    assert ended.value.code == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def test_every_public_name_is_there() -> None:
    assert all(callable(getattr(convbench, name)) for name in convbench.__all__)
    assert set(convbench.__all__) <= set(dir(convbench))
    with pytest.raises(AttributeError, match=r"^module 'convbench' has no attribute 'sampel'$"):
        convbench.sampel  # type: ignore[attr-defined]  # noqa: B018


def test_export_and_verify(tmp_path: Path) -> None:
    built = convbench.export("dico_digits", "onnx", tmp_path / "a", res=64, batch=1)
    found = convbench.verify(tmp_path / "a")
    assert built["status"] == found["status"] == "passed"
    assert len(found["checks"]) == len(built["checks"]) > 0
    assert json.loads((tmp_path / "a" / "manifest.json").read_text("utf-8"))["batch"] == [1, 1]
    with pytest.raises(UsageError, match=r"^--batch 3\.\.2: specify a number of images"):
        convbench.export("dico_digits", "onnx", tmp_path / "b", res=64, batch=(3, 2))
    with pytest.raises(UsageError, match=r"^unknown target 'onx'; choose from onnx, "):
        convbench.export("dico_digits", "onx", tmp_path / "b", res=64)
    with pytest.raises(UsageError, match=r"^--model dic_s is not the model"):
        convbench.verify(tmp_path / "a", model="dic_s")


def test_sample_gives_the_images_of_the_command(tmp_path: Path) -> None:
    found = convbench.sample(count=3, labels=[7, 1], steps=4, seed=5, batch=2, device="cpu")
    file = tmp_path / "images.npz"
    line = ["sample", "--npz", str(file), "--count", "3", "--class", "7,1", "--steps", "4", "--seed", "5"]
    with pytest.raises(SystemExit):
        main([*line, "--device", "cpu"])
    assert np.array_equal(np.repeat(found, 3, axis=3), np.load(file)["arr_0"])
    latents = convbench.sample("dico_s", 1, [3], steps=1, weights="random", latents=True, device="cpu")
    assert (latents.shape, latents.dtype) == ((1, 4, 32, 32), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0: it must be at least 1"),
        ({"labels": "some"}, "unknown classes 'some': specify numbers, all or random"),
        ({"labels": [10]}, "--class 10: dico_digits has the classes 0 to 9"),
        ({"model": "dico_s"}, "convbench ships no weights of dico_s"),
    ],
)
def test_sample_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        convbench.sample(**arguments)  # type: ignore[arg-type]
    assert str(raised.value).startswith(message)


def test_report_gives_the_rows_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = printed(capsys, "report", str(RUN), "--sort", "images_per_s", "--columns", "model,images_per_s")
    table = convbench.report(RUN, ["model", "images_per_s"], "images_per_s", html=tmp_path / "a.html")
    assert table.to_dict("records") == expected
    assert (tmp_path / "a.html").stat().st_size > 10_000
    with pytest.raises(UsageError, match=r"^unknown key 'modle': did you mean mode or model"):
        convbench.report(RUN, where=["modle=dico_s"])


def test_compare_gives_the_rows_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convbench.compare(RUN, RUN) == printed(capsys, "compare", str(RUN), str(RUN))
    with pytest.raises(NothingMeasured, match=r"have no measured case in common$"):
        convbench.compare(RUN, OTHER)
