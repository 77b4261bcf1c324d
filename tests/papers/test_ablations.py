"""Ablations: counts equal those of the official classes; invalid ones are refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from ablated import OURS

from convbench import models
from convbench.catalogue import families, find
from convbench.catalogue.ablations import option_lines
from convbench.counting import Count, count
from convbench.errors import UsageError
from convbench.models.counts import count_variant, meta_inputs
from convbench.models.fcdm_ablations import FCDMLevels
from convbench.papers.ablations import printed

REFERENCE = {
    row["id"]: row for row in json.loads((Path(__file__).parents[1] / "data/ablations.json").read_text())["rows"]
}


def counted(id: str) -> Count:
    return count_variant(find(id), 256)


@pytest.mark.parametrize("id", REFERENCE)
def test_counts_are_those_of_the_official_class_with_the_same_change(id: str) -> None:
    row = REFERENCE[id]
    found = counted(OURS[id])
    assert (found.params, found.macs) == (row["params"], row["macs_torchprofile"])


@pytest.mark.parametrize("id", ["fcdm_s", "dico_s", "dic_s"])
def test_a_change_to_what_is_already_there_changes_nothing(id: str) -> None:
    """The same keys, the same weights by name, the same output."""
    option = {
        "fcdm_s": "kernel=7@grn=yes@mlp_ratio=3",
        "dico_s": "activation=gelu@kernel=3@attention=cca@mlp_ratio=2",
        "dic_s": "activation=gelu@injection=middle@gate=yes@embedding=stage@skips=sparse",
    }[id]
    own, varied = models.create(id, res=64), models.create(f"{id}@{option}", res=64)
    x, t, y = (torch.randn(2, 4, 8, 8), torch.tensor([17.0, 903.0]), torch.tensor([207, 1000]))
    assert own.state_dict().keys() == varied.state_dict().keys()
    assert torch.equal(own(x, t, y), varied(x, t, y))


@pytest.mark.parametrize("change", ["activation=relu", "attention=none"])
def test_a_change_without_weights_of_its_own_moves_the_output(change: str) -> None:
    """All other weights are the same, as each depends on its own name and shape only."""
    own, varied = models.create("dico_s", res=64), models.create(f"dico_s@{change}", res=64)
    x, t, y = (torch.randn(1, 4, 8, 8), torch.tensor([17.0]), torch.tensor([207]))
    assert (own(x, t, y) - varied(x, t, y)).abs().max() > 1e-3


# DiC-S by hand, from the paper's five stages of 6, 6, 5, 6, 6 blocks of widths 96, 192, 384, 192, 96.
WIDTHS = [96] * 6 + [192] * 6 + [384] * 5 + [192] * 6 + [96] * 6


@pytest.mark.parametrize(
    ("change", "params"),
    [
        ("gate=no", -sum(w * w + w for w in WIDTHS)),  # a third of each modulation
        ("activation=silu", 0),
        # One table of 1001 rows and one perceptron instead of three; each modulation from 96 channels.
        (
            "embedding=shared",
            -sum(1001 * w + 257 * w + w * w + w for w in (192, 384)) - sum(3 * w * (w - 96) for w in WIDTHS),
        ),
        # A skip doubles a block's input: its norm, its first convolution, and a 1x1 convolution beside it.
        ("skips=dense", 4 * sum(2 * w + 9 * w * w + 2 * w * w + w for w in (192, 96))),
        ("skips=none", -2 * sum(2 * w + 9 * w * w + 2 * w * w + w for w in (192, 96))),
        # The first norm of a block that takes a skip is twice as wide: two blocks a decoder stage.
        ("injection=first", 2 * sum(2 * w * (w + 1) for w in (192, 96))),
    ],
)
def test_parameters_of_the_roadmap_by_hand(change: str, params: int) -> None:
    assert counted(f"dic_s@{change}").params - counted("dic_s").params == params


def test_three_levels_written_in_general_are_the_model_itself() -> None:
    """The same counts, kind by kind, though the keys are others."""
    with torch.device("meta"):
        general = FCDMLevels(128, [2, 4, 8, 4, 2]).eval()
    found, own = count(general, meta_inputs(256)), counted("fcdm_s")
    assert (found.params, found.macs, found.by_kind()) == (own.params, own.macs, own.by_kind())


@pytest.mark.parametrize("depths", ["1-1-1", "1-1-1-1-1-1-1"])
def test_other_levels_run_and_refuse_sizes_they_cannot_halve(depths: str) -> None:
    model = models.create(f"fcdm_digits@depths={depths}", res=8 if depths == "1-1-1" else 16)
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.9]), torch.tensor([3, 10])
    assert model(x, t, y).shape == x.shape
    with pytest.raises(ValueError, match="divisible by"):
        model(x[..., :7], t, y)
    with pytest.raises(ValueError, match="odd number"):
        models.create("fcdm_digits@depths=1-1", res=8)


def test_squeeze_and_excitation_by_hand() -> None:
    """At width 128: 128 x 8 + 8 down and 8 x 128 + 128 up, where the paper's attention has 128 x 128 + 128."""
    block = models.on_meta(find("dico_s@attention=se"), 256).encoder_level_1[0]  # type: ignore[union-attr, index]
    assert sum(p.numel() for p in block.ca.parameters()) == 128 * 8 + 8 + 8 * 128 + 128  # type: ignore[union-attr]


