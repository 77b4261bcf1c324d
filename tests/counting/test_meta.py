"""Results on the meta device by rule, compared with those of torch: call by call, and for a network of every family."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convbench.catalogue import find, variants
from convbench.counting import meta
from convbench.models import on_meta
from convbench.models.counts import count_variant

ONE_OF_EACH = {
    find(id).family.module: id for id in reversed(list(variants()))
}  # the first listed, which is the smallest of most
CONVOLUTIONAL = ("dic", "dico", "fcdm")


@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=[] if of in CONVOLUTIONAL else pytest.mark.slow) for of, id in ONE_OF_EACH.items()]
)
def test_rules_give_the_shapes_and_strides_of_torch(id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes and views of each operation, the peak, and every parameter and buffer."""
    variant = find(id)
    by_rules = count_variant(variant, variant.res), layout(on_meta(variant, variant.res))
    monkeypatch.setattr(meta, "RULES", {})
    assert (count_variant(variant, variant.res), layout(on_meta(variant, variant.res))) == by_rules


def layout(network: nn.Module) -> list[Any]:
    return [(key, value.shape, value.stride(), value.dtype) for key, value in network.state_dict().items()]


def shaped(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


NCHW, TOKENS = shaped((2, 6, 4, 8)), shaped((2, 5, 6))
QUERY, KEY, VALUE = shaped((2, 3, 5, 4)), shaped((2, 3, 7, 4)), shaped((2, 3, 7, 9))
CALLS: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]] = {
    "gelu": (F.gelu, (NCHW.to(memory_format=torch.channels_last),), {}),
    "silu of a view": (F.silu, (NCHW[:, :3].permute(0, 2, 3, 1),), {}),
    "relu, expanded": (F.relu, (shaped((2, 1, 4)).expand(2, 6, 4),), {}),
    "relu in place": (F.relu, (NCHW, True), {}),
    "cos of bf16": (torch.cos, (NCHW.bfloat16(),), {}),
    "cos of integers": (torch.cos, (NCHW.long(),), {}),
    "product, both extended": (torch.mul, (shaped((2, 1)), shaped((6,))), {}),
    "product of orders": (torch.mul, (NCHW, NCHW.to(memory_format=torch.channels_last)), {}),
    "product of orders, swapped": (torch.mul, (NCHW.to(memory_format=torch.channels_last), NCHW), {}),
    "product of types": (torch.mul, (NCHW, NCHW.double()), {}),
    "complex product": (torch.mul, (NCHW, 1j), {}),
    "sum with a number": (torch.add, (NCHW, 2), {"alpha": 3}),
    "addcmul": (torch.addcmul, (shaped((1, 6)), TOKENS, shaped((2, 1, 6))), {}),
    "layer_norm": (F.layer_norm, (NCHW.permute(0, 2, 3, 1), (6,), shaped((6,))), {}),
    "rms_norm": (F.rms_norm, (TOKENS, (6,)), {"weight": shaped((6,))}),
    "group_norm": (F.group_norm, (NCHW.to(memory_format=torch.channels_last), 3, shaped((6,)), shaped((6,))), {}),
    "mean": (torch.mean, (NCHW,), {"dim": (2, -1), "keepdim": True}),
    "mean without its axes": (torch.mean, (NCHW,), {"dim": (2, 3)}),
    "mean of all": (torch.mean, (NCHW,), {}),
    "norm": (torch.linalg.vector_norm, (NCHW.half(),), {"dim": 1, "keepdim": True, "dtype": torch.float32}),
    "pool": (F.adaptive_avg_pool2d, (NCHW, 1), {}),
    "pool to more": (F.adaptive_avg_pool2d, (NCHW, (2, 2)), {}),
    "linear": (F.linear, (NCHW.permute(0, 2, 3, 1), shaped((7, 6)), shaped((7,))), {}),
    "linear of one row": (F.linear, (shaped((6,)), shaped((7, 6))), {}),
    "attention": (F.scaled_dot_product_attention, (QUERY, KEY, VALUE), {}),
    "grouped attention": (
        F.scaled_dot_product_attention,
        (shaped((2, 4, 5, 8)), shaped((2, 2, 5, 8)), shaped((2, 2, 5, 8))),
        {"enable_gqa": True},
    ),
    "cat": (torch.cat, ([TOKENS, shaped((2, 9, 6))], 1), {}),
    "cat of views": (torch.cat, ([NCHW.to(memory_format=torch.channels_last)] * 2,), {"dim": -3}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_each_rule_gives_what_torch_gives_or_leaves_it_to_torch(name: str) -> None:
    function, args, kwargs = CALLS[name]
    found, expected = meta.result_of(function, args, kwargs), function(*args, **kwargs)
    if found is not None:
        assert (found.shape, found.dtype, found.device) == (expected.shape, expected.dtype, expected.device)
        assert found.is_contiguous() == expected.is_contiguous()


def test_most_rules_answer_most_calls() -> None:
    left = [name for name, (function, args, kwargs) in CALLS.items() if meta.result_of(function, args, kwargs) is None]
    assert left == [
        "relu, expanded",
        "relu in place",
        "cos of integers",
        "product of types",
        "complex product",
        "mean without its axes",
        "mean of all",
        "pool to more",
        "grouped attention",
        "cat of views",
    ]


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (torch.mul, (shaped((2, 3)), shaped((2,)))),
        (F.linear, (TOKENS, shaped((7, 5)))),
        (F.linear, (TOKENS, shaped((7, 6)), shaped((6,)))),
        (F.layer_norm, (TOKENS, (5,))),
        (F.layer_norm, (TOKENS, (6,), shaped((5,)))),
        (F.group_norm, (NCHW, 4)),
        (torch.cat, ([TOKENS, shaped((2, 5, 7))], 1)),
        (torch.cat, ([TOKENS, TOKENS], 3)),
        (torch.mean, (NCHW, 4, True)),
    ],
)
def test_what_does_not_fit_is_refused_by_torch_as_before(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    assert meta.result_of(function, args, {}) is None
    with pytest.raises((RuntimeError, IndexError)):
        function(*args)


def test_counting_leaves_torchs_compiler_unloaded() -> None:
    """Importing it took as long as importing torch: most of the time that `convbench flops` needed."""
    program = "import sys; from convbench import flops; flops('dic_h', 512); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
