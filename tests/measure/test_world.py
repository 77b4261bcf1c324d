"""Several processes at once: the speed of all, the straggler by name, a failure of one; and networks in strips."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from throttled import throttled
from torch import Tensor

from convbench.catalogue import find
from convbench.errors import UsageError
from convbench.measure import patches
from convbench.measure.world import measure
from convbench.run.ranks import rank_slots, world_row
from convbench.sampling.shards import World
from convbench.schema import Case
from convbench.timing.clock import Rules
from convbench.timing.derived import derive
from convbench.timing.intervals import ratio_interval

ROOT = Path(__file__).parents[2]
TINY = Rules(block_s=0.005, warmup_s=0.01, min_s=0.02, cap_s=0.1, min_blocks=6, half_width=0.02)


def case(backend: str, **other: Any) -> Case:
    return Case("dico_s", 64, 1, backend, threads=1, **{"world": 2} | other)


@pytest.mark.slow
def test_two_processes_and_a_straggler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of torchrun, with a made-up clock: one rank is five times as slow."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests' / 'support'}")
    row = world_row(case("faulty:lags_on_rank_1"), TINY)
    assert (row["status"], row["world"]) == ("ok", 2)
    assert row["case"] == "dico_s/64px/b1/faulty:lags_on_rank_1/fp32/cpu/1threads/world2"
    assert row["rank_images_per_s"] == [pytest.approx(100), pytest.approx(20)]
    assert row["images_per_s"] == pytest.approx(2 / 0.05)  # both have finished when the slower one has
    assert derive(row)["images_per_s"] == row["images_per_s"]
    assert row["straggler"].startswith("rank 1 on ")
    assert row["straggler"].endswith(" takes 5.00x [5.00, 5.00] as long as the others")
    assert (row["verdict"], row["reason"]) == ("SUSPECT", f"RANK: {row['straggler']}")
    assert [row[key] for key in ("efficiency", "efficiency_low", "efficiency_high")] == [pytest.approx(0.2)] * 3
    assert row["unranked"] == "the images/s of 2 processes together"


@pytest.mark.slow
def test_a_rank_that_is_really_slow_is_named() -> None:
    """Two processes of torchrun; the second is stopped most of the time."""

    def second() -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [child for child in children if child.environ().get("RANK") == "1"]

    with throttled(second):
        row = world_row(case("eager"), replace(TINY, block_s=0.2, cap_s=0.5))
    assert (row["status"], row["world"]) == ("ok", 2)
    print(row["straggler"], row["images_per_s"], row["rank_images_per_s"], row["efficiency"])
    assert row["straggler"].startswith("rank 1 on ")
    assert f"RANK: {row['straggler']}" in row["reason"]
    assert row["rank_images_per_s"][1] < row["rank_images_per_s"][0]
    assert row["efficiency_high"] < 0.9


@pytest.mark.slow
def test_a_rank_that_fails_says_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of one, in this process."""
    monkeypatch.setenv("RANK", "1")  # by which the backend chooses to fail
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        row = measure(case("faulty:fails_on_rank_1"), TINY, World(0, 1))
    finally:
        dist.destroy_process_group()
    assert row is not None
    assert (row.status, row.reason) == ("failed", "rank 0: RuntimeError: no device here")


def test_processes_do_not_share_cores() -> None:
    with pytest.raises(
        UsageError, match=r"--world 4096 with 1 threads each needs 4096 cores .*: cores would be shared"
    ):
        rank_slots(case("eager", world=4096))


def test_efficiency_is_that_of_paired_blocks() -> None:
    """By hand: alone 1 s, the slowest of two 1.25 s, so that two do 1.6 times the work of one."""
    alone, slowest = [1.0, 1.1, 0.9], [1.25, 1.375, 1.125]
    assert ratio_interval(list(zip(alone, slowest, strict=True)))[0] == pytest.approx(0.8)


# In strips


