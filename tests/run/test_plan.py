"""From a request to its cases: their order, repeats, and what is refused in which words."""

from dataclasses import replace
from typing import Any

import pytest

from convbench.errors import UsageError
from convbench.run.plan import DEFAULT_BATCH, Request, bundles, plan
from convbench.schema import Case


def ids(cases: list[Case]) -> list[str]:
    return [case.id for case in cases]


def test_one_case_with_the_defaults() -> None:
    assert plan(Request(["dic_xl"])) == [Case("dic_xl", 256, 1, "eager", "fp32", "cpu", None, None, 1)]


def test_the_product_in_order() -> None:
    request = Request(
        ["fcdm_s", "dico_s"],
        res=[128, 64],
        batch=[2, 1],
        backend=["eager", "compile"],
        precision=["fp32", "bf16"],
        device=["cpu"],
    )
    assert ids(plan(request)) == [
        f"{model}/{res}px/b{batch}/{backend}/{precision}/cpu"
        for model in ("fcdm_s", "dico_s")
        for res in (128, 64)
        for batch in (2, 1)
        for precision in ("fp32", "bf16")
        for backend in ("eager", "compile")
    ]


def test_batch_and_threads_suit_the_device() -> None:
    cases = plan(Request(["dico_s"], device=["cuda", "cpu"], threads=2))
    assert [(case.device, case.batch, case.threads) for case in cases] == [("cuda", 32, None), ("cpu", 1, 2)]
    assert DEFAULT_BATCH == {"cpu": 1, "cuda": 32}


def test_all_cases_of_a_model_stand_together() -> None:
    cases = plan(Request(["dico_s", "dit_s_2", "dico_s"], batch=[1, 2]))
    assert [case.model for case in cases] == ["dico_s"] * 4 + ["dit_s_2"] * 2


def test_a_case_that_is_named_twice_is_measured_twice_in_a_row() -> None:
    assert ids(plan(Request(["dico_s"], batch=[1, 2, 1, 1]))) == [
        "dico_s/256px/b1/eager/fp32/cpu",
        "dico_s/256px/b1/eager/fp32/cpu/repeat2",
        "dico_s/256px/b1/eager/fp32/cpu/repeat3",
        "dico_s/256px/b2/eager/fp32/cpu",
    ]


@pytest.mark.parametrize("axis", ["model", "res", "batch", "backend", "precision", "device"])
def test_a_repeat_on_any_axis_is_a_repeat_of_the_case(axis: str) -> None:
    values: dict[str, Any] = {"model": ["dico_s"], axis: {"res": [64, 64], "batch": [3, 3]}.get(axis)}
    names = {"model": "dico_s", "backend": "eager", "precision": "bf16", "device": "cpu"}
    values[axis] = values[axis] or [names[axis]] * 2
    first, second = plan(Request(**values))
    assert (first.repeat, second) == (1, replace(first, repeat=2))


def test_ids_tell_every_case_apart() -> None:
    request = Request(["dico_s", "dico_s"], [64, 128], [1, 2], ["eager", "compile"], ["fp32", "bf16"], threads=2)
    cases = plan(request)
    assert len(set(ids(cases))) == len(cases) == 32
    assert replace(cases[0], weights="a.pt").id == cases[0].id + "/weights=a.pt"


def test_batch_max_asks_what_fits() -> None:
    asked = []

    def largest(case: Case) -> int:
        asked.append((case.model, case.res, case.batch))
        return 48

    cases = plan(Request(["dico_s"], res=[64, 128], batch=[1, "max"]), largest)
    assert [case.batch for case in cases] == [1, 48, 1, 48]
    assert asked == [("dico_s", 64, 0), ("dico_s", 128, 0)]


def test_batch_max_that_comes_to_a_named_batch_is_its_repeat() -> None:
    cases = plan(Request(["dico_s"], batch=[4, "max"]), lambda case: 4)
    assert [(case.batch, case.repeat) for case in cases] == [(4, 1), (4, 2)]