def test_it_is_named_in_full_and_ships_no_weights() -> None:
    variant = find("fcdm_digits@kernel=5")
    assert (variant.id, variant.name) == ("fcdm_digits@kernel=5", "FCDM-digits@kernel=5")
    assert (variant.params, variant.macs, variant.shipped) == (None, None, None)
    assert meta_inputs(8, takes=variant.signature)[0].shape == (1, 1, 8, 8)


def test_every_option_has_an_example_and_a_meaning() -> None:
    for family in families().values():
        for key, option in family.facts.get("ablations", {}).get("options", {}).items():
            assert {"like", "what"} <= option.keys() <= {"like", "what", "choices"}, (family.name, key)
            assert option["like"] in option.get("choices", [option["like"]]), (family.name, key)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("fcdm_l@kernel=4", "fcdm_l@kernel=4: the value must be one of 3, 5, 7, 9, 11"),
        ("fcdm_l@kern=5", "fcdm_l has no option 'kern'; its options are width, depths, mlp_ratio, kernel, grn"),
        ("fcdm_l@depths=2-x", "fcdm_l@depths=2-x: the value must have the form 2-4-8-4-2"),
        ("fcdm_l@grn", "fcdm_l@grn: the value must be one of yes, no"),
        ("fcdm_l@", "fcdm_l has no option ''"),
        ("fcdm_x@kernel=5", "unknown model 'fcdm_x': did you mean"),
        ("dit_s_2@kernel=5", "dit_s_2 has no ablations"),
    ],
)
def test_a_change_that_cannot_be_is_one_line(id: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        find(id)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_the_papers_ablations_stand_beside_our_counts() -> None:
    rows = {row["model"] or row["label"]: row for row in printed()}
    assert rows["dico_s@kernel=5"]["remark"] == "as printed"
    # Table 11 of FCDM prints 3.7 where 3.910 are counted, and 15.4 where 16.254 are.
    assert rows["fcdm_s@width=144@depths=4-4-4-4-4"]["remark"] == (
        "printed MACs -5.4%: matches a count without the extra 3x3 output convolution"
    )
    assert rows["fcdm_l@kernel=5"]["remark"] == "printed MACs +0.1%: unexplained"
    assert rows["fcdm_l@width=1024@depths=4-8-4"]["remark"] == "as printed"  # two levels: 482.1 M and 140.0 G
    four = rows["fcdm_l@width=256@depths=3-3-3-8-3-3-3"]
    assert (four["gmacs_printed"], four["params_m_printed"]) == (16.0, 497.5)
    assert four["remark"].startswith("printed MACs -2.1%, printed parameters +0.1%: unexplained")
    assert rows["ResNet block"]["macs"] is None and rows["ResNet block"]["remark"].startswith("not built")
    assert all(row["remark"] for row in rows.values())
    ours = [row for row in rows.values() if row["macs"]]
    assert len(ours) >= 20 and all(find(row["model"]).ablated for row in ours)


def test_leaving_out_the_extra_convolution_gives_what_table_11_prints_three_times() -> None:
    """The remark's arithmetic: C x C x 9 on 32 x 32 pixels."""
    for id, width, prints in (
        ("fcdm_s@width=144@depths=4-4-4-4-4", 144, 3.7),
        ("fcdm_s@width=136@depths=2-4-6-4-2", 136, 3.1),
        ("fcdm_b@width=296@depths=4-4-4-4-4", 296, 15.4),
    ):
        assert round((counted(id).macs - 9 * width**2 * 32**2) / 1e9, 1) == prints


def test_the_list_of_options_names_every_family_that_has_some() -> None:
    assert [line.split(":")[0] for line in option_lines()] == ["DiC", "DiCo", "EDM2", "FCDM"]
