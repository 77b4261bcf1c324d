"""The audit: every printed number is in our tables, every rate is arithmetic, every finding is one that can be checked.

The oracles are a table that was made by hand from the printed numbers, and
the printed numbers themselves, ``data/published.csv``.
"""

import csv
import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ablated import OURS

from convbench.catalogue import devices, families, other_systems, papers, printed_lines, printed_only, variants
from convbench.cli import audit as command
from convbench.cli import main
from convbench.papers import audit, findings, implied
from convbench.reports.tables.text import render

HERE = Path(__file__).parents[1]
METRICS = {"gflops": "gmacs", "winograd_gflops": "winograd_gmacs", "throughput": "images_per_s"}
WHERE = ("paper", "table", "label", "model", "res", "training", "guidance")
A100 = {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12, "fp16": 312e12}
Number = tuple[Any, ...]


@cache
def rows() -> list[dict[str, Any]]:
    """The whole audit: it counts every model that a paper prints, so that tests of it are slow."""
    return audit.audit()


@cache
def rows_of(paper: str, model: str) -> list[dict[str, Any]]:
    """Those lines of it alone; findings know of all."""
    return audit.audit([paper], [model])


def only(paper: str, table: str, model: str, res: int = 256) -> dict[str, Any]:
    """The one row, or the first of several that print the same throughput."""
    place = {"paper": paper, "table": table, "model": model, "res": res}
    found = [row for row in rows_of(paper, model) if place.items() <= row.items()]
    assert len({row["images_per_s"] for row in found}) == 1
    return found[0]


# ---- the printed numbers ----


UNNAMED = {  # nameless in the file
    "w/o CCA": "dico_s@attention=none",
    "CCA->SE module": "dico_s@attention=se",
    "Sparse-Skip U-Net": "dic_xl@embedding=shared@injection=first@gate=no@activation=silu",
    "+ Stage-Spec. Emb.": "dic_xl@injection=first@gate=no@activation=silu",
    "+ Mid-Block Injection": "dic_xl@gate=no@activation=silu",
    "+ DiT condition gating": "dic_xl@activation=silu",
}


def printed_in_csv() -> list[Number]:
    """Every line of published.csv, in our words."""
    with (HERE / "data" / "published.csv").open(encoding="utf-8", newline="") as file:
        return [
            (
                line["source"],
                *(line[key] for key in ("table", "label")),
                OURS.get(line["model"]) or UNNAMED.get(line["label"]) or line["model"],
                *(line[key] for key in ("resolution", "training", "guidance")),
                METRICS.get(line["metric"], line["metric"]),
                line["value"] if line["metric"] == "depths" else float(line["value"]),
            )
            for line in csv.DictReader(file)
        ]


def printed_in_tables() -> list[Number]:
    """Every number of models/*.toml and published.toml."""
    found = []
    for line in printed_lines() + other_systems()["sizes"]:
        place = tuple(str(line.get(key) or "") for key in WHERE)
        for key in line.keys() - {*WHERE}:
            value = line[key]
            found.append((*place, key, "-".join(map(str, value)) if isinstance(value, list) else float(value)))
    return found


def test_our_tables_hold_every_printed_number_and_no_other() -> None:
    assert Counter(printed_in_tables()) == Counter(printed_in_csv())
    assert len(printed_in_csv()) == 1438


@pytest.mark.slow
def test_one_row_for_each_printed_throughput() -> None:
    printed = [number for number in printed_in_csv() if number[-2] == "images_per_s"]
    audited = [
        (*(str(row[key] or "") for key in WHERE), "images_per_s", row["images_per_s"])
        for row in rows()
        if row["images_per_s"] is not None
    ]
    assert Counter(audited) == Counter(printed)
    assert len(printed) == 116


@pytest.mark.slow
def test_rows_without_throughput_are_counts_with_a_remark() -> None:
    assert {(row["model"], row["findings"][0]) for row in rows() if row["images_per_s"] is None} == {
        ("adm_u", "two_networks")
    }
    assert sum(row["images_per_s"] is None for row in rows()) == 5


@pytest.mark.slow
def test_every_row_has_macs_its_source_and_a_finding() -> None:
    for row in rows():
        assert implied.macs_used(row) > 1e9
        assert (row["macs"] is None) == (row["macs_source"] == "as printed")
        assert papers()[row["paper"]]["arxiv"] in row["source"] and row["table"] in row["source"]
        assert row["findings"] and set(row["findings"]) <= set(findings.FINDINGS)
        assert row["words"].endswith(".")
        if row["model"] is None:  # a line that has only its label
            assert row["macs"] is None and row["gmacs_printed"]


