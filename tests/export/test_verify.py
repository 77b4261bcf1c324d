"""What ``verify`` says of an engine that is wrong by a known amount, in a single pass or along a trajectory alone."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import exported
import pytest
import torch
from torch import Tensor, nn

from convbench import catalogue
from convbench.errors import UsageError
from convbench.export import folder, verify

LIMITS = {"fp32": 5e-6, "fp16": 1e-2, "bf16": 5e-2, "int8": 1e-1}  # of a pass, relative to fp32 PyTorch
TRAJECTORY_LIMITS = {"fp32": 5e-6, "fp16": 4e-3, "bf16": 5e-2, "int8": 2e-1}
STEPS = 10
SIZES = exported.sizes("dico")
MANIFEST = folder.Manifest(
    model="tiny:dico",
    signature=SIZES.takes,
    res=exported.RES,
    to="aoti",
    precision="fp32",
    batch=(1, 8),
    dimensions=SIZES.dimensions,
    inputs=SIZES.ports()[0],
    outputs=tuple(
        replace(port, shape=tuple(8 if side == 0 else side for side in port.shape)) for port in SIZES.ports()[1]
    ),
    entry="model.pt2",
    weights={"source": "random, seed 0", "sha256": "0" * 64},
    versions={"torch": torch.__version__},
    target={"device": "cpu", "torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()},
    command="convbench export",
    created_utc="2026-11-21T00:00:00+00:00",
    build_s=0.0,
)


class Engine:
    """The network, off by a share of its output: in the passes, and in the calls of the trajectory behind them."""

    def __init__(self, network: nn.Module, passes: float = 0.0, trajectory: float = 0.0, compared: int = 7) -> None:
        self.network, self.off, self.compared = network, (passes, trajectory), compared
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.network(x, t, y)
        return out * (1 + self.off[self.calls > self.compared])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return exported.network("dico")


Check = Any


@pytest.fixture
def check(tmp_path: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check an artefact that the given engine stands for."""

    def check(
        engine: Engine,
        precision: str = "fp32",
        takes_trajectory: bool = True,
        layer: Any = lambda *_: None,
        to: str = "aoti",
    ) -> dict[str, Any]:
        path = tmp_path / f"artefact{len(list(tmp_path.iterdir()))}"
        with folder.making(path) as partial:
            entry = {"aoti": "model.pt2", "onnx": "model.onnx"}[to]
            (partial / entry).write_bytes(b"weights")
            folder.write(partial, replace(MANIFEST, precision=precision, to=to, entry=entry))

        @contextmanager
        def opened(*_: object, **__: object) -> Iterator[Engine]:
            yield engine

        monkeypatch.setattr(verify.runtimes, "open_file", opened)
        monkeypatch.setattr(verify.locate, "first_difference", layer)
        return verify.check(path, network, SIZES, takes_trajectory, trust_native=True)

    return check


def test_a_right_engine_is_compared_in_passes_and_along_a_trajectory(check: Check, network: nn.Module) -> None:
    engine = Engine(network)
    found = check(engine)
    assert (found["status"], len(found["checks"])) == ("passed", 7)
    assert found["reason"].startswith("7 comparisons with fp32 PyTorch, relative L2 error of the worst image 0.0e+00")
    assert found["trajectory"] == {
        "sampler": "ddim",
        "steps": STEPS,
        "images": 1,
        "relative_l2": 0.0,
        "limit": 5e-6,
        "ok": True,
    }
    assert engine.calls == 7 + STEPS  # the engine itself walked, not the network in its place


COMPARED = [  # batch, height, width, the least and the greatest t and y
    (1, 8, 8, 999.0, 999.0, 0, 0),
    (2, 8, 8, 0.0, 610.712646484375, 1, 10),
    (3, 8, 8, 8.860957145690918, 704.7575073242188, 4, 8),
    (8, 8, 8, 155.9209442138672, 674.7974853515625, 4, 9),
    (2, 8, 8, 0.0, 999.0, 0, 10),
    (2, 8, 12, 0.0, 999.0, 0, 10),
    (2, 12, 8, 0.0, 999.0, 0, 10),
]


