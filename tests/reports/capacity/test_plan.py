"""Capacity plans: the arithmetic by hand, ranks, reasons, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from stored import MACHINE, measured, write_lines

from convbench.cli.plan_capacity import command
from convbench.errors import NothingMeasured, UsageError
from convbench.reports.capacity.devices import PlannedDevice, read_devices
from convbench.reports.capacity.plan import MEASURED, MODELLED, Demand, plan
from convbench.schema import Case, SamplingMeasurement
from convbench.schema.upgrade import SCHEMA

CORE = PlannedDevice(match="test", price_per_hour=0.36, watts=20.0, name="core")


def rows(model: str = "dico_s", speeds: tuple[float, ...] = (10.0, 16.0), **known: Any) -> list[dict[str, Any]]:
    """Batches of 1, 2, 4 …"""
    return [
        measured(model, speed, batch=2**n, macs_full=10**9, params=10**7, **known) for n, speed in enumerate(speeds)
    ]


def demand(per_s: float = 1.0, **known: Any) -> Demand:
    given = {"steps": 10, "cfg": 1.0, "res": 256, "latency_s": None, "max_delay_s": 0.0} | known
    return Demand(86_400 * per_s, **given)


def test_devices_cost_and_energy_by_hand() -> None:
    """16 passes/s in batches of 2, 10 steps: 1.6 images/s a device, used up to 95 % without a limit on latency."""
    found = plan(rows(), [CORE], demand(per_s=4.0))
    first = found[0]
    assert (first["rank"], first["max_batch"], first["devices"], first["basis"]) == (1, 2, 3, MEASURED)
    assert first["capacity_images_per_s"] == pytest.approx(1.6)
    assert first["utilisation"] == pytest.approx(4.0 / 4.8)
    assert first["headroom_one_failed"] == pytest.approx(3.2 / 4.0)
    assert first["cost_per_million"] == pytest.approx(3 * 0.36 / 3600 / 4.0 * 1e6)  # 3 devices, 1e6 / 4 seconds
    assert first["kwh_per_million"] == pytest.approx(3 * 20 / 4.0 * 1e6 / 3.6e6)
    assert first["energy_from"] == "watts of the devices file"
    assert {row["max_batch"]: row["devices"] for row in found if row["method"] == "step"} == {2: 3, 1: 5}


def test_the_interval_is_that_of_the_measurement() -> None:
    (first, *_) = plan(rows(half=0.10), [CORE], demand(per_s=40.0))
    counts = [math.ceil(40 / (1.6 * factor) / 0.95) for factor in (1.1, 1.0, 0.9)]
    assert [first["devices_low"], first["devices"], first["devices_high"]] == counts
    assert first["cost_per_million_low"] < first["cost_per_million"] < first["cost_per_million_high"]
    for kind in ("poisson", "bursty"):
        assert first[f"p99_{kind}_s_low"] < first[f"p99_{kind}_s"] < first[f"p99_{kind}_s_high"]


def test_guidance_takes_two_passes() -> None:
    capacities = {
        cfg: {row["max_batch"]: row["capacity_images_per_s"] for row in plan(rows(), [CORE], demand(cfg=cfg))}
        for cfg in (1.0, 1.5)
    }
    assert capacities[1.5] == {2: pytest.approx(0.8), 1: pytest.approx(0.5)}  # batch 1: one pass after the other
    assert capacities[1.0] == {2: pytest.approx(1.6), 1: pytest.approx(1.0)}


def test_measured_energy_comes_before_stated_watts() -> None:
    (first, *_) = plan(rows(joules_per_image=3.6), [CORE], demand(cfg=1.5))
    assert (first["kwh_per_million"], first["energy_from"]) == (pytest.approx(20.0), "measured")


def test_a_limit_on_latency_leaves_devices_idle_or_drops_a_way() -> None:
    """Alone an image takes 10 * 0.1 s."""
    free = plan(rows(), [CORE], demand(per_s=40.0))[0]["devices"]
    tight = plan(rows(), [CORE], demand(per_s=40.0, latency_s=5.0))
    assert tight[0]["devices"] > free and tight[0]["p99_poisson_s"] <= 5
    bursts = plan(rows(), [CORE], demand(per_s=40.0, latency_s=5.0, arrivals="bursty"))
    assert bursts[0]["devices"] > tight[0]["devices"] and bursts[0]["p99_bursty_s"] <= 5
    none = plan(rows(), [CORE], demand(latency_s=0.9))
    assert {row["rank"] for row in none} == {None}
    assert {row["method"]: row["reason"] for row in none} == {
        "step": "one image alone takes 1.01 s, more than 0.9 s",
        "image": "one image alone takes 1 s, more than 0.9 s",
    }


def test_the_cheapest_comes_first_and_ties_are_ties() -> None:
    both = [*rows(), *rows("fcdm_s", (20.0, 32.0)), *rows("dic_s", (20.0, 32.0))]
    found = [row for row in plan(both, [CORE], demand(per_s=10.0)) if row["method"] == "step" and row["max_batch"] == 2]
    ranks = {row["model"]: row["rank"] for row in found}
    assert ranks["fcdm_s"] == ranks["dic_s"] == 1 < ranks["dico_s"]


def test_a_device_without_rows_is_modelled_and_never_ranked() -> None:
    """2 * 1e9 FLOPs at 67e12/s, or 4e7 bytes at 3.35e12/s for a batch: the peaks of an H100 in fp32."""
    card = PlannedDevice(match="H100", peak="h100_sxm", price_per_hour=0.0001, name="card")
    found = plan(rows(), [CORE, card], demand())
    (modelled,) = [row for row in found if row["basis"] == MODELLED]
    assert modelled["rank"] is None and modelled["planned_device"] == "card"
    assert modelled["capacity_images_per_s"] == pytest.approx(67e12 / 2e9 / 10)
    assert found[0]["basis"] == MEASURED and found[0]["rank"] == 1  # though the other is far cheaper
    beside = plan([*rows(), *rows(environment=MACHINE | {"gpus": [{"name": "H100"}]})], [card], demand())
    assert {row["basis"] for row in beside} == {MEASURED}


def test_reasons_of_those_that_fall_out() -> None:
    found = plan([*rows("fcdm_s"), *rows("dico_s")], [CORE], demand(commercial=True))
    reasons = {row["model"]: row["reason"] for row in found}
    assert reasons == {"dico_s": None, "fcdm_s": "not for commercial use: code CC-BY-NC-4.0, weights not stated"}
    few = PlannedDevice(match="test", count=2, name="core")
    assert plan(rows(), [few], demand(per_s=4.0))[0]["reason"].endswith("there are 2")
    invalid = [*rows(), *rows("dic_s", verdict="INVALID")]
    assert {row["model"] for row in plan(invalid, [CORE], demand())} == {"dico_s"}


def test_whole_images_count_only_with_these_steps_and_this_guidance() -> None:
    known = {"status": "ok", "verdict": "VALID", "environment": MACHINE, "sampler": "ddim", "decode": True}
    case = Case("dico_s", 256, 4, threads=1, sampling="steps=10,cfg=1")
    speeds = {"finished_images_per_s": 1.2, "finished_images_per_s_low": 1.1, "finished_images_per_s_high": 1.3}
    row = SamplingMeasurement.of(case, steps=10, cfg_scale=1.0, **speeds, **known).to_json()
    sampled = [{"schema": SCHEMA, **row}]
    (found,) = plan(sampled, [CORE], demand())
    assert (found["method"], found["capacity_images_per_s"]) == ("image", pytest.approx(1.2))
    with pytest.raises(NothingMeasured, match=r"whole images with steps=10,cfg=1, not with steps=50,cfg=1.5"):
        plan(sampled, [CORE], demand(steps=50, cfg=1.5))


def test_rows_of_other_sizes_and_machines_are_one_line() -> None:
    with pytest.raises(NothingMeasured, match="no stored row is of --res 512: there are 256"):
        plan(rows(), [CORE], demand(res=512))
    with pytest.raises(UsageError, match="no device of the file matches the stored rows: they are of test, 1 core"):
        plan(rows(), [PlannedDevice(match="MI300", name="x")], demand())
    with pytest.raises(NothingMeasured, match="no stored row holds a valid measurement"):
        plan([], None, demand())


FILES = {
    "[x]\npeak = 'h1000'": "h100_sxm or h100_pcie?",
    "[x]\nmatch = 'a'\nprice = 1": "price_per_hour",
    "[x]\nmatch = 'a'\nprice_per_hour = -1": "price_per_hour of x is -1",
    "[x]\nmatch = 1": "match 1, not a text",
    "[x]": "needs match",
    "x = 1": "x is not a table",
    "": "has 0 devices",
    "[x": "is not TOML",
}


@pytest.mark.parametrize("text", FILES)
def test_a_bad_file_of_devices_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "devices.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        read_devices(file)
    assert FILES[text] in str(error.value) and "\n" not in str(error.value)


def test_the_example_of_devices_is_one() -> None:
    known = read_devices(Path(__file__).parents[3] / "examples" / "devices.toml")
    assert [device.name for device in known] == ["epyc_core", "epyc_2_cores", "h100"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments)], standalone_mode=False)


def test_the_command_prints_the_plan_and_draws_it(tmp_path: Path) -> None:
    store, picture = write_lines(tmp_path / "a.jsonl", rows()), tmp_path / "plan.svg"
    asked = ("--store", store, "--images-per-day", "1e5", "--steps", 10)
    done = run(*asked, "--plot", picture, "--format", "json")
    assert (done.return_value, json.loads(done.stdout)[0]["rank"]) == (0, 1)
    assert "images a day" in picture.read_text("utf-8")
    table = run(*asked).stdout
    assert "Cheapest: " in table and "No prices: ranked by the number of devices" in table
    assert run(*asked, "--latency-p99", "1ms").return_value == 3


@pytest.mark.parametrize("asked", ["0", "-1", "nan", "inf", "1e99", "many"])
def test_an_absurd_demand_is_refused(asked: str, tmp_path: Path) -> None:
    store = write_lines(tmp_path / "a.jsonl", rows())
    done = run("--store", store, "--images-per-day", asked, "--steps", 10)
    assert done.exception is not None and "images-per-day" in str(done.exception.format_message())  # type: ignore[attr-defined]
