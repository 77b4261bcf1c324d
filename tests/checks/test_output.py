"""The proof of an output: both sides of each threshold, image by image, with outputs made up here."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from convbench.checks import output
from convbench.checks.output import (
    Finding,
    check_during,
    check_fresh,
    check_inputs,
    check_unchanged,
    input_sets,
    prove,
    relative_error,
    worst_error,
)
from convbench.schema import PRECISIONS, Case, Step

LIMITS = {"fp32": 5e-6, "tf32": 1e-2, "torch-default": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
LEAST_CHANGE = 1e-4
SHAPE = (4, 3, 2, 2)
SETS: Any = [tuple(torch.full((4, 1), 10.0 * number + place) for place in range(3)) for number in range(4)]


def noise(seed: int) -> Tensor:
    """Each image of norm 1."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.flatten(1).norm(dim=1)[:, None, None, None]


REFERENCE = noise(0)


def off(by: float, images: Any = slice(None)) -> Tensor:
    """The reference, moved by that share of its norm in some images."""
    moved = REFERENCE.clone()
    moved[images] += by * noise(1)[images]
    return moved


class Outputs:
    """A step with a fixed output for each input set, by its number; a permuted batch gets the permuted output."""

    def __init__(self, first: Tensor, *others: Tensor, permuted: Tensor | None = None) -> None:
        self.outputs = [first, *others]
        self.permuted, self.calls = permuted, 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > len(self.outputs) - 1:  # after the sets behind the first, which was run before the proof
            return self.outputs[0].roll(1, 0) if self.permuted is None else self.permuted
        return self.outputs[self.calls]


def proved(step: Outputs, precision: str = "fp32") -> list[str]:
    return [str(each) for each in prove(step, SETS, REFERENCE, precision, step.outputs[0]).findings]


CHANGED = [off(0.1), off(0.1), off(0.1)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_output_may_be_as_far_from_fp32_as_its_precision_allows(precision: str) -> None:
    """REF."""
    limit = LIMITS[precision]
    proof = prove(Outputs(off(0.99 * limit), *CHANGED), SETS, REFERENCE, precision, off(0.99 * limit))
    assert (proof.findings, proof.error_vs_fp32) == ([], pytest.approx(0.99 * limit))
    (found,) = proved(Outputs(off(1.01 * limit), *CHANGED), precision)
    assert found == f"REF: relative error {1.01 * limit:.1e} against fp32 eager exceeds the limit of {limit:.0e}"


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    ("by", "images", "still"),
    [
        (1.1 * LEAST_CHANGE, slice(None), 0),
        (0.9 * LEAST_CHANGE, slice(None), 4),
        (0.1, slice(0, 3), 1),  # the last image alone does not change
        (0.1, slice(1, 4), 1),
        (0.1, slice(0, 1), 3),
        (0.0, slice(None), 4),
    ],
)
def test_every_image_depends_on_every_input(place: int, by: float, images: slice, still: int) -> None:
    """DEP."""
    others = list(CHANGED)
    others[place] = off(by, images)
    expected = [f"DEP: {still} of 4 outputs do not change with {'xty'[place]}"] if still else []
    assert proved(Outputs(REFERENCE, *others)) == expected