def test_each_comparison_says_what_was_compared_and_how_far_off_it_is(check: Check, network: nn.Module) -> None:
    rows = check(Engine(network, passes=1e-3), "fp16", takes_trajectory=False)["checks"]
    for row, inputs, compared in zip(rows, verify.pool(SIZES), COMPARED, strict=True):
        with torch.inference_mode():
            largest = float(network(*inputs).abs().max())
        keys = ("batch", "height", "width", "t_from", "t_to", "y_from", "y_to")
        assert tuple(row.pop(key) for key in keys) == compared
        assert row == {
            "relative_l2": pytest.approx(1e-3, rel=1e-3),
            "max_abs": pytest.approx(1e-3 * largest, rel=1e-3),
            "cosine": pytest.approx(1.0),
            "ok": True,
        }


@pytest.mark.parametrize(
    ("sizes", "compared"),
    [
        (replace(SIZES, batch=(1, 1), sides=None), [(1, 8, 8)] * 4),
        (replace(SIZES, batch=(4, 4), sides=None), [(4, 8, 8)] * 4),
        (replace(SIZES, batch=(1, 2), sides=None), [(1, 8, 8), (2, 8, 8), (1, 8, 8)]),
        (replace(SIZES, batch=(1, 1), sides=(8, 8)), [(1, 8, 8)] * 7),
    ],
)
def test_every_size_that_may_vary_is_compared(sizes: Any, compared: list[tuple[int, ...]]) -> None:
    assert [(len(x), *x.shape[2:]) for x, _, _ in verify.pool(sizes)] == compared


def test_other_sizes_have_images_of_their_own() -> None:
    seen, *others = [
        torch.cat([x.flatten() for x, _, _ in list(verify.pool(SIZES))[part]]) for part in (slice(4), slice(4, 5))
    ]
    assert not torch.isin(others[0], seen).any()


@pytest.mark.parametrize(
    ("to", "precision", "status"),
    [("onnx", "bf16", "unchecked"), ("onnx", "fp16", "passed"), ("aoti", "bf16", "passed")],
)
def test_onnx_files_in_bf16_are_not_checked_on_a_processor(
    check: Check, network: nn.Module, to: str, precision: str, status: str
) -> None:
    found = check(Engine(network), precision, to=to)
    assert found["status"] == status
    if status == "unchecked":
        assert found["reason"] == "ONNX Runtime has no bf16 convolution on a processor: verify it on a GPU"


def test_files_hold_at_least_a_quarter_byte_a_number_but_for_fixed_tables() -> None:
    """DiCo-S has 33,137,672 numbers; 2^24 of them need no bytes."""
    least = (33_137_672 - 2**24) // 4
    for size, fits in ((least, True), (least - 1, False)):
        manifest = replace(MANIFEST, model="dico_s", res=256, files={"model.pt2": {"bytes": size, "sha256": "0" * 64}})
        with nullcontext() if fits else pytest.raises(UsageError, match=f"has {size} bytes, which cannot hold the 331"):
            verify.require_plausible(Path("x"), manifest, catalogue.find("dico_s"))


class Failing(Engine):
    """Engine that raises, or returns something else, in the given call."""

    def __init__(self, network: nn.Module, call: int, what: Exception | Tensor) -> None:
        super().__init__(network)
        self.call, self.what = call, what

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out = super().__call__(x, t, y)
        if self.calls != self.call:
            return out
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


@pytest.mark.parametrize(
    ("call", "what", "status", "reason"),
    [
        (5, ValueError("x" * 400), "failed", "it does not run: " + "x" * 300),
        (3, RuntimeError("no such kernel\nat all"), "failed", "it does not run: no such kernel"),
        (1, verify.runtimes.Unreadable("of another version"), "failed", "it does not run: of another version"),
        (2, UsageError("it needs a GPU"), "unchecked", "it needs a GPU"),
        (9, RuntimeError("out of memory"), "failed", "it does not run: out of memory"),
        (
            *(4, torch.zeros(8, 8, 8, 7), "failed"),
            "1 of 7 comparisons are wrong: relative error not finite or of another shape at batch 8 of 8x8 exceeds "
            "the limit of 5e-06",
        ),
        (
            *(7, torch.full((2, 8, 12, 8), torch.nan), "failed"),
            "1 of 7 comparisons are wrong: relative error not finite or of another shape at batch 2 of 12x8 exceeds "
            "the limit of 5e-06",
        ),
    ],
)
def test_an_engine_that_fails_in_one_call(
    check: Check, network: nn.Module, call: int, what: Exception | Tensor, status: str, reason: str
) -> None:
    found = check(Failing(network, call, what))
    assert (found["status"], found["reason"]) == (status, reason)


