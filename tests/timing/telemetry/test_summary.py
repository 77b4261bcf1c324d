"""Summaries of samples and counters, and findings of a summary, with invented samples."""

from pathlib import Path

import pytest

from convbench.checks.machine import (
    check_confidential_computing,
    check_contention,
    check_exclusive,
    check_machine,
    check_throttling,
)
from convbench.timing.telemetry.cpu import Rapl, Sample
from convbench.timing.telemetry.gpu import reasons_in_words
from convbench.timing.telemetry.summary import joules_per_image, summarise


def invented_samples(seconds: float, **last: float) -> list[Sample]:
    """Make a sample every 0.1 s whose counters grow evenly to the given values."""
    count = round(seconds * 10)
    return [{"at": 100 + n / 10, **{key: value * n / count for key, value in last.items()}} for n in range(count + 1)]


def test_rates_are_differences_of_counters() -> None:
    samples = invented_samples(
        4, machine_s=6, own_s=4, sampler_s=0.2, stolen_s=1, waited_s=0.4, involuntary_switches=12
    )
    summary = summarise(samples, "cpu", 100, 104)
    assert summary["cores_of_others"] == pytest.approx((6 - 4 - 0.2) / 4)
    assert summary["cores_of_others_peak"] == pytest.approx((6 - 4 - 0.2) / 4)
    assert summary["cores_of_this"] == pytest.approx(1)
    assert summary["cores_stolen"] == pytest.approx(0.25)
    assert summary["cores_waited"] == pytest.approx(0.1)
    assert summary["involuntary_switches"] == pytest.approx(12)
    assert summary["frequency_hz"] is None and summary["load_average"] is None


def test_only_the_timed_part_counts() -> None:
    samples = invented_samples(10, own_s=10)
    for sample in samples[:50]:
        sample["sm_clock_hz"] = 345e6  # before the timed part
    for sample in samples[50:]:
        sample["sm_clock_hz"] = 1980e6
    assert summarise(samples, "cuda", 100, 110)["sm_clock_hz_min"] == 345e6
    summary = summarise(samples, "cuda", 105, 108)
    assert summary["sm_clock_hz_min"] == summary["sm_clock_hz_max"] == 1980e6
    assert summary["samples"] == 31


def test_a_burst_of_other_work_shows_in_the_peak() -> None:
    samples = invented_samples(10, machine_s=0, own_s=0, sampler_s=0)
    for n, sample in enumerate(samples):
        sample["machine_s"] = min(max(n - 40, 0), 10) / 10  # a whole core in the fifth second
    summary = summarise(samples, "cpu", 100, 110)
    assert summary["cores_of_others"] == pytest.approx(0.1)
    assert summary["cores_of_others_peak"] == pytest.approx(1)


@pytest.mark.parametrize(("seconds", "joules"), [(9.9, None), (10.0, 7000.0), (30.0, 7000.0)])
def test_energy_needs_ten_seconds(seconds: float, joules: float | None) -> None:
    samples = invented_samples(seconds, gpu_energy_j=7000)
    summary = summarise(samples, "cuda", 100, 100 + seconds)
    assert summary["gpu_energy_j"] == (joules and pytest.approx(joules))
    expected = 7000 / seconds / 50 if joules else None
    assert joules_per_image(summary, 50, "cuda") == (expected and pytest.approx(expected))


def test_energy_needs_samples_over_the_whole_time() -> None:
    assert summarise(invented_samples(6, gpu_energy_j=100), "cuda", 100, 112)["gpu_energy_j"] is None


def test_a_counter_that_was_reset_is_unknown() -> None:
    assert summarise(invented_samples(12, gpu_energy_j=-5), "cuda", 100, 112)["gpu_energy_j"] is None


def test_without_samples_every_value_is_none() -> None:
    summary = summarise([], "cuda", 0, 1)
    assert {key for key, value in summary.items() if value is not None} == {"samples", "sampled_s"}
    assert check_machine(summary, {}) == []


# RAPL, from files like those of the kernel


def zone(root: Path, name: str, label: str, energy_uj: int, range_uj: int = 1_000_000) -> Path:
    path = root / name
    path.mkdir(exist_ok=True)
    for file, value in (("name", label), ("energy_uj", energy_uj), ("max_energy_range_uj", range_uj)):
        (path / file).write_text(f"{value}\n")
    return path