# ---- the peaks ----


def test_the_a100_of_the_papers() -> None:
    """All four have the same arithmetic; NVIDIA's data sheet, dense."""
    a100s = [device for device in devices().values() if device["gpu"] == "A100"]
    assert len(a100s) == 4
    assert all(device["flops_per_s"] == A100 for device in a100s)
    assert {device["bytes_per_s"] for device in a100s} == {1555e9, 1935e9, 2039e9}
    assert {implied.UNSTATED_GPU, *(p["gpu"] for p in papers().values() if not implied.not_stated(p["gpu"]))} == {
        "A100"
    }


@pytest.mark.parametrize("id", list(devices()))
def test_a_device_is_whole_and_dense(id: str) -> None:
    device = devices()[id]
    assert set(device) == {"gpu", "name", "flops_per_s", "bytes_per_s", "memory_bytes", "source", "quoted_by"}
    assert device["name"].startswith("NVIDIA ") and device["source"].startswith("NVIDIA ") and device["quoted_by"]
    peaks = device["flops_per_s"]
    assert 10e12 < peaks["fp32"] < 100e12
    assert 300e9 < device["bytes_per_s"] < 10e12
    assert 10e9 < device["memory_bytes"] < 300e9
    if "tf32" in peaks:  # tensor cores compute TF32 at half the rate of half precision; sparse figures would not fit
        assert peaks["fp16"] == peaks["bf16"] == pytest.approx(2 * peaks["tf32"], rel=0.02)
        assert peaks["fp16"] < 20 * peaks["fp32"]


# ---- the rates ----

PROTOCOL = [  # paper, table, model, res, TFLOP/s, % of FP32, % of TF32: made by hand
    ("dic", "5", "dit_xl_2", 256, 15.8, 81, 10),
    ("dico", "1", "dit_xl_2", 256, 18.2, 94, 12),
    ("dico", "2", "dit_xl_2", 512, 19.5, 100, 12),
    ("dico", "1", "uvit_h_2", 256, 19.6, 100, 13),
    ("dico", "1", "dico_xl", 256, 36.4, 187, 23),
    ("dico", "2", "dico_xl", 512, 40.2, 206, 26),
    ("fcdm", "2", "fcdm_xl", 256, 35.2, 181, 23),
    ("fcdm", "4", "fcdm_xl", 512, 66.8, 343, 43),
    ("dic", "5", "dic_xl", 256, 72.8, 373, 47),
    ("dic", "7", "dic_xl", 512, 78.2, 401, 50),
    ("fcdm", "4", "dic_xl", 512, 115.3, 591, 74),
]


@pytest.mark.parametrize(("paper", "table", "model", "res", "tflops", "fp32", "tf32"), PROTOCOL)
def test_the_table_of_the_protocol(
    paper: str, table: str, model: str, res: int, tflops: float, fp32: int, tf32: int
) -> None:
    """From the printed MACs to its digits (percentages there are of rounded rates); from ours within half a percent."""
    row = only(paper, table, model, res)
    assert round(row["printed_flops_per_s"] / 1e12, 1) == tflops
    assert abs(100 * row["printed_flops_per_s"] / 19.5e12 - fp32) < 0.6
    assert abs(100 * row["printed_flops_per_s"] / 156e12 - tf32) < 0.6
    assert row["implied_flops_per_s"] == pytest.approx(row["printed_flops_per_s"], rel=5e-3)
    assert row["implied_flops_per_s"] == 2 * row["macs"] * row["images_per_s"]
    assert row["share_fp32"] == row["implied_flops_per_s"] / 19.5e12
    assert row["share_tf32"] == row["implied_flops_per_s"] / 156e12
    assert row["share_fp16"] == row["implied_flops_per_s"] / 312e12


def test_rates_by_hand() -> None:
    dit = only("dico", "2", "dit_xl_2", 512)
    assert dit["macs"] == 524_671_631_616
    assert dit["implied_flops_per_s"] == pytest.approx(19.4968e12, rel=1e-6)  # 2 * 524.671631616e9 * 18.58
    assert f"{100 * dit['share_fp32']:.0f}" == "100"
    assert only("dico", "1", "dico_xl")["share_fp32"] > 1.8
    assert only("fcdm", "2", "fcdm_xl")["share_fp32"] > 1.8
    # Winograd in DiC-XL: 116.1366 GMACs hold 114.1944 in dense 3x3 convolutions, 4/9 or 1/4 of which stay.
    dic = only("dic", "5", "dic_xl")
    assert dic["conv3x3_macs"] == 114_194_644_992
    assert dic["share_fp32_winograd_2x2"] == pytest.approx(2 * 52.69512e9 * 313.7 / 19.5e12, rel=1e-6)
    assert dic["share_fp32_winograd_4x4"] == pytest.approx(2 * 30.49061e9 * 313.7 / 19.5e12, rel=1e-6)
    # DiG: what the paper prints, what a tracer finds, and with the recurrence.
    dig = only("dico", "1", "dig_xl_2")
    assert (dig["gmacs_printed"], round(dig["macs"] / 1e9, 2), round(dig["macs_full"] / 1e9, 2)) == (
        89.4,
        114.72,
        115.46,
    )


