"""What the backends of the fused kernels take. Their rows on a CPU: test_measure.py; on a GPU: test_fuse_gpu.py."""

from typing import Any

import pytest
import torch

from convbench import backends
from convbench.checks.output import input_sets
from convbench.errors import UsageError
from convbench.kernels.fused.dic import FusedModulatedConvs
from convbench.kernels.ops import winograd_conv
from convbench.models import create
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


OPTIONS = {"ours": ("ours", "library"), "library": ("library", "library"), "winograd": ("table", "winograd")}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["triton", "triton_graphs"])
def test_what_computes_products_and_convolutions_is_an_option_of_the_backend(
    kind: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, plain = backends.find(f"{kind}:{option}"), backends.find(kind)
    assert backend.name == f"{kind}:{option}"
    assert (plain.unsupported is backend.unsupported) == (option != "winograd")
    assert backend.launched_singly == (kind == "triton")
    taken: list[tuple[str, str]] = []

    def fused_copy(model: Any, products: str = "table", convolutions: str = "library") -> Any:
        taken.append((products, convolutions))
        raise KeyboardInterrupt

    monkeypatch.setattr("convbench.kernels.fused.fuse.fused_copy", fused_copy)
    for each in (backend, plain):
        with pytest.raises(KeyboardInterrupt), each.open(torch.nn.Identity(), Case("dico_s", 64, 1), ()):  # type: ignore[arg-type]
            pass
    assert taken == [OPTIONS[option], ("table", "library")]


def test_winograd_convolutions_need_a_network_and_a_precision_that_have_them() -> None:
    backend, graphs = backends.find("triton:winograd"), backends.find("triton_graphs:winograd")
    assert backend.unsupported(Case("dic_s", 256, 1)) is None
    assert backend.unsupported(Case("dico_s", 256, 1)) == "there are fused Winograd convolutions for DiC only"
    assert backend.unsupported(Case("dic_s", 256, 1, precision="bf16")) == (
        "the fused Winograd convolutions compute in float32: choose fp32 or tf32"
    )
    assert graphs.unsupported(Case("dic_s", 256, 1)) == "CUDA graphs need an NVIDIA GPU"


def test_a_step_knows_what_its_convolutions_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the launches note, once a step; on a CPU the references save nothing, and none is claimed."""
    case, inputs = Case("tiny:dic", 64, 2), input_sets(Case("tiny:dic", 64, 2))[0]
    model = create("tiny:dic")
    backend = backends.find("triton:winograd")
    with backend.open(model, case, inputs) as step:
        step(*inputs)
        assert step.saved_macs == 0  # type: ignore[attr-defined]

        def noting(block: Any, name: str, x: Any) -> Any:
            winograd_conv.executed.counted += 9
            winograd_conv.executed.executed += 4
            return torch.nn.functional.conv2d(x, getattr(block, name).weight, padding=1)

        monkeypatch.setattr(FusedModulatedConvs, "convolve", noting)
        convolutions = 2 * sum(type(each) is FusedModulatedConvs for each in step.step.modules())  # type: ignore[attr-defined]
        for _ in range(2):
            step(*inputs)
            assert step.saved_macs == 5 * convolutions > 0  # type: ignore[attr-defined]


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^no backend at 'triton_graphs:theirs'"):
        backends.find("triton_graphs:theirs")
    with pytest.raises(UsageError, match=r"^no backend at 'eager:backend': eager has no option 'backend'$"):
        backends.find("eager:backend")
