"""The stored choice between our 1x1 products and the library's: what is modelled follows from its formula."""

import copy
import tomllib
from dataclasses import replace
from typing import Any

import pytest
import torch
from tolerances import assert_close

from convbench import precision
from convbench.catalogue import find
from convbench.kernels import product_tiles
from convbench.kernels.bench import products
from convbench.kernels.fused import product_dispatch
from convbench.kernels.ops.pointwise_residual import ROWS
from convbench.kernels.ops.pointwise_squares import segment_pixels


def all_rows() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(product, row) for product in product_tiles.table()["products"] for row in product["rows"]]


@pytest.mark.parametrize(
    ("product", "row"), all_rows(), ids=lambda v: "-".join(str(v.get(k)) for k in ("name", "gpu", "level") if k in v)
)
def test_a_modelled_row_follows_from_its_formula_and_a_measured_one_says_where(product: Any, row: Any) -> None:
    """Passes saved, in the time a copy takes, against what our product takes longer, as shares of the library's."""
    if row["basis"] == "measured":
        assert row["ours"] == (row["ratio"] > 1)
        assert row["where"] and "margin" not in row
        known = [tile.label for tile in product_tiles.candidates(row["gpu"], 2)]
        assert row.get("tile", known[0]) in known
        return
    assert (row["basis"], set(row)) == ("modelled", {"gpu", "level", "channels", "ours", "margin", "takes", "basis"})
    rates, c, pixels = product_tiles.table()["rates"][row["gpu"]], row["channels"], 32 * 32 >> 2 * (row["level"] - 1)
    passes = product["saved_passes"] * c * 2 / rates["copy_bytes_per_s"]
    itself = 2 * product["inner"] * product["outer"] * c**2 / rates["matmul_flops_per_s"]
    assert row["margin"] == pytest.approx(passes / itself, abs=0.006)
    most = segment_pixels(pixels, ROWS) if product["kernel"].endswith("residual") else None
    asked = product_tiles.Product(
        product["kernel"], row["gpu"], 2, 64 * pixels, product["inner"] * c, product["outer"] * c, most
    )
    least = min(product_tiles.modelled_s(tile, asked) for tile in product_tiles.usable(asked)) / (64 * pixels)
    assert row["takes"] == pytest.approx(max(1 + product_tiles.table()["assumed_shortfall"], least / itself), abs=0.006)
    assert row["ours"] == (row["takes"] < 1 + row["margin"])


ASKED = product_tiles.Product("pointwise_gelu", "sm_90", 2, 65536, 416, 832)
LARGE, SQUARE = (product_tiles.ProductTile(*sizes) for sizes in ((256, 128, 64, 8, 3), (128, 128, 64, 8, 3)))


def test_the_modelled_time_is_that_of_the_slower_of_tensor_cores_and_l2() -> None:
    """256 x 7 tiles over 132 multiprocessors are 14 rounds; 384 rows of 416 numbers of 2 bytes a tile."""
    rounds = -(-256 * 7 // 132) * 132
    assert product_tiles.modelled_s(LARGE, ASKED) == pytest.approx(rounds * 384 * 416 * 2 / 5.5e12)
    fewer = replace(ASKED, inner=8)  # 64 are multiplied, 8 are read
    assert product_tiles.modelled_s(LARGE, fewer) == pytest.approx(rounds * 2 * 256 * 128 * 64 / 5.925e14)
    assert product_tiles.modelled_s(SQUARE, ASKED) > product_tiles.modelled_s(LARGE, ASKED)


def test_the_model_chooses_where_nothing_is_measured() -> None:
    large = product_tiles.chosen(ASKED)
    assert (large.rows, large.cols, large.descriptors, large.persistent) == (256, 128, True, True)
    bare = product_tiles.chosen(replace(ASKED, described=False))
    assert not bare.descriptors and (bare.rows, bare.cols) == (128, 128)
    small = product_tiles.chosen(replace(ASKED, rows=256))  # 1 x 7 tiles would leave most multiprocessors idle
    assert product_tiles.modelled_s(small, ASKED) >= product_tiles.modelled_s(large, ASKED)
    assert (small.rows, small.cols) != (256, 128)
    for most, rows in ((128, 128), (64, 64), (32, 32), (16, 16)):
        assert product_tiles.chosen(replace(ASKED, most_rows=most)).rows == rows
    assert not product_tiles.chosen(replace(ASKED, most_rows=16)).persistent


def test_every_generation_and_size_has_a_configuration_for_any_operand() -> None:
    for gpu in product_tiles.table()["rates"]:
        for itemsize in (2, 4):
            found = product_tiles.candidates(gpu, itemsize)
            assert any(not tile.descriptors for tile in found)
            assert len(found) == len({tile.label for tile in found})
    assert not any(tile.descriptors for tile in product_tiles.candidates("sm_80", 2))  # from sm_90
    assert product_tiles.candidates(product_tiles.OTHER_GPUS, 4)


def test_a_measured_row_names_the_configuration_of_its_own_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = copy.deepcopy(product_tiles.table())
    entry = next(each for each in changed["products"] if each["name"] == "conv4")
    row = next(each for each in entry["rows"] if (each["gpu"], each["channels"]) == ("sm_90", 416))
    row["tile"] = "128x64x64, 4w3s"
    monkeypatch.setattr(product_tiles, "table", lambda: changed)
    product_tiles.chosen.cache_clear()
    try:
        assert product_tiles.chosen(ASKED).label == "128x64x64, 4w3s"
        others = (
            replace(ASKED, inner=352, cols=704),
            replace(ASKED, kernel="pointwise"),
            replace(ASKED, gpu="sm_100"),
            replace(ASKED, itemsize=4),
            replace(ASKED, most_rows=64),  # which it has too many rows for
        )
        assert all(product_tiles.chosen(other).label != "128x64x64, 4w3s" for other in others)
    finally:
        product_tiles.chosen.cache_clear()


def test_a_product_inside_using_takes_what_is_given_as_far_as_it_can() -> None:
    given = product_tiles.ProductTile(256, 128, 64, 8, 3, descriptors=True, persistent=True)
    with product_tiles.using(given) as launched:
        assert product_tiles.tile_of(ASKED) == given
        assert product_tiles.tile_of(replace(ASKED, most_rows=64, described=False)) == replace(
            given, rows=64, descriptors=False
        )
    assert launched == [given, replace(given, rows=64, descriptors=False)]
    assert product_tiles.tile_of(replace(ASKED, rows=256)) != given


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
    assert (choice("conv4"), choice("conv4", channels=1664), choice("conv4", channels=1408)) == (True, False, False)
    assert choice("conv4", channels=352) and not choice("conv5")
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
    before = product_tiles.TABLE.read_text("utf-8")
    half = {"precision": "bf16", "tile": "128x256x64, 8w3s, descriptors"}
    rows: list[dict[str, Any]] = [
        {"family": "dico", "product": "conv4", "level": 2, "ratio": ratio, "batch": batch, **half}
        for batch, ratio in ((64, 0.7), (32, 0.91234), (1, 1.4))
    ]
    rows[1]["tile"] = rows[2]["tile"] = "128x64x64, 4w3s"  # the largest batch decides
    full = {"precision": "fp32", "tile": "64x64x32, 4w3s"}
    rows.append({"family": "fcdm", "product": "pwconv2", "level": 3, "ratio": 1.25, "batch": 64, **full})
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
            **{"tile": half["tile"], "basis": "measured", "where": "made up, batch 64"},
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
