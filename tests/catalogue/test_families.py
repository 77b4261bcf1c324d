"""Tables of models and published numbers: complete, consistent, and with helpful errors."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from convbench.catalogue import Family, families, find, papers, variants
from convbench.errors import UsageError

ROOT = Path(__file__).parents[2]

FAMILIES = list(families().values())
ROWS = [(family, row) for family in FAMILIES for row in family.published]
PINNED = r"[0-9a-f]{40}|v\d+\.\d+\.\d+"  # a commit, or a release of a package
TEXT = {"paper", "table", "model", "label", "training", "guidance"}
NUMBERS = {
    "params_m": (1, 2000),
    "gmacs": (1, 3000),
    "winograd_gmacs": (1, 1000),
    "images_per_s": (1, 10_000),
    "fid": (1, 200),
    "sfid": (1, 50),
    "inception_score": (1, 400),
    "precision": (0, 1),
    "recall": (0, 1),
}


def by_module(family: Family) -> str:
    return family.module


# ---- families ----


def test_every_family_has_two_files() -> None:
    assert {"dic", "dico", "dig", "dit", "fcdm", "sit", "uvit", "pixart", "diffit", "dit_llama", "udit"} <= set(
        families()
    )
    for module in families():
        assert (ROOT / "convbench" / "models" / f"{module}.py").is_file()


@pytest.mark.parametrize("family", FAMILIES, ids=by_module)
def test_every_family_states_its_source(family: Family) -> None:
    facts = family.facts
    source = facts["source"]
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", source["repository"])
    assert re.fullmatch(PINNED, source["commit"])
    assert source["file"].endswith(".py")
    licence, _, exceptions = source["licence"].partition("; ")
    known = {
        "Apache-2.0",
        "BSD-3-Clause",
        "CC-BY-NC",
        "CC-BY-NC-4.0",
        "CC-BY-NC-SA",
        "MIT",
        "none found",
        "not established",
    }
    assert licence in known
    assert (exceptions != "") == (family.module == "lightningdit")  # files with another licence than the rest
    assert re.fullmatch(r"\d{4}\.\d{5}", facts["arxiv"])
    assert 2021 <= facts["year"] <= 2026
    assert len(facts["title"]) > 20
    assert family.name.replace("-", "") == facts["class"]


def test_sources_match_the_reference_data() -> None:
    """Compare with the commits of the goldens: the table in data/README.md."""
    text = (Path(__file__).parents[1] / "data" / "README.md").read_text("utf-8")
    table = {
        name: (repository, commit)
        for name, repository, commit in re.findall(
            rf"^\| ([\w-]+) \| (\S+/\S+) .*\| ({PINNED}) \|$", text, re.MULTILINE
        )
    }
    found = {
        family.name: (family.facts["source"]["repository"], family.facts["source"]["commit"]) for family in FAMILIES
    }
    assert found == table


@pytest.mark.parametrize("family", FAMILIES, ids=by_module)
def test_every_module_docstring_names_paper_and_table(family: Family) -> None:
    head = (ROOT / "convbench" / "models" / f"{family.module}.py").read_text("utf-8").split('"""')[1]
    assert head.startswith(f"{family.name}: ")
    assert f"{family.module}.toml" in head
    assert set(re.findall(r"arXiv:([\d.]+\d)", head)) <= {family.facts["arxiv"]}


# ---- variants ----


def test_ids_consist_of_family_size_and_patch() -> None:
    ids = list(variants())
    assert ids == [id for family in FAMILIES for id in family.facts["variants"]]  # no duplicates, same order
    own = Counter(variant.family.module for variant in variants().values() if not variant.shipped)
    assert (
        own.items() >= {"dic": 4, "dico": 5, "dig": 4, "dit": 12, "fcdm": 4, "uvit": 4, "pixart": 2, "udit": 6}.items()
    )
    assert own["sit"] == own["diffit"] == own["dit_llama"] == 1
    for id, variant in variants().items():
        assert variant.id == id
        # "DiT-XL/2" is dit_xl_2: the paper's name, lower case, with underscores
        assert id.replace("_", "") == re.sub(r"[^a-z0-9]", "", variant.name.lower())
        assert variant.family is families()[variant.family.module] and id.startswith(variant.family.module)
        assert find(id) is variant