def count_of(model: str) -> implied.Counted:
    return implied.counted(model, 256)


def test_a_remark_is_a_finding() -> None:
    remarks = [family.facts["counting"]["remark"] for family in families().values() if "counting" in family.facts]
    assert {remark["code"] for remark in remarks} == {
        "count_leaves_out",
        "two_networks",
        "another_model",
        "other_counter",
    }
    for remark in remarks:
        assert set(remark) == {"code", "words"}
        assert remark["code"] in findings.FINDINGS


def test_printed_only_systems_are_none_of_ours() -> None:
    assert set(printed_only()).isdisjoint(variants())


# ---- the findings ----

FOUND = [  # paper, table, model, res, code, a part of the sentence
    ("dico", "2", "dit_xl_2", 512, "fp32", "19.5 TFLOP/s: 100 % of the A100's FP32 peak, consistent with FP32"),
    ("dico", "2", "dit_xl_2", 512, "at_peak", "FP32 alone would leave no time"),
    ("dico", "1", "dico_xl", 256, "tensor_cores", "36.4 TFLOP/s: 187 % of the A100's FP32 peak and 23 % of its TF32"),
    ("dico", "1", "dico_xl", 256, "above_stated", "The paper states fp32."),
    ("fcdm", "2", "fcdm_xl", 256, "tensor_cores", "35.2 TFLOP/s: 181 % of the A100's FP32 peak"),
    ("dic", "5", "dic_xl", 256, "tensor_cores_or_winograd", "with F(4x4, 3x3) 98 %"),
    ("dic", "7", "dic_xl", 512, "tensor_cores", "with F(4x4, 3x3) 105 %, their transforms not counted: only tensor"),
    ("fcdm", "2", "dic_s", 256, "tensor_cores_or_winograd", "190 % of the A100's FP32 peak"),
    ("fcdm", "10", "fcdm_l@width=1024@depths=4-8-4", 256, "tensor_cores", "with F(4x4, 3x3) 180 %"),
    ("dic", "5", "dic_xl", 256, "printed_differently", "263.1 (fcdm, table: 2; batch 64); here 313.7, batch 32."),
    ("dico", "1", "dico_xl", 256, "printed_differently", "174.2 (fcdm, table: 3; batch 64)"),
    ("fcdm", "3", "dico_xl", 256, "printed_differently", "208.47 (dico, table: 1; batch 64); 208.5 (fcdm, table: 2;"),
    ("dic", "5", "dit_xl_2", 256, "printed_differently", "76.9 (dico, table: 1; batch 64)"),
    ("dico", "3", "dit_s_2", 256, "printed_differently", "1234.01 (dico, table: 1 as DiT-S/2; batch 64)"),
    ("fcdm", "4", "fcdm_xl", 512, "scaling", "MACs grow 3.99-fold and images/s fall 2.10-fold, from 272.7 to 129.6"),
    ("fcdm", "4", "dic_xl", 512, "scaling", "1.89 times as high. At equal utilisation it would be 65.81 images/s."),
    ("fcdm", "4", "dico_xl", 512, "scaling", "from 174.2 to 82"),
    ("dico", "1", "dig_xl_2", 256, "count_leaves_out", "Printed 89.4 GMACs, ours 114.72, 115.46 including what"),
    ("dico", "1", "dim_h", 256, "count_leaves_out", "Printed 210 GMACs, ours 308.08, 310.50 including what"),
    ("dico", "2", "dim_h", 512, "count_leaves_out", "Printed 708 GMACs, ours 1035.33, 1043.47 including what"),
    ("dico", "1", "dimsum_l_2", 256, "count_leaves_out", "Printed 84.49 GMACs, ours 96.16, 96.47 including what"),
    ("dico", "2", "dico_xl", 512, "count_differs", "Printed 349.78 GMACs, ours 348.19: +0.5 %"),
    ("fcdm", "11", "fcdm_l@width=552@depths=2-4-6-4-2", 256, "count_differs", "Printed 49.4 GMACs, ours 52.29: -5.5 %"),
    ("dico", "1", "adm_u", 256, "two_networks", "109.73 + 632.06 GMACs"),
    ("dico", "2", "adm_u", 512, "two_networks", "307.08 + 2506.45"),
    ("dic", "5", "pixart_xl_2", 256, "another_model", "149.13 GMACs with 120"),
    ("dic", "5", "dit_xl_2", 256, "precision_not_stated", "does not state the precision"),
    ("fcdm", "2", "dit_xl_2", 256, "gpu_not_stated", "the peaks are the A100's"),
]