def returned(out: Tensor, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A step that returns the same whatever it is given."""
    return out


def alone(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_error_exactly_at_the_limit_is_allowed(precision: str) -> None:
    """REF, FRESH, SUM: off by 1 of 200,000, 100 or 20, which is the very limit as a float."""
    whole = round(1 / LIMITS[precision])
    right, wrong, more = alone(whole), alone(whole + 1), alone(whole + 1.001)
    sets: Any = [tuple(torch.zeros(1, 1) for _ in "xty")] * 4
    for out, allowed in ((wrong, True), (more, False)):
        step = partial(returned, out)
        codes = [each.code for each in prove(step, sets, right, precision, out).findings]
        assert ("REF" not in codes) == allowed
        assert (check_fresh(step, sets[0], right, precision) is None) == allowed
        assert (check_unchanged(step, sets[0], right, precision) is None) == allowed
        assert (check_during([worst_error(out, right)], precision) is None) == allowed
        turned: Any = [torch.cat([x, x]) for x in sets[0]]
        first, permuted = torch.cat([right, right]), torch.cat([out, right])
        outputs = Outputs(first, *[first * 2] * 3, permuted=permuted)
        codes = [each.code for each in prove(outputs, [tuple(turned)] * 4, first, precision, first).findings]
        assert ("PERM" not in codes) == allowed


def test_a_single_image_is_not_permuted() -> None:
    step = Outputs(alone(1.0), *[alone(2.0)] * 3)
    sets: Any = [tuple(torch.zeros(1, 1) for _ in "xty")] * 4
    assert prove(step, sets, alone(1.0), "fp32", alone(1.0)).findings == []
    assert step.calls == 3


def test_a_change_of_exactly_the_least_is_none() -> None:
    """DEP: an output must change by more than 1 of 10,000."""
    sets: Any = [tuple(torch.zeros(1, 1) for _ in "xty")] * 4
    for change, found in ((1.0, True), (1.001, False)):
        outputs = Outputs(alone(10_000), *[alone(10_000 + change)] * 3)
        assert (len(prove(outputs, sets, alone(10_000), "fp32", alone(10_000)).findings) == 3) == found


def test_every_image_of_a_large_batch_gets_another_time_and_class() -> None:
    first, _, other_t, other_y = input_sets(Case("dico_s", 32, 4096))
    assert bool((other_t[1] != first[1]).all()) and bool((other_y[2] != first[2]).all())
    assert (int(first[1].max()), int(other_t[1].max()), int(first[2].max()), int(other_y[2].max())) <= (999,) * 4
    assert (int(first[1].min()), int(other_t[1].min())) == (0, 0)


class Lazy(Tensor):
    """Tensor of another class, which could compute later."""


@pytest.mark.parametrize("lazy", [(0,), (1,), (2,), (0, 1, 2)])
def test_every_output_is_a_plain_tensor(lazy: tuple[int, ...]) -> None:
    """LAZY, said once."""
    others = [each.as_subclass(Lazy) if place in lazy else each for place, each in enumerate(CHANGED)]
    assert proved(Outputs(REFERENCE, *others)) == ["LAZY: the output is a Lazy, not a plain tensor"]


@pytest.mark.parametrize("place", range(3))
def test_no_output_lies_in_the_memory_of_an_input(place: int) -> None:
    """ALIAS."""
    others = list(CHANGED)
    sets: Any = [(REFERENCE, REFERENCE.clone(), REFERENCE.clone())] * 4
    sets[place + 1] = tuple(others[place] if name == place else v for name, v in enumerate(sets[0]))
    step = Outputs(REFERENCE, *others, permuted=REFERENCE.roll(1, 0))
    found = [str(each) for each in prove(step, sets, REFERENCE, "fp32", REFERENCE).findings]
    assert found == [f"ALIAS: the output shares its memory with the input {'xty'[place]}"]


def test_the_first_input_of_a_shared_memory_is_named_and_there_are_three() -> None:
    sets = [SETS[0], (CHANGED[0], CHANGED[0], SETS[1][2]), *SETS[2:]]
    step = Outputs(REFERENCE, *CHANGED, permuted=REFERENCE.roll(1, 0))
    found = prove(step, sets, REFERENCE, "fp32", REFERENCE).findings
    assert found[0] == Finding("ALIAS", "the output shares its memory with the input x")
    with pytest.raises(ValueError, match="zip"):
        prove(lambda *_: CHANGED[0], [SETS[0], SETS[1][:2]], REFERENCE, "fp32", REFERENCE)
    with pytest.raises(ValueError, match="zip"):
        check_inputs([SETS[0][:2]], [SETS[0]])
    with pytest.raises(ValueError, match="zip"):
        check_inputs(SETS, SETS[:2])


def test_nobody_can_guess_which_fresh_inputs_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(output.secrets, "randbits", lambda bits: asked.append(bits) or 5)
    case = Case("dico_s", 64, 2)
    assert all(map(torch.equal, output.fresh_inputs(case), input_sets(case, 5)[0]))
    assert asked == [63]  # whatever a seed of torch can be


def test_inputs_are_still_those_that_were_drawn() -> None:
    drawn: Any = [tuple(v.clone() for v in each) for each in SETS]
    assert check_inputs(SETS, drawn) is None
    for place, name in enumerate("xty"):
        changed: Any = [
            tuple(v + (number == 3 and at == place) for at, v in enumerate(each)) for number, each in enumerate(SETS)
        ]
        assert check_inputs(changed, drawn) == Finding("ALIAS", f"the step changes its input {name}")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_permuted_batch_gives_the_permuted_output_as_far_as_its_precision_allows(precision: str) -> None:
    """PERM."""
    turned = REFERENCE.roll(1, 0)
    for share, found in ((0.99, False), (1.01, True)):
        permuted = turned + share * LIMITS[precision] * noise(1)
        codes = [each.partition(":")[0] for each in proved(Outputs(REFERENCE, *CHANGED, permuted=permuted), precision)]
        assert codes == ["PERM"] * found
    assert proved(Outputs(REFERENCE, *CHANGED, permuted=REFERENCE))[0].startswith("PERM: permuting the batch does not")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_output_is_finite(bad: float) -> None:
    """SUM."""
    broken = REFERENCE.clone()
    broken[2, 0, 0, 0] = bad
    assert proved(Outputs(broken, *CHANGED))[0] == "SUM: the output is not finite"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_output_stays_what_it_was_as_far_as_its_precision_allows(precision: str) -> None:
    """SUM."""
    limit = LIMITS[precision]
    for share in (0.0, 0.99):
        assert check_unchanged(lambda x, t, y, s=share: off(s * limit), SETS[0], REFERENCE, precision) is None  # type: ignore[misc]
    step: Step = lambda x, t, y: off(1.01 * limit)  # noqa: E731
    assert check_unchanged(step, SETS[0], REFERENCE, precision) == Finding(
        "SUM", f"the output after timing differs from the one before by {1.01 * limit:.1e}"
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_unseen_inputs_may_be_as_far_from_fp32_as_their_precision_allows(precision: str) -> None:
    """FRESH, by the worst image."""
    limit = LIMITS[precision]
    for images in (slice(None), slice(2, 3)):
        right, wrong = off(0.99 * limit, images), off(1.01 * limit, images)
        assert check_fresh(Outputs(right, right), SETS[0], REFERENCE, precision) is None
        found = check_fresh(Outputs(wrong, wrong), SETS[0], REFERENCE, precision)
        text = f"relative error {1.01 * limit:.1e} on inputs not seen before, at most {limit:.0e} allowed"
        assert found == Finding("FRESH", text)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_timed_block_may_be_as_far_off_as_its_precision_allows(precision: str) -> None:
    """SUM."""
    limit = LIMITS[precision]
    assert check_during([0.0, 0.99 * limit, limit], precision) is None
    for wrong in (1.01 * limit, float("inf"), float("nan")):
        assert check_during([0.0, wrong, 0.99 * limit], precision) == Finding(
            "SUM", "1 of 3 timed blocks ended without the right output"
        )


def test_an_error_is_relative_to_the_reference_and_infinite_where_nothing_can_be_compared() -> None:
    assert relative_error(off(0.5), REFERENCE) == pytest.approx(0.5)
    assert relative_error(3 * REFERENCE, REFERENCE) == pytest.approx(2.0)
    assert relative_error(REFERENCE[:3], REFERENCE) == float("inf")
    assert relative_error(REFERENCE * float("nan"), REFERENCE) == float("inf")


@pytest.mark.parametrize("model", ["dico_s", "sit_xl_2", "pixart_xl_2", "adm_64"])
def test_each_further_set_of_inputs_differs_in_one_input_of_every_image(model: str) -> None:
    first, *others = input_sets(Case(model, 64, 3))
    for place, other in enumerate(others):
        for index, (a, b) in enumerate(zip(first, other, strict=True)):
            same = [torch.equal(one, another) for one, another in zip(a, b, strict=True)]
            assert same == [index != place] * 3


def test_inputs_are_those_of_seed_0_unless_another_is_given() -> None:
    case = Case("dico_s", 64, 2)
    for drawn, again in zip(input_sets(case), input_sets(case, 0), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))
    assert not torch.equal(input_sets(case)[0][0], input_sets(case, 1)[0][0])