REFUSED = {
    "an unknown model": (
        {"model": ["dic_xll"]},
        "unknown model 'dic_xll': did you mean dic_xl or dico_xl or dico_l?",
    ),
    "a model as its paper spells it": ({"model": ["DiT-XL/2"]}, "unknown model 'DiT-XL/2': did you mean dit_xl_2"),
    "nothing like a model": ({"model": ["resnet50"]}, "unknown model 'resnet50': `convbench models` lists all"),
    "a resolution between": (
        {"res": [256, 250]},
        "--res 250 is invalid for dico_s: it must be a positive multiple of 32, such as 224 or 256",
    ),
    "no resolution": ({"res": [0]}, "--res 0 is invalid for dico_s: it must be a positive multiple of 32"),
    "a negative resolution": ({"res": [-32]}, "--res -32 is invalid for dico_s: it must be a positive multiple of 32"),
    "an odd resolution": (
        {"model": ["dit_s_8"], "res": [160, 96, 32]},
        "--res 160 is invalid for dit_s_8: it must be a positive multiple of 64, such as 128 or 192",
    ),
    "no batch": ({"batch": [1, 0]}, "--batch 0: must be at least 1"),
    "a negative batch": ({"batch": [-4]}, "--batch -4: must be at least 1"),
    "an unknown precision": (
        {"precision": ["fp32", "fp31"]},
        "unknown precision 'fp31'; choose from fp32, tf32, torch-default, bf16, fp16",
    ),
    "an unknown device": ({"device": ["tpu"]}, "unknown device 'tpu'; choose from cpu, cuda"),
    "a backend misspelt": ({"backend": ["compil"]}, "unknown backend 'compil': did you mean compile?"),
    "an unknown backend": ({"backend": ["xyz"]}, "unknown backend 'xyz': choose from "),
    "no threads": ({"threads": 0}, "--threads 0: must be at least 1"),
    "one checkpoint for two models": (
        {"model": ["dico_s", "dico_b"], "weights": "a.pt"},
        "--weights is a checkpoint of one model, but --model names 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(name: str) -> None:
    asked, words = REFUSED[name]
    with pytest.raises(UsageError) as error:
        plan(Request(**({"model": ["dico_s"]} | asked)))  # type: ignore[arg-type]
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_one_checkpoint_may_serve_repeats_of_a_model() -> None:
    cases = plan(Request(["dico_s", "dico_s"], weights="a.pt"))
    assert [(case.weights, case.repeat) for case in cases] == [("a.pt", 1), ("a.pt", 2)]


def test_a_backend_of_another_package_is_not_imported_to_plan() -> None:
    (case,) = plan(Request(["dico_s"], backend=["no.such.package:backend"]))
    assert case.backend == "no.such.package:backend"


def test_repeats_form_a_bundle() -> None:
    found = bundles(plan(Request(["dico_s"], batch=[1, 2, 1])))
    assert [[(case.batch, case.repeat) for case in bundle] for bundle in found] == [[(1, 1), (1, 2)], [(2, 1)]]


def test_a_counterpart_takes_the_place_of_the_backend_or_the_model() -> None:
    cases = plan(Request(["dico_s"], batch=[1, 2]))
    for other, expected in {"compile": ("dico_s", "compile"), "fcdm_s": ("fcdm_s", "eager")}.items():
        found = bundles(cases, other)
        assert [[(case.model, case.backend, case.batch) for case in bundle] for bundle in found] == [
            [("dico_s", "eager", batch), (*expected, batch)] for batch in (1, 2)
        ]


def test_a_counterpart_that_is_the_case_itself_is_an_aa_comparison() -> None:
    (bundle,) = bundles(plan(Request(["dico_s"])), "eager")
    assert [(case.backend, case.repeat) for case in bundle] == [("eager", 1), ("eager", 2)]
    (bundle,) = bundles(plan(Request(["dico_s", "dico_s"])), "dico_s")
    assert [case.repeat for case in bundle] == [1, 2, 3]


def test_a_counterpart_that_cannot_be_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^--compare-with fastest: neither a model of `convbench models` nor a backend"
    ):
        bundles(plan(Request(["dico_s"])), "fastest")
    with pytest.raises(UsageError, match=r"^--res 288 is invalid for dit_s_8: it must be a positive multiple of 64"):
        bundles(plan(Request(["dico_s"], res=[288])), "dit_s_8")