def test_packages_add_up_and_wrap_around(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 100)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)  # part of package-0
    zone(tmp_path, "intel-rapl:2", "psys", 7)  # includes the packages
    rapl = Rapl(tmp_path)
    assert rapl.read() == 0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("950000")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("300")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("999")
    assert rapl.read() == pytest.approx(0.0502)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("10000")
    assert rapl.read() == pytest.approx(0.0502 + 0.06)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert rapl.read() is None


def test_no_readable_package_is_none(tmp_path: Path) -> None:
    assert Rapl(tmp_path).read() is None
    assert Rapl(tmp_path / "missing").read() is None
    (zone(tmp_path, "intel-rapl:0", "package-0", 1) / "energy_uj").unlink()
    assert Rapl(tmp_path).read() is None


# Checks


@pytest.mark.parametrize("bits", [0, 0x1, 0x2, 0x3])
def test_idle_and_application_clocks_are_not_throttling(bits: int) -> None:
    assert check_throttling({"throttle_bits": bits, "sm_clock_hz_min": 1940e6, "sm_clock_hz_max": 1980e6}) is None


def test_throttling_is_described_in_words() -> None:
    samples = invented_samples(1)
    for n, sample in enumerate(samples):
        sample |= {"throttle_bits": [0x1, 0x4, 0x44][n % 3], "sm_clock_hz": 1980e6}
    found = check_throttling(summarise(samples, "cuda", 100, 101))
    assert found and found.severity == "SUSPECT"
    assert str(found) == "THRT: software power cap, hardware thermal slowdown in 64% of the samples"
    assert reasons_in_words(0x801) == ["idle", "unknown reason 0x800"]


def test_a_changing_clock_is_throttling() -> None:
    found = check_throttling({"throttle_bits": None, "sm_clock_hz_min": 1900e6, "sm_clock_hz_max": 1980e6})
    assert str(found) == "THRT: the SM clock varied from 1900 to 1980 MHz"


def test_another_process_on_the_gpu() -> None:
    assert check_exclusive({"other_processes": 0}) is None and check_exclusive({"other_processes": None}) is None
    assert str(check_exclusive({"other_processes": 1})) == "EXCL: 1 other process used the GPU"
    assert str(check_exclusive({"other_processes": 3})) == "EXCL: 3 other processes used the GPU"


def test_confidential_computing() -> None:
    assert (
        check_confidential_computing({"confidential_computing": None}) is None
        and check_confidential_computing({}) is None
    )
    found = check_confidential_computing({"confidential_computing": True})
    assert found and found.code == "CC" and found.severity == "SUSPECT"


def test_contention_on_a_processor() -> None:
    quiet = {"cores_of_others": 0.1, "cores_stolen": 0.0, "cores_waited": 0.05, "cores_of_this": 1.0}
    assert check_contention(quiet) is None and check_contention(dict.fromkeys(quiet)) is None
    busy = {**quiet, "cores_of_others": 0.5, "cores_of_others_peak": 1.25}
    assert str(check_contention(busy)) == "CONT: other processes used 0.50 cores, 1.25 at the peak"
    assert str(check_contention({**quiet, "cores_stolen": 0.2})) == "CONT: the hypervisor took 0.20 cores"
    waits = check_contention({**quiet, "cores_waited": 0.25, "cores_of_this": 0.75})
    assert str(waits) == "CONT: this process waited for a core during 25% of its runnable time"
    for own, waited, is_found in ((0.75, 0.08, False), (0.75, 0.09, True), (7.5, 0.8, False), (7.5, 0.9, True)):
        found = check_contention({**quiet, "cores_waited": waited, "cores_of_this": own})
        assert (found is not None) is is_found, (own, waited)


def test_all_checks_of_a_gpu() -> None:
    summary = {"throttle_bits": 4.0, "other_processes": 1.0, "sm_clock_hz": 1e9, "cores_of_others": 5.0}
    assert [found.code for found in check_machine(summary, {"confidential_computing": True})] == ["THRT", "EXCL", "CC"]
