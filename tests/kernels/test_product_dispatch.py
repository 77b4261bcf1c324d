"""The stored choice between our 1x1 products and the library's: what is modelled follows from its formula."""

from typing import Any

import pytest
import torch

from convbench import precision
from convbench.catalogue import find
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
