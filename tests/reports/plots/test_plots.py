"""The pictures: what is drawn is what the rows say; files, text in the SVG, nothing over anything else."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from stored import measured, write_lines

from convbench.catalogue import variants
from convbench.cli import main
from convbench.reports.baseline import beside_baseline
from convbench.reports.plots import fid, figures, implied_rates, macs_by_kind, ratio_bars, roofline, scaling
from convbench.reports.plots.annotations import overlap, text_box
from convbench.reports.plots.pictures import draw, pictures
from convbench.reports.runs import Runs, frame

RATES = {"conv3x3_flops_per_s": 4e11, "matmul_flops_per_s": 2e11, "copy_bytes_per_s": 1e11}
SWEEP = [
    measured(model, speed * batch**0.5 * (256 / res) ** 2, batch=batch, res=res, flops_per_s=1e11 * speed, rates=RATES)
    | ({"verdict": "SUSPECT"} if model == "dic_xl" else {})
    for (model, speed), batch, res in itertools.product({"dit_xl_2": 1.0, "dic_xl": 1.5}.items(), (1, 2, 4), (256, 512))
]
COUNTS = [
    {"model": model, "res": 256, "flops": 2e11, "macs": 1e11, "weight_bytes": 1e9, "activation_bytes": 1e9}
    for model in ("dit_xl_2", "dic_xl")
]
KINDS = [
    {"model": "dit_xl_2", "res": 256, "kind": "linear", "macs": 97, "share": 0.97},
    {"model": "dit_xl_2", "res": 256, "kind": "attention_matmul", "macs": 3, "share": 0.03},
    {"model": "dic_xl", "res": 256, "kind": "conv3x3_s1", "macs": 199, "share": 0.995},
    {"model": "dic_xl", "res": 256, "kind": "norm", "macs": 1, "share": 0.005},
]
AUDIT = [
    {"model": "dic_xl", "label": "DiC-XL", "res": 256, "images_per_s": 313.7, "macs": 116e9, "gmacs_printed": 116.1}
    | {"implied_flops_per_s": 78e12, "share_fp32": 4.0, "share_tf32": 0.5, "share_fp16": 0.25, "peaks_of": "A100"},
    {"model": None, "label": "thing", "res": 512, "images_per_s": 10.0, "macs": None, "gmacs_printed": 500.0}
    | {
        "implied_flops_per_s": 10e12,
        "share_fp32": 10 / 19.5,
        "share_tf32": None,
        "share_fp16": None,
        "peaks_of": "A100",
    },
]

KERNEL = {
    **{"kernel": "norm", "model": "dic_xl", "precision": "bf16", "status": "ok"},
    **{"flops": 1e9, "min_bytes": 1e9, "flops_per_s": 5e10, "cold_s_p20": 0.019, "cold_s_p80": 0.021},
    **{"peak_flops_per_s": 3e11, "copy_bytes_per_s": 1e11},
}


def curves(figure: Figure, axes: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    """The lines that bear the name of what they show."""
    named = [line for line in figure.axes[axes].get_lines() if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in named}


def marks(figure: Figure, axes: int = 0) -> list[tuple[float, float, bool]]:
    """x, y and whether it is filled, of every single point."""
    found = []
    for line in figure.axes[axes].get_lines():
        x, y = line.get_xdata(), line.get_ydata()
        if len(x) == 1 and line.get_marker() not in ("None", "|", "_", 2, 3, ""):
            found.append((float(x[0]), float(y[0]), to_hex(line.get_markerfacecolor()) != "#ffffff"))
    return found


def test_throughput_and_latency_against_the_batch() -> None:
    rows = [row for row in SWEEP if row["res"] == 256]
    figure = scaling.over_batch(frame(rows))
    assert curves(figure)["DiC-XL"] == ([1, 2, 4], pytest.approx([1.5, 1.5 * 2**0.5, 3.0]))
    assert curves(figure, 1)["DiT-XL/2"] == ([1, 2, 4], pytest.approx([1e3, 1e3 * 2**0.5, 2e3]))
    drawn = marks(figure)
    assert {filled for x, y, filled in drawn if y == pytest.approx(1.5 * x**0.5)} == {False}  # SUSPECT
    assert {filled for x, y, filled in drawn if y == pytest.approx(x**0.5)} == {True}


def test_intervals_are_bars() -> None:
    figure = scaling.over_batch(frame([measured("dic_xl", 10.0, 0.1)]))
    for axes, ends in ((0, (9.0, 11.0)), (1, (100 / 1.1, 100 / 0.9))):
        (bars,) = figure.axes[axes].collections
        assert tuple(bars.get_segments()[0][:, 1]) == pytest.approx(ends)


def test_a_row_that_is_not_ranked_is_not_drawn() -> None:
    rows = [
        measured("dic_xl", 2.0),
        measured("dit_xl_2", 9.0, verdict="INVALID"),
        measured("fcdm_xl", 9.0, unranked="x"),
    ]
    assert set(curves(scaling.over_batch(frame(rows)))) == {"DiC-XL"}


def test_lines_are_named_after_what_differs_and_the_rest_is_said_once() -> None:
    rows = [measured("dic_xl", 1.0, batch=b, precision=p) for b in (1, 2) for p in ("fp32", "bf16")]
    figure = scaling.over_batch(frame(rows), "A title")
    assert set(curves(figure)) == {"fp32", "bf16"}
    assert figure.axes[0].get_title(loc="left") == "DiC-XL, 256 px, eager, CPU, 1 thread"
    assert figure.get_suptitle() == "A title"


def test_throughput_against_the_resolution() -> None:
    figure = scaling.over_resolution(frame([row for row in SWEEP if row["batch"] == 1]))
    assert curves(figure)["DiC-XL"] == ([256, 512], pytest.approx([1.5, 0.375]))


def test_fid_against_macs() -> None:
    table = fid.printed_quality()
    figure = fid.fid_over_macs(table)
    bubbles = {
        tuple(c.get_offsets()[0]): float(c.get_sizes()[0]) for c in figure.axes[0].collections if len(c.get_offsets())
    }
    dic = variants()["dic_xl"]
    assert bubbles[(dic.macs / 1e9, 13.11)] == pytest.approx(0.6e-6 * dic.params)
    assert bubbles[(variants()["fcdm_xl"].macs / 1e9, 10.72)] > 0  # FCDM, Table 2
    assert len(bubbles) == len(table) > 15
    assert {"DiC-XL", "FCDM-XL", "DiT-XL/2"} <= {text.get_text() for text in figure.axes[0].texts}


def test_fid_against_measured_throughput() -> None:
    measurements = {"dic_xl": measured("dic_xl", 3.0), "dit_xl_2": measured("dit_xl_2", 2.0, verdict="SUSPECT")}
    figure = fid.fid_over_throughput(fid.printed_quality(measurements))
    assert sorted(marks(figure)) == [(2.0, 20.05, False), (3.0, 13.11, True)]


def test_roofline() -> None:
    rows = [row for row in SWEEP if row["res"] == 256 and row["batch"] == 2]
    table = roofline.roofline_points(COUNTS, rows, [KERNEL])
    # 2e11 FLOP over half the weights' bytes (batch 2) and the activations'.
    assert list(table["intensity"]) == pytest.approx([2e11 / 1.5e9, 2e11 / 1.5e9, 1.0])
    figure = roofline.roofline(table)
    at = pytest.approx(133.33, 1e-3)
    assert sorted(marks(figure)) == [(1.0, 50.0, True), (at, 100.0, True), (at, 150.0, False)]
    edges = [np.column_stack(line.get_data()) for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 2]
    assert any(edge[1] == pytest.approx([4.0, 400.0]) for edge in edges)  # the ridge: 4e11 / 1e11
    half = roofline.roofline_points(COUNTS, [rows[0] | {"precision": "bf16"}])
    assert half["intensity"][0] == pytest.approx(2 * 2e11 / 1.5e9)


def test_kernels_stand_with_the_models_of_a_gpu_at_their_precision() -> None:
    gpu = {"device": "cuda", "precision": "bf16", "threads": None, "flops_per_s": 1e11, "rates": RATES}
    models = [{"file": "a", **measured("dic_xl", 2.0, **gpu)}, {"file": "a", **SWEEP[0]}]
    drawn = {each.name: list(each.table["label"]) for each in pictures(Runs(models, counts=COUNTS, kernels=[KERNEL]))}
    assert drawn["roofline-cuda-256px-b1-eager-bf16"] == ["DiC-XL", "norm"]
    assert drawn["roofline-cpu-256px-b1-eager-fp32-1threads"] == ["DiT-XL/2"]
    assert "roofline-kernels-bf16" not in drawn
    assert "roofline-kernels-bf16" in {each.name for each in pictures(Runs(kernels=[KERNEL]))}


def test_a_model_without_a_count_is_not_on_the_roofline() -> None:
    assert len(roofline.roofline_points([], SWEEP)) == 0


def test_macs_by_kind() -> None:
    axes = macs_by_kind.macs_by_kind(frame(KINDS)).axes[0]
    widths: dict[str, list[float]] = {}
    for bars in axes.containers:
        widths[str(bars.get_label())] = [bar.get_width() for bar in bars]
    assert widths["conv3x3_s1"] == [0.0, 99.5]
    assert widths["linear"] == [97.0, 0.0]
    assert [sum(column) for column in zip(*widths.values(), strict=True)] == pytest.approx([100, 100])
    assert [text.get_text() for text in axes.texts] == ["1e-07 G", "2e-07 G"]


def test_implied_rates() -> None:
    figure = implied_rates.implied_rates(frame([*AUDIT, AUDIT[0] | {"table": "9"}]))
    assert sorted(marks(figure)) == [(116.0, 78.0, True), (500.0, 10.0, False)]
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert words == "FP32: 19.5 TFLOP/s TF32: 156 TFLOP/s FP16 and BF16: 312 TFLOP/s DiC-XL"
    says = "above it: convolutional networks only; filled: 256 px, hollow: other sizes"
    assert figure.axes[0].get_title(loc="left") == says


def test_the_title_of_the_implied_rates_counts_what_is_printed() -> None:
    """A number that another paper rounds is not a second one; 2 % above the peak are still the peak."""
    dic, thing = AUDIT
    rows = [dic, thing, dic | {"images_per_s": 313.6}, thing | {"label": "DiT-B", "share_fp32": 1.02}]
    words = "printed throughputs imply more FLOP/s than the A100's FP32 peak"
    assert implied_rates.finding(frame(rows)) == f"1 of 3 {words}"
    rows = [dic, thing | {"label": "DiT-B", "share_fp32": 1.03}]
    assert implied_rates.finding(frame(rows)) == f"2 of 2 {words}"
    subtitle = implied_rates.implied_rates(frame(rows)).axes[0].get_title(loc="left")
    assert subtitle == "filled: 256 px, hollow: other sizes"  # not convolutional networks only


def test_ratios_with_their_intervals() -> None:
    rows = [measured("dit_xl_2", 2.0, smallest_difference=0.04), measured("dic_xl", 3.0)]
    figure = ratio_bars.ratio_bars(ratio_bars.to_baseline(beside_baseline(frame([{"file": "a", **r} for r in rows]))))
    assert marks(figure) == [(1.0, 0.0, True), (1.5, 1.0, True)]
    (band,) = figure.axes[0].patches
    assert (band.get_x(), band.get_width()) == (pytest.approx(0.96), pytest.approx(0.08))


def test_ratios_of_a_case_to_its_counterpart() -> None:
    other = measured("dic_xl", 3.3)["case"]
    known = {"compared_with": other, "ratio": 0.9, "ratio_low": 0.8, "ratio_high": 0.95}
    row = measured("dic_xl", 3.0, backend="compile", **known)
    figure = ratio_bars.ratio_bars(ratio_bars.to_counterparts(frame([row, measured("dit_xl_2")])))
    assert marks(figure) == [(0.9, 0.0, True)]
    (bars,) = figure.axes[0].collections
    assert tuple(bars.get_segments()[0][:, 0]) == pytest.approx((0.8, 0.95))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["compile vs eager"]
    assert figure.axes[0].get_title(loc="left") == "DiC-XL, 256 px, batch 1, fp32, CPU, 1 thread"


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs([{"file": "a", **row} for row in SWEEP], counts=COUNTS, kinds=KINDS, audit=AUDIT)


def test_every_kind_of_picture_is_drawn_where_there_are_numbers(runs: Runs) -> None:
    names = {re.sub(r"-(cpu|b\d).*", "", picture.name) for picture in pictures(runs)}
    assert names == {
        "batch",
        "resolution",
        "fid-macs",
        "fid-throughput",
        "roofline",
        "macs-by-kind",
        "implied-rates",
        "ratios",
    }
    assert [picture.name for picture in pictures(Runs())] == ["fid-macs"]
    all_names = [picture.name for picture in pictures(runs)]
    assert len(set(all_names)) == len(all_names)


def test_no_words_cover_each_other(runs: Runs) -> None:
    for picture in pictures(runs):
        figure: Any = picture.figure()
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        for axes in figure.axes:
            texts = [text for text in axes.texts if text.get_text()]
            boxes = [text_box(text, renderer) for text in texts]
            for one, other in itertools.combinations(range(len(boxes)), 2):
                assert overlap(boxes[one], boxes[other]) < 3, (
                    picture.name,
                    texts[one].get_text(),
                    texts[other].get_text(),
                )


@pytest.mark.parametrize(
    "make", [lambda: scaling.over_batch(frame(SWEEP[::2])), lambda: macs_by_kind.macs_by_kind(frame(KINDS))]
)
def test_the_files_are_svg_with_text_and_png(tmp_path: Path, make: Callable[[], Figure]) -> None:
    files = figures.save(make(), tmp_path, "x")
    assert [file.name for file in files] == ["x.svg", "x.png"]
    text = files[0].read_text("utf-8")
    assert re.search(r"<text[^>]*>DiC-XL</text>", text)
    assert files[1].read_bytes()[:4] == b"\x89PNG"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.png", "x.svg"]
    assert figures.svg(make()) == text  # the same data, the same file


def test_the_command_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_lines(tmp_path / "run.jsonl", SWEEP[:6])
    (tmp_path / "kinds.json").write_text(json.dumps(KINDS))
    folder = tmp_path / "deep" / "pictures"
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(run), str(tmp_path / "kinds.json"), "--plots", str(folder), "--where", "res=256"])
    assert stopped.value.code == 0
    written = {file.name for file in folder.iterdir()}
    assert {
        "macs-by-kind.svg",
        "macs-by-kind.png",
        "fid-macs.svg",
        "batch-cpu-256px-eager-fp32-1threads.svg",
    } <= written
    assert not any("512" in name for name in written)
    err = capsys.readouterr().err
    assert all(f"wrote {folder / name}" in err for name in written)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_lines(tmp_path / "run.jsonl", SWEEP[:1])
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(run), "--plots", str(run / "x")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"convbench: cannot write into {run / 'x'}: ")


def test_draw_returns_its_files(tmp_path: Path) -> None:
    files = draw(Runs(), tmp_path)
    assert files == [tmp_path / "fid-macs.svg", tmp_path / "fid-macs.png"]