def test_sizes_match_the_papers() -> None:
    """One size each of Table 3 of DiC, Table 5 of DiCo and Table 1 of FCDM and DiT."""
    assert find("dic_h").options == {"width": 384, "depths": [14, 14, 10, 14, 14]}
    assert find("dico_xl").options == {"width": 416, "depths": [9, 9, 10, 9, 9], "mlp_ratio": 2}
    assert find("dig_xl_2").options == {"width": 1152, "depth": 28, "heads": 18, "patch": 2}
    assert find("dit_xl_2").options == {"width": 1152, "depth": 28, "heads": 16, "patch": 2}
    assert find("fcdm_l").options == {"width": 512, "depths": [2, 4, 8, 4, 2]}


def test_only_models_of_fixed_resolution_receive_it() -> None:
    assert find("dit_s_4").constructor_arguments(512) == {**find("dit_s_4").options, "res": 512}
    assert find("dic_s").constructor_arguments(512) == find("dic_s").options
    for id in ("dig_s_2", "dit_s_2"):
        assert find(id).fixed_res
    for id in ("dic_s", "dico_s", "fcdm_s"):
        assert not find(id).fixed_res


@pytest.mark.parametrize("id", list(variants()))
def test_every_variant_accepts_multiples_of_its_step(id: str) -> None:
    variant = find(id)
    step = variant.res_multiple
    if variant.family.module in ("dic", "dico", "dig", "dit", "fcdm"):  # two halvings or one patch
        assert step == variant.signature.factor * variant.options.get("patch", 4)
    for res in (step, variant.res, 2 * variant.res, 31 * step):
        variant.require_res(res)
    for res in (0, -step, 1, step // 2, step + 1):
        with pytest.raises(UsageError):
            variant.require_res(res)


@pytest.mark.parametrize(
    ("id", "res", "near"),
    [
        ("dic_xl", 500, "32, such as 480 or 512"),
        ("dit_xl_2", 250, "16, such as 240 or 256"),
        ("dit_xl_8", 100, "64, such as 64 or 128"),
        ("dig_s_2", 5, "16, such as 16 or 32"),
        ("fcdm_s", 0, "32, such as 32 or 64"),
        ("dico_s", -256, "32, such as 32 or 64"),
    ],
)
def test_an_invalid_resolution_names_valid_ones(id: str, res: int, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(id).require_res(res)
    assert str(caught.value) == f"--res {res} is invalid for {id}: it must be a positive multiple of {near}"
    for better in map(int, re.findall(r"\d+", near.partition("such as")[2])):
        find(id).require_res(better)


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("dic_xll", "dic_xl"),
        ("dic-xl", "dic_xl"),
        ("DiC-XL", "dic_xl"),
        ("DiT-XL/2", "dit_xl_2"),
        ("DIT_XL_2", "dit_xl_2"),
        ("fcdm", "fcdm_"),
        ("digs2", "dig_s_2"),
    ],
)
def test_an_unknown_id_is_answered_with_similar_ids(asked: str, first: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(asked)
    message = str(caught.value)
    assert message.startswith(f"unknown model '{asked}': did you mean {first}")
    named = message.partition("did you mean ")[2].removesuffix("?").split(" or ")
    assert set(named) <= set(variants())


@pytest.mark.parametrize("asked", ["resnet50", "", "unet"])
def test_an_id_without_similar_ids_is_answered_with_the_list(asked: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(asked)
    assert str(caught.value) == f"unknown model '{asked}': `convbench models` lists all"


# ---- printed numbers ----


def test_every_paper_has_rows_and_states_its_conditions() -> None:
    assert {row["paper"] for _, row in ROWS} == set(papers())
    for key, paper in papers().items():
        assert set(paper) == {
            "title",
            "arxiv",
            "venue",
            "gpu",
            "batch",
            "precision",
            "attention",
            "timed",
            "printed_in",
        }
        assert isinstance(paper["batch"], int), key
        assert all(paper[name].strip() for name in paper if name != "batch"), key
    for module in ("dic", "dico", "fcdm"):  # papers of our families match the family's own table
        for name in ("arxiv", "title"):
            assert papers()[module][name] == families()[module].facts[name]


@pytest.mark.parametrize("family", FAMILIES, ids=by_module)
def test_published_rows_belong_to_the_family_and_are_plausible(family: Family) -> None:
    names = {*family.facts["variants"], *(row.get("printed_as") for row in family.facts["variants"].values())}
    for row in family.published:
        assert row.keys() <= TEXT | NUMBERS.keys() | {"res"}, row
        assert {"paper", "table", "model", "res"} <= row.keys(), row
        assert row.keys() & NUMBERS.keys(), row  # at least one number
        assert all(isinstance(row[key], str) and row[key] for key in TEXT & row.keys()), row
        assert all(low < row[key] <= high for key, (low, high) in NUMBERS.items() if key in row), row
        assert row["res"] in (256, 512), row
        # The id of an ablation states its changes or, if convbench does not build it, the paper's name for it.
        base = re.split(r"[@+\[]", row["model"])[0]
        assert base == family.module if "[" in row["model"] else base in names, row


QUOTED_TEXT = {"where", "model", "training", "guidance", "aid", "sampler", "data"}


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.quoted], ids=by_module)
def test_quoted_rows_belong_to_the_family_and_name_their_source(family: Family) -> None:
    for row in family.quoted:
        assert row.keys() <= QUOTED_TEXT | {"res", "params_m", "gmacs", "images_per_s"} | {
            "fid",
            "sfid",
            "inception_score",
        }, row
        assert row["model"] in family.facts["variants"] and row["res"] in (256, 512, 1024), row
        assert re.fullmatch(r"(arXiv:\d{4}\.\d{5}, )?Tables? [\d and]+|README\.md|\w+\.py", row["where"]), row
        assert all(isinstance(row[key], str) and row[key] for key in QUOTED_TEXT & row.keys()), row
        assert "fid" in row and all(low < row[key] <= high for key, (low, high) in NUMBERS.items() if key in row), row
    assert len({str(sorted(row.items())) for row in family.quoted}) == len(family.quoted)


