"""The stored choice between our 1x1 products and the library's: what is modelled follows from its formula."""

import tomllib
from dataclasses import replace
from typing import Any

import pytest
import torch
from tolerances import assert_close

from convbench import precision
from convbench.catalogue import find
from convbench.kernels.bench import products
from convbench.kernels.fused import product_dispatch


def all_rows() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(product, row) for product in product_dispatch.table()["products"] for row in product["rows"]]


@pytest.mark.parametrize(
    ("product", "row"), all_rows(), ids=lambda v: "-".join(str(v.get(k)) for k in ("name", "gpu", "level") if k in v)
)
def test_a_modelled_row_follows_from_its_formula_and_a_measured_one_says_where(product: Any, row: Any) -> None:
    """Passes saved, in the time a copy takes, as a share of the product's own time."""
    if row["basis"] == "measured":
        assert row["ours"] == (row["ratio"] > 1)
        assert row["where"] and "margin" not in row
        return
    assert (row["basis"], set(row)) == ("modelled", {"gpu", "level", "channels", "ours", "margin", "basis"})
    rates, c = product_dispatch.table()["rates"][row["gpu"]], row["channels"]
    passes = product["saved_passes"] * c * 2 / rates["copy_bytes_per_s"]
    itself = 2 * product["macs_per_c2"] * c**2 / rates["matmul_flops_per_s"]
    assert row["margin"] == pytest.approx(passes / itself, abs=0.006)
    assert row["ours"] == (passes / itself > product_dispatch.table()["assumed_shortfall"])


def test_the_table_has_every_product_level_and_generation() -> None:
    """At the widths of the XL models, which must be those of the catalogue."""
    found = {(p["family"], p["name"], row["gpu"], row["level"], row["channels"]) for p, row in all_rows()}
    names = {"dico": ("conv3", "conv4", "conv5"), "fcdm": ("pwconv1", "pwconv2")}
    assert found == {
        (family, name, gpu, level, find(f"{family}_xl").options["width"] * 2 ** (level - 1))
        for family, products in names.items()
        for name in products
        for gpu in ("sm_80", "sm_90", "sm_100")
        for level in (1, 2, 3)
    }


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def weight(dtype: torch.dtype, channels: int = 416) -> Any:
        class Pretended:
            device = torch.device("cuda", 0)
            shape = (channels, channels, 1, 1)

        Pretended.dtype = dtype  # type: ignore[attr-defined]
        return Pretended()

    def choice(name: str, dtype: torch.dtype = torch.bfloat16, channels: int = 416) -> bool:
        return product_dispatch.choose("dico", name, weight(dtype, channels), "table")

    def generation(*capability: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    generation(9, 0)
    assert (choice("conv5"), choice("conv5", channels=1664), choice("conv5", channels=1408)) == (True, False, False)
    assert choice("conv5", channels=352)
    assert not choice("conv4", torch.float32)
    with precision.applied("tf32"):
        assert choice("conv4", torch.float32)
    for unknown in ((8, 6), (8, 9), (12, 0)):
        generation(*unknown)
        assert not choice("conv3")
    generation(10, 3)
    assert choice("conv3")
    assert product_dispatch.choose("dico", "conv3", weight(torch.float32), "ours")
    assert not product_dispatch.choose("dico", "conv3", weight(torch.float16), "library")
    assert product_dispatch.choose("dico", "conv5", torch.empty(1664, 1664), "table")  # a CPU runs every reference
    with pytest.raises(KeyError, match="no product conv6 of dico"):
        product_dispatch.rows("dico", "conv6")


def test_measured_rows_take_the_place_of_those_of_their_generation() -> None:
    """Of each product and level that was measured; the median of several batches."""
    before = product_dispatch.TABLE.read_text("utf-8")
    rows = [
        {"family": "dico", "product": "conv4", "level": 2, "ratio": ratio}
        for ratio in (0.7, 0.91234, 1.4)  # batches
    ]
    rows.append({"family": "fcdm", "product": "pwconv2", "level": 3, "ratio": 1.25})
    after = products.written(before, "sm_90", rows, "made up, batch 64")
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 2
    found = {
        (entry["family"], entry["name"], row["level"]): row
        for entry in tomllib.loads(after)["products"]
        for row in entry["rows"]
        if row["basis"] == "measured"
    }
    assert found == {
        ("dico", "conv4", 2): {
            **{"gpu": "sm_90", "level": 2, "channels": 832, "ours": False, "ratio": 0.912},
            **{"basis": "measured", "where": "made up, batch 64"},
        },
        ("fcdm", "pwconv2", 3): {
            **{"gpu": "sm_90", "level": 3, "channels": 2048, "ours": True, "ratio": 1.25},
            **{"basis": "measured", "where": "made up, batch 64"},
        },
    }
    assert products.written(before, "sm_80", rows[:0], "nowhere") == before


def test_every_product_is_measured_as_the_network_computes_it() -> None:
    """Both ways give the same on the inputs of the bench, at each width of the XL networks."""
    places = list(products.places())
    assert {(place.family, place.name, place.level, place.channels) for place in places} == {
        (product["family"], product["name"], row["level"], row["channels"]) for product, row in all_rows()
    }
    for place in places:
        assert (place.shape.channels * place.shape.out_channels) % place.channels**2 == 0
        if place.level > 1:
            continue
        small = replace(place.shape, channels=24 * place.shape.channels // place.channels, height=4, width=4)
        small = replace(small, out_channels=24 * place.shape.out_channels // place.channels)
        arguments = place.kernel.inputs(small, 2, torch.float32, "cpu", 3)
        ours = place.kernel.op(*arguments)
        library = products.LIBRARY[place.kernel.name](*arguments)
        if place.kernel.name == "pointwise_squares":  # sums over runs of pixels, which only one of them splits
            assert_close(ours[1].sum(1), library[1].sum(1), "fp32")
            ours, library = ours[0], library[0]
        assert_close(ours, library, "fp32")
