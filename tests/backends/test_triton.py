"""What the backends of the fused kernels take. Their rows on a CPU: test_measure.py; on a GPU: test_fuse_gpu.py."""

from typing import Any

import pytest
import torch

from convbench import backends
from convbench.errors import UsageError
from convbench.schema import Case


def test_what_the_backends_refuse() -> None:
    plain, graphs = backends.find("triton"), backends.find("triton_graphs")
    assert (plain.name, graphs.name) == ("triton", "triton_graphs")
    assert plain.unsupported(Case("fcdm_s", 256, 1)) is None
    assert plain.unsupported(Case("dit_s_2", 256, 1)) == (
        "there are no fused kernels for DiT, only for DiC, DiCo, DiG, FCDM, FlowDCN"
    )
    assert graphs.unsupported(Case("fcdm_s", 256, 1)) == "CUDA graphs need an NVIDIA GPU"
    assert plain.unranked(Case("fcdm_s", 256, 1, device="cuda")) is None
    assert graphs.unranked(Case("fcdm_s", 256, 1, device="cuda")) is None


@pytest.mark.parametrize(
    ("installed", "capability", "reason"),
    [
        (False, (9, 0), "Triton is not installed: pip install 'convbench[cuda]'"),
        (True, (7, 5), "the fused kernels need an NVIDIA GPU of compute capability 8.0 (Ampere) or newer"),
        (True, (8, 0), None),
    ],
)
def test_what_a_gpu_needs(
    installed: bool, capability: Any, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    for name in ("triton", "triton_graphs"):
        assert backends.find(name).unsupported(Case("dico_s", 256, 1, device="cuda")) == reason


@pytest.mark.parametrize("name", ["triton:ours", "triton:library", "triton_graphs:ours", "triton_graphs:library"])
def test_what_computes_the_products_is_an_option_of_the_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, plain = backends.find(name), backends.find(name.partition(":")[0])
    assert backend.name == name and plain.unsupported is backend.unsupported
    assert backend.launched_singly == name.startswith("triton:")
    taken: list[str] = []

    def fused_copy(model: Any, products: str = "table") -> Any:
        taken.append(products)
        raise KeyboardInterrupt

    monkeypatch.setattr("convbench.kernels.fused.fuse.fused_copy", fused_copy)
    for each in (backend, plain):
        with pytest.raises(KeyboardInterrupt), each.open(torch.nn.Identity(), Case("dico_s", 64, 1), ()):  # type: ignore[arg-type]
            pass
    assert taken == [name.partition(":")[2], "table"]


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^no backend at 'triton_graphs:theirs'"):
        backends.find("triton_graphs:theirs")
    with pytest.raises(UsageError, match=r"^no backend at 'eager:backend': eager has no option 'backend'$"):
        backends.find("eager:backend")