def test_the_layer_is_looked_for_with_the_worst_inputs_and_the_verdict_does_not_need_it(
    check: Check, network: nn.Module
) -> None:
    class Worsening(Engine):
        def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return super().__call__(x, t, y) * (1 + 1e-3 * (self.calls if self.calls < 6 else 0))

    seen: list[Any] = []

    def differs(private: Path, manifest: Any, network: nn.Module, inputs: Any) -> dict[str, Any]:
        seen.append(inputs)
        return {"layer": "head", "relative_l2": 0.1, "text": "head differs first"}

    def damaged(*_: Any) -> None:
        raise ValueError("a damaged graph\nof two lines")

    worst = "5 of 7 comparisons are wrong: relative error 5.0e-03 at batch 2 of 8x8 exceeds the limit of 5e-06; "
    found = check(Worsening(network), layer=differs)
    assert (found["status"], found["reason"]) == ("failed", worst + "head differs first")
    assert torch.equal(seen[0][0], list(verify.pool(SIZES))[4][0])
    found = check(Worsening(network), layer=damaged)
    assert found["reason"] == worst + "which layer differs first cannot be told: a damaged graph"


@pytest.mark.parametrize("precision", LIMITS)
def test_a_pass_may_be_as_wrong_as_its_precision_allows(check: Check, network: nn.Module, precision: str) -> None:
    limit = LIMITS[precision]
    found = check(Engine(network, passes=0.98 * limit), precision)
    assert (found["status"], found["limit"]) == ("passed", limit)
    found = check(Engine(network, passes=1.02 * limit), precision)
    assert found["status"] == "failed" and "trajectory" not in found
    assert found["reason"].startswith(f"7 of 7 comparisons are wrong: relative error {1.02 * limit:.1e} at batch ")
    assert found["reason"].endswith(f" exceeds the limit of {limit:.0e}")


@pytest.mark.parametrize("precision", TRAJECTORY_LIMITS)
def test_an_engine_that_is_wrong_along_a_trajectory_alone_has_failed(
    check: Check, network: nn.Module, precision: str
) -> None:
    limit = TRAJECTORY_LIMITS[precision]
    found = check(Engine(network, trajectory=10 * limit), precision)
    assert [row["ok"] for row in found["checks"]] == [True] * 7
    assert found["trajectory"]["limit"] == limit < found["trajectory"]["relative_l2"]
    assert (found["status"], found["trajectory"]["ok"]) == ("failed", False)
    error = f"{found['trajectory']['relative_l2']:.1e}"
    assert found["reason"] == f"after {STEPS} steps of ddim the images differ by {error}"
    found = check(Engine(network, trajectory=limit / 20), precision)
    assert 0 < found["trajectory"]["relative_l2"] < limit
    assert (found["status"], found["trajectory"]["ok"]) == ("passed", True)


def test_a_trajectory_that_is_not_asked_for_is_not_walked(check: Check, network: nn.Module) -> None:
    engine = Engine(network, trajectory=1.0)
    found = check(engine, takes_trajectory=False)
    assert (found["status"], engine.calls, "trajectory" in found) == ("passed", 7, False)


def test_images_that_are_not_finite_have_failed(check: Check, network: nn.Module) -> None:
    found = check(Engine(network, trajectory=float("nan")))
    assert (found["status"], found["trajectory"]["relative_l2"]) == ("failed", None)
    assert found["reason"] == f"after {STEPS} steps of ddim the images are not finite"
