"""Precision switches: set, read back and restored; on a GPU, also their effect on a product."""

from collections.abc import Iterator

import pytest
import torch

from convbench.precision import DTYPES, TF32_FLAGS, applied, dtype_of, effective_label, read_switches, unsupported
from convbench.schema import PRECISIONS

FLAGS = {  # label -> (cuDNN, matrix products), as docs/protocol.md has them
    "fp32": ("False", "False"),
    "tf32": ("True", "True"),
    "torch-default": ("True", "False"),
    "bf16": ("False", "False"),
    "fp16": ("False", "False"),
}
OLD = ("cudnn.allow_tf32", "cuda.matmul.allow_tf32")
NEW = ("cudnn.conv.fp32_precision", "cuda.matmul.fp32_precision")


@pytest.fixture(params=[(True, False), (False, True)], ids=["torch's defaults", "the opposite"])
def earlier(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    """Set switches as another program may leave them."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def now() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("capability", "can"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_begins_with_ampere(capability: tuple[int, int], can: bool) -> None:
    for precision in ("tf32", "torch-default"):
        assert (unsupported(precision, "cuda", capability) is None) == can
    assert unsupported("fp32", "cuda", capability) is None


def test_every_precision_has_switches() -> None:
    assert sorted(FLAGS) == sorted(TF32_FLAGS) == sorted(PRECISIONS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_switches_are_set_read_back_and_restored(precision: str, earlier: tuple[bool, bool]) -> None:
    with applied(precision) as flags:
        assert tuple(flags[key] for key in OLD) == FLAGS[precision]
        assert tuple(map(str, now())) == FLAGS[precision]
        assert flags == read_switches()
    assert now() == earlier


@pytest.mark.parametrize("precision", PRECISIONS)
def test_newer_names_agree_with_the_older_ones(precision: str) -> None:
    with applied(precision) as flags:
        assert tuple(str(flags[key] == "tf32") for key in NEW) == FLAGS[precision]


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_switches_are_restored_when_the_body_raises(precision: str, earlier: tuple[bool, bool]) -> None:
    with pytest.raises(ZeroDivisionError), applied(precision):
        assert now() == TF32_FLAGS[precision]
        raise ZeroDivisionError
    assert now() == earlier


def test_nested_switches_are_restored_one_by_one(earlier: tuple[bool, bool]) -> None:
    with applied("tf32"):
        with applied("torch-default"):
            assert now() == (True, False)
        assert now() == (True, True)
    assert now() == earlier


def test_autocast_on_a_cpu_is_read_back() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert read_switches()["autocast"] == "True"
    assert read_switches()["autocast"] == "False"


def test_autocast_on_a_gpu_is_read_back() -> None:
    """convbench never enables it, so True would come from the calling code."""
    with applied("fp32") as flags:
        assert flags["autocast"] == "False"
    torch.set_autocast_enabled("cuda", True)
    try:
        assert read_switches()["autocast"] == "True"
    finally:
        torch.set_autocast_enabled("cuda", False)


def test_dtype_of() -> None:
    assert {precision: dtype_of(precision) for precision in PRECISIONS} == {
        "fp32": torch.float32,
        "tf32": torch.float32,
        "torch-default": torch.float32,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }


@pytest.mark.parametrize(
    ("conv", "matmul", "expected"),
    [
        ("False", "False", "fp32"),
        ("True", "True", "tf32"),
        ("True", "False", "torch-default"),
        ("False", "True", "fp32 conv, tf32 matmul"),
    ],
)
@pytest.mark.parametrize("asked", ["fp32", "tf32", "torch-default"])
def test_label_on_a_gpu_follows_the_switches(asked: str, conv: str, matmul: str, expected: str) -> None:
    assert effective_label(dict(zip(OLD, (conv, matmul), strict=True)), asked, "cuda") == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_label_of_applied_switches_is_the_requested_one(precision: str) -> None:
    with applied(precision) as flags:
        assert effective_label(flags, precision, "cuda") == precision
        assert effective_label(flags, precision, "cpu") == precision


@pytest.mark.parametrize("precision", sorted(DTYPES))
def test_label_of_half_precision_does_not_depend_on_the_switches(precision: str) -> None:
    assert effective_label(dict.fromkeys(OLD, "True"), precision, "cuda") == precision


def test_a_cpu_has_no_tf32() -> None:
    reasons = {precision: unsupported(precision, "cpu") for precision in PRECISIONS}
    assert reasons.pop("tf32") == "a CPU has no TF32 units; use fp32"
    assert set(reasons.values()) == {None}
