"""Caches between steps: against their equations on a cut whose inner part is a known function of the time."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from convbench import models
from convbench.catalogue import find
from convbench.errors import UsageError
from convbench.models.cuts import Cut, cut_of
from convbench.sampling import caches
from convbench.sampling.guidance_interval import within
from convbench.sampling.method_names import CacheChoice, interval_of_text, require_interval
from convbench.sampling.plan import Plan
from convbench.schema import Step

DIC = find("dic_glyphs")


def polynomial(function: Callable[[Tensor], Tensor]) -> tuple[Cut, list[int]]:
    """A cut whose inner part is a function of the time alone, and the batches that it was called with."""
    calls: list[int] = []

    def inner(x: Tensor, t: Tensor, first: Tensor) -> Tensor:
        calls.append(len(x))
        return function(t.double()).reshape(-1, 1)

    return Cut(lambda x, t, y: (x, t, x), inner, lambda deep, x, t, first: deep + 0 * x), calls


def walked(step: Step, batches: list[int]) -> list[Tensor]:
    """The outputs along a trajectory from t = 100 down, with so many images at each step."""
    return [
        step(torch.zeros(count, 1).double() + 1, torch.full((count,), 100.0 - number), torch.zeros(count).long())[:, 0]
        for number, count in enumerate(batches)
    ]


def begun(text: str, cut: Cut) -> Step:
    return caches.begin(CacheChoice.of_text(text), cut)


def test_deep_keeps_the_last_full_step() -> None:
    cut, calls = polynomial(lambda t: t)
    found = torch.stack(walked(begun("deep:every=3", cut), [2] * 7))
    assert found[:, 0].tolist() == [100, 100, 100, 97, 97, 97, 94]
    assert calls == [2, 2, 2]


@pytest.mark.parametrize(("order", "degree"), [(0, 0), (1, 1), (2, 2), (3, 1)])
def test_taylor_of_an_order_continues_polynomials_once_it_has_their_differences(order: int, degree: int) -> None:
    """The formula of the paper divides the differences by i!, so beyond the first order it is exact for the first
    derivative alone; here the expected values follow from the differences themselves."""
    every = 2
    cut, calls = polynomial(lambda t: t**degree)
    found = [float(each[0]) for each in walked(begun(f"taylor:order={order}:every={every}", cut), [1] * 12)]
    assert len(calls) == 6
    full = [float(100.0 - number) ** degree for number in range(0, 12, every)]
    for number in range(12):
        at, since = divmod(number, every)
        differences, expected, factorial = full[: at + 1], 0.0, 1.0
        for i in range(order + 1):
            if not differences:
                break
            factorial *= max(1, i)
            expected += differences[-1] * (since / every) ** i / factorial
            differences = [b - a for a, b in itertools.pairwise(differences)]
        assert found[number] == pytest.approx(expected, rel=1e-12)
    if degree <= 1 <= order:
        assert found[2 * every :] == pytest.approx([100.0 - number for number in range(2 * every, 12)])


def test_first_judges_each_image_by_itself() -> None:
    """The first image stays as it is, the second moves by a tenth at every step."""
    calls: list[int] = []

    def inner(h: Tensor, c: Tensor, first: Tensor) -> Tensor:
        calls.append(len(h))
        return 10 * first

    cut = Cut(lambda x, t, y: (x, t, x), inner, lambda added, h, c, first: added)
    step = begun("first:threshold=0.15", cut)
    zeros = torch.zeros(2)
    seen = [step(torch.tensor([[1.0], [1.0 + 0.1 * number]]), zeros, zeros.long())[:, 0] for number in range(5)]
    assert torch.stack(seen)[:, 0].tolist() == [10.0] * 5
    assert torch.stack(seen)[:, 1].tolist() == pytest.approx([10, 10, 12, 12, 14])
    assert calls == [2, 1, 1]


@pytest.mark.parametrize("text", ["deep:every=3", "taylor:order=1:every=3", "first:threshold=5"])
def test_a_batch_may_shrink_to_its_first_half_and_grow_again(text: str) -> None:
    """Guidance within an interval: outside it only the half with the class runs; what begins again starts afresh."""
    cut, calls = polynomial(lambda t: t)
    step = begun(text, cut)
    found = walked(step, [2, 4, 4, 2, 2, 4])
    assert [len(each) for each in found] == [2, 4, 4, 2, 2, 4]
    assert found[1].tolist() == [99.0] * 4 and found[5].tolist() == [95.0] * 4
    assert calls[0] == 2 and calls[1] == 4 and calls[-1] == 4


@pytest.mark.parametrize(
    ("id", "text"),
    [("dico_glyphs", "deep:every=2"), ("fcdm_glyphs", "taylor:order=1"), ("dit_glyphs", "first:threshold=0.2")],
)
def test_an_image_does_not_depend_on_the_others_of_its_batch(id: str, text: str) -> None:
    cut = cut_of(models.create(id, res=32))
    assert cut
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(3, 16, 8, 8, generator=generator), torch.tensor([4, 9, 61])
    moves = torch.randn(6, 3, 16, 8, 8, generator=generator)

    def last(kept: list[int]) -> Tensor:
        step = begun(text, cut)
        for number, move in enumerate(moves):
            out = step((x + 0.05 * number * move)[kept], torch.full((len(kept),), 900.0 - number), y[kept])
        return out

    with torch.inference_mode():
        together, alone = last([0, 1, 2]), last([1])
    assert (together[1:2] - alone).norm() <= 1e-5 * alone.norm()


# ---- guidance within an interval ----


def test_guidance_applies_within_its_interval_alone() -> None:
    seen = within((0.2, 0.8), DIC.signature, lambda x, t: x + 1, lambda x, t: x)
    x = torch.zeros(1, 1, 1, 1)
    shares = [0.0, 0.1, 0.3, 0.5, 0.79, 0.81, 1.0]
    assert [float(seen(x, torch.tensor([1000 * (1 - share)]))) for share in shares] == [0, 0, 1, 1, 1, 0, 0]
    flow = within((0.2, 0.8), find("fcdm_digits").signature, lambda x, t: x + 1, lambda x, t: x)
    assert [float(flow(x, torch.tensor([share]))) for share in shares] == [0, 0, 1, 1, 1, 0, 0]


# ---- what is asked for ----


def test_settings_have_defaults_and_one_spelling() -> None:
    plan = Plan.of_text("steps=20,cache=taylor,cfg-interval=0.25..1", DIC)
    assert str(plan) == "steps=20,cfg=1.5,decode=no,sampler=iddpm,cache=taylor:order=1:every=3,cfg-interval=0.25..1"
    assert Plan.of_text(str(plan), DIC) == plan and not plan.even
    assert Plan.of_text("steps=20", DIC).even


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("deep:every=1", "every must be a whole number from 2 to 100"),
        ("deep:every=x", "every must be a whole number"),
        ("deep:threshold=1", "'threshold' is not a setting of deep, such as every=3"),
        ("first:threshold=nan", "threshold must be a number from 0 to 10"),
        ("depe", "unknown cache 'depe'; choose from deep, first, taylor"),
        ("taylor:order=9", "order must be a whole number from 0 to 3"),
    ],
)
def test_a_cache_that_cannot_be_read_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        CacheChoice.of_text(text)


@pytest.mark.parametrize(
    ("cache", "model", "backend", "reason"),
    [
        ("deep", "dit_s_2", "eager", "cache=deep does not suit dit_s_2: use cache=first or cache=taylor"),
        ("first", "dico_s", "eager", "cache=first does not suit dico_s: use cache=deep or cache=taylor"),
        ("taylor", "uvit_l_2", "eager", "no cut of it is known"),
        ("deep", "dic_s@gate=no", "eager", "no cut of it is known"),
        ("deep", "dic_s", "openvino", "cache=deep needs a network in parts: use --backend eager or onnxruntime"),
    ],
)
def test_a_cache_that_does_not_suit_is_one_line(cache: str, model: str, backend: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        CacheChoice.of_text(cache).require(find(model), backend)


@pytest.mark.parametrize("text", ["", "0.2", "0.8..0.2", "0.2..1.2", "-0.1..1", "nan..1", "0.5..0.5"])
def test_an_interval_that_cannot_be_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="expected two shares of the way from noise to data, such as"):
        interval_of_text(text)


def test_an_interval_needs_guidance_that_is_constant() -> None:
    with pytest.raises(UsageError, match="cfg-interval needs guidance: cfg=1 is none"):
        Plan.of_text("steps=20,cfg=1,cfg-interval=0.2..0.8", DIC)
    with pytest.raises(UsageError, match="jit_b_16 has a guidance schedule of its own"):
        require_interval(find("jit_b_16"), 1.5)