def test_every_rival_quotes_an_fid() -> None:
    rivals = {"flowdcn", "lightningdit", "ddt", "edm2", "jit", "sana", "mdtv2"}
    assert {family.module for family in FAMILIES if family.quoted} == rivals


def test_no_row_appears_twice() -> None:
    seen: list[dict[str, Any]] = []
    for _, row in ROWS:
        assert row not in seen, row
        seen.append(row)


def test_papers_quote_the_same_quality() -> None:
    """The FID of a model, training and guidance is the same in every paper, except for truncated digits."""
    printed: dict[tuple[Any, ...], set[float]] = {}
    for _, row in ROWS:
        if "fid" in row and "training" in row and "label" not in row:
            key = tuple(row.get(name) for name in ("model", "res", "training", "guidance"))
            printed.setdefault(key, set()).add(row["fid"])
    several = {key: values for key, values in printed.items() if len(values) > 1}
    assert several == {
        # DiC trained its own DiT; the other papers quote the official numbers.
        ("dit_s_2", 256, "400K", "none"): {67.4, 68.4},
        ("dit_b_2", 256, "400K", "none"): {42.84, 43.47},
        ("dit_xl_2", 256, "400K", "none"): {20.05, 19.47},
    }
    assert sum(len(values) for values in printed.values()) > 50


def test_winograd_macs_are_fewer_than_direct_macs() -> None:
    pairs = [(row["gmacs"], row["winograd_gmacs"]) for _, row in ROWS if "winograd_gmacs" in row]
    assert len(pairs) >= 9
    assert all(direct * 4 / 9 < winograd < direct for direct, winograd in pairs)