@pytest.mark.parametrize(("paper", "table", "model", "res", "code", "words"), FOUND)
def test_a_finding_that_the_papers_hold(paper: str, table: str, model: str, res: int, code: str, words: str) -> None:
    row = only(paper, table, model, res)
    assert code in row["findings"]
    assert words in row["words"]


@pytest.mark.parametrize(
    ("paper", "table", "model", "res", "code"),
    [
        ("dico", "2", "dit_xl_2", 512, "scaling"),  # 1.07
        ("dico", "2", "dico_xl", 512, "scaling"),  # 1.10
        ("fcdm", "2", "dit_l_2", 256, "printed_differently"),  # 114.6 and 114.63
        ("fcdm", "2", "dico_b", 256, "printed_differently"),  # 823.0 and 822.97
        ("dic", "5", "dit_xl_2", 256, "count_differs"),  # 118.6 and 118.65
        ("fcdm", "2", "dico_s", 256, "count_differs"),  # 4.3 and 4.249
        ("dico", "1", "dico_xl", 256, "precision_not_stated"),
        ("dico", "1", "dit_xl_2", 256, "above_stated"),
    ],
)
def test_no_finding_where_there_is_none(paper: str, table: str, model: str, res: int, code: str) -> None:
    assert code not in only(paper, table, model, res)["findings"]


@pytest.mark.slow
def test_what_the_page_says_about_transformers_and_convolutions() -> None:
    """Attention and scans at or under the FP32 peak, 1 % over it at most; convolutions above it from size B on."""
    convolutions = ("dic_", "dico_", "fcdm")
    low: list[float] = []
    high: list[float] = []
    for row in rows():
        if row["share_fp32"] is None or row["model"] is None:
            continue
        small = row["model"].startswith(("dic_s", "dico_s", "fcdm_s"))
        if not row["model"].startswith(convolutions):
            low.append(row["share_fp32"])
        elif not small:
            high.append(row["share_fp32"])
    assert len(low) > 40 and max(low) < 1.015
    assert len(high) > 40 and min(high) > 1.07
    scaled = [row for row in rows() if "scaling" in row["findings"]]
    assert {row["model"] for row in scaled} == {"dic_xl", "dic_h", "dico_xl", "fcdm_xl"}


# ---- the rules, on made-up rows ----


def made_up(**keys: Any) -> dict[str, Any]:
    row = dict.fromkeys(rows()[0]) | {"res": 256, "peaks_of": "A100", "precision": "not stated", "gpu": "A100"}
    return row | {"macs_source": "made up"} | keys


@pytest.mark.parametrize(
    ("tflops", "four", "code"),
    [
        (19.8, None, "fp32"),  # 1.5 % over: digits
        (20.0, None, "above_fp32"),
        (20.0, 1.01, "tensor_cores_or_winograd"),
        (20.0, 1.03, "tensor_cores"),
        (159.0, 1.03, "tensor_cores"),
        (160.0, 1.03, "above_tf32"),
        (318.0, 1.03, "above_tf32"),
        (320.0, 1.03, "above_fp16"),
    ],
)
def test_each_step_of_the_peaks(tflops: float, four: float | None, code: str) -> None:
    shares = {f"share_{name}": tflops * 1e12 / A100[name] for name in ("fp32", "tf32", "fp16")}
    winograd = {"share_fp32_winograd_2x2": four, "share_fp32_winograd_4x4": four}
    row = made_up(implied_flops_per_s=tflops * 1e12, **shares, **winograd)
    assert findings.find(row, [])[0][0] == code