@pytest.mark.slow
def test_strips_give_the_result_of_one_process() -> None:
    """Two processes over gloo; in fp64 nothing but the order of sums differs, and in fp32 neither is nearer to that.

    With AVX2 one process alone is up to 1.3e-6 from its output in fp64, with AVX-512 up to 9.7e-7.
    """
    script = ["scripts/patch_parallel.py", "--res", "192", "--ranks", "2", "--model", "dic_s,dico_s,fcdm_s", "--json"]
    done = subprocess.run([sys.executable, *script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["model"] for row in rows] == ["dic_s", "dico_s", "fcdm_s"]
    for row in rows:
        assert row["error_float64"] < 1e-13
        assert row["from_fp64"] < 1.1 * row["alone_from_fp64"]
        assert row["error_float32"] < max(1e-6, 1.2 * row["alone_from_fp64"])
        assert row["halo_bytes"] == halo_bytes(row["model"], 192)


def halo_bytes(model: str, res: int) -> int:
    """Bytes that each of two ranks sends, from the shapes of the convolutions alone: one side, float32."""
    from convbench.models import create

    network, total = create(model, res=res), 0

    def count(module: torch.nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        assert isinstance(module, torch.nn.Conv2d)
        batch, channels, _, width = given[0].shape
        total += 4 * batch * channels * width * (module.kernel_size[0] // 2)

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)  # type: ignore[arg-type]
    with torch.inference_mode():
        network(torch.zeros(1, 4, res // 8, res // 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    return total


def test_what_cannot_be_split_is_refused() -> None:
    for model, rows, ranks, words in (
        ("dit_s_2", 32, 2, "cannot be computed in strips"),
        ("dico_s", 32, 3, "32 rows of a latent do not divide into 3 strips"),
    ):
        with pytest.raises(UsageError, match=words):
            patches.require_splittable(find(model), rows, ranks)


@pytest.mark.parametrize("part", ["group_norm", "average", "vector_norm", "conv2d"])
def test_each_exchanged_function_equals_its_own_over_the_whole_map(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ranks in turn, in this process: what would be gathered is computed beforehand."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 12, 5, dtype=torch.float64) + 3
    weight, bias = torch.randn(2, 8, dtype=torch.float64)
    kernel = torch.randn(8, 1, 5, 3, dtype=torch.float64)
    calls = {
        "group_norm": lambda v: F.group_norm(v, 2, weight, bias, 1e-5),
        "average": lambda v: F.adaptive_avg_pool2d(v, 1),
        "vector_norm": lambda v: torch.linalg.vector_norm(v, dim=(2, 3), keepdim=True),
        "conv2d": lambda v: F.conv2d(v, kernel, None, 1, (2, 1), 1, 8),
    }
    whole, strips = calls[part](x), x.chunk(2, dim=2)

    sent: list[Tensor] = []
    monkeypatch.setattr(
        patches.PatchParallel, "gathered", lambda self, tensor: sent.append(tensor) or torch.stack([tensor] * 2)
    )
    for rank, strip in enumerate(strips):
        with patches.PatchParallel(rank, 2):
            if part != "conv2d":
                calls[part](strip)
    both = torch.stack(sent) if sent else None
    monkeypatch.setattr(patches.PatchParallel, "gathered", lambda self, tensor: both)

    def with_halo(self: patches.PatchParallel, v: Tensor, rows: int) -> Tensor:
        padded = F.pad(x, (0, 0, rows, rows))
        start = self.rank * v.shape[2]
        return padded[:, :, start : start + v.shape[2] + 2 * rows]

    monkeypatch.setattr(patches.PatchParallel, "with_halo", with_halo)
    found = []
    for rank, strip in enumerate(strips):
        with patches.PatchParallel(rank, 2):
            found.append(calls[part](strip))
    joined = torch.cat(found, dim=2) if part in ("group_norm", "conv2d") else found[0]
    torch.testing.assert_close(joined, whole, rtol=1e-12, atol=1e-12)


def test_a_kernel_that_reaches_beyond_a_strip_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a strip of 2 rows is lower than the reach of a kernel \(3\)"):
        patches.PatchParallel(0, 2).with_halo(torch.zeros(1, 1, 2, 4), 3)
    mode = patches.PatchParallel(0, 2)
    for call, words in (
        (
            lambda: mode.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3), None, (2, 2), (1, 1), (1, 1)),
            "stride 1",
        ),
        (lambda: mode.average(torch.zeros(1, 1, 8, 8), 2), "over the whole map"),
        (lambda: mode.vector_norm(torch.zeros(1, 1, 8, 8), 1, (2, 3)), "over the whole map"),
    ):
        with pytest.raises(UsageError, match=words):
            call()