def test_a_gpu_without_tf32() -> None:
    row = made_up(implied_flops_per_s=20e12, share_fp32=1.3, share_fp16=0.16, share_fp32_winograd_4x4=1.2)
    (code, words), *_ = findings.find(row | {"share_fp32_winograd_2x2": 1.25}, [])
    assert code == "tensor_cores" and "TF32 peak" not in words


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (66.8, 76.9, False),
        (18.58, 18.6, True),
        (18.54, 18.6, False),
        (1234.0, 1234.01, True),
        (822.97, 823.0, True),
        (73.45, 73.5, True),
        (208.47, 208.5, True),
        (82.0, 57.45, False),
        (313.7, 263.1, False),
    ],
)
def test_numbers_agree_but_for_their_digits(a: float, b: float, same: bool) -> None:
    assert findings.agree(a, b) is findings.agree(b, a) is same


def test_a_line_that_nobody_can_price() -> None:
    """No MACs, printed or ours: no rate, no share, no guess."""
    row = implied.priced({"paper": "fcdm", "table": "3", "model": "maskdit_xl_2", "label": "MaskDiT", "res": 256})
    assert row["macs"] is row["implied_flops_per_s"] is row["share_fp32"] is row["images_per_s"] is None
    assert [code for code, _ in findings.find(row, [])] == ["precision_not_stated", "gpu_not_stated"]


# ---- the command ----


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["audit", *args])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.mark.slow
def test_json_holds_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == rows()


@pytest.mark.slow
def test_filters(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--paper", "dico,fcdm", "--model", "dit_xl_2,uvit_h_2", "--format", "json")
    expected = [r for r in rows() if r["paper"] in ("dico", "fcdm") and r["model"] in ("dit_xl_2", "uvit_h_2")]
    assert json.loads(out) == expected  # findings know of the papers that are not shown
    assert len(expected) == 12


@pytest.mark.slow
def test_csv(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--paper", "dic", "--format", "csv")
    lines = list(csv.DictReader(out.splitlines()))
    expected = [row for row in rows() if row["paper"] == "dic"]
    assert [line["findings"].split() for line in lines] == [row["findings"] for row in expected]
    assert [float(line["share_fp32"]) for line in lines] == [row["share_fp32"] for row in expected]


def test_table_shows_equal_lines_once(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--paper", "fcdm", "--model", "fcdm_xl")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "FCDM-XL 256 fcdm 2, 3, 10 272.7 64.59 35.2 181 % 23 % tensor cores; scaling" in lines
    assert "FCDM-XL 512 fcdm 4 129.6 257.74 66.8 343 % 43 % tensor cores; scaling" in lines
    assert sum(line.startswith("FCDM-XL") for line in lines) == 2
    assert any(line.startswith("fcdm: Reviving ConvNeXt") and "precision not stated" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "table"])
def test_80_columns_hold_the_table(form: str) -> None:
    shown = [command._shown(row) for row in audit.merged(rows())]
    lines = render(shown, command.KEYS, form, [], width=80).splitlines()
    text = " ".join(lines)
    assert all(f"{row['images_per_s']:.10g}" in text for row in rows() if row["images_per_s"])
    for word in (
        "Winograd",
        "differs",
        "released",
        "PixArt-a-XL/2",
        "2813.57",
    ):  # the widest of their columns, unbroken
        assert word in text
    if form == "plain":
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--paper", "dit"], "unknown paper 'dit'; choose from dic, dic_poster, dico, fcdm"),
        (["--model", "dit_xl"], "no paper prints a throughput of 'dit_xl'; choose from dit_xl_2"),
        (["--model", "dit_s_4"], "no paper prints a throughput of 'dit_s_4'; choose from dit_s_2"),
        (["--paper", "dic", "--model", "fcdm_xl"], "no throughput of fcdm_xl is printed in dic"),
        (["--format", "xml"], "Invalid value for '--format': 'xml'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exits_2(
    capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"convbench: {message}")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_help_ends_with_two_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    examples = out.split("Examples:\n")[1].strip().splitlines()
    assert [line.strip().split()[:2] for line in examples] == [["convbench", "audit"]] * 2
    for line in examples:
        assert run(capsys, *line.split()[2:])[0] == 0


def test_nothing_loads_torch_before_it_counts() -> None:
    program = (
        "import sys; from convbench.papers import audit; from convbench.cli import audit as command\n"
        "rows = audit.audit(['dic'], ['uvit_xl'])\n"
        "print(len(rows), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


@pytest.mark.slow
def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """`make docs` renews it."""
    page = (HERE.parent / "docs" / "audit.md").read_text("utf-8")
    _, out, _ = run(capsys, "--format", "markdown")
    introduction, line, made = page.partition("<!-- Below this line `make docs` writes")
    assert line and "hypothesis" in introduction
    assert made.partition("\n")[2].strip() == out.strip()
