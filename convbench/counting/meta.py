"""Results on the meta device without torch's compiler.

On the meta device torch finds the shape of most results in Python, and imports ``torch._dynamo`` for the first of them,
which takes as long as importing torch itself. The rules here give the same shapes, types and strides for the functions
that the networks use most; tests/counting/test_meta.py compares both.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Result = Tensor | None  # None: torch has to find it, or to say what does not fit


def _unary(x: Tensor, *others: Any, **options: Any) -> Result:
    in_place = options.get("inplace") or True in others
    return _like(x) if _floats(x) and not in_place else None


def _elementwise(*given: Any, **options: Any) -> Result:
    tensors = [value for value in given if isinstance(value, Tensor)]
    if not _floats(*tensors) or any(isinstance(value, complex) for value in given):
        return None
    columns = zip_longest(*(reversed(value.shape) for value in tensors), fillvalue=1)
    extents = [{*column} - {1} or {1} for column in columns]
    if any(len(extent) > 1 for extent in extents):
        return None
    shape = tuple(extent.pop() for extent in reversed(extents))
    # Torch keeps the order of the axes in memory, too.
    return next((_like(value) for value in tensors if value.shape == shape), _empty(shape, tensors[0]))


def _layer_norm(x: Tensor, shape: Sequence[int], *others: Any, **options: Any) -> Result:
    fits = tuple(shape) == x.shape[-len(shape) :] and all(v.shape == tuple(shape) for v in _tensors(others, options))
    return _empty(x.shape, x) if fits and _floats(x, *_tensors(others, options)) else None


def _group_norm(x: Tensor, groups: int, *others: Any, **options: Any) -> Result:
    fits = x.shape[1] % groups == 0 and all(v.shape == x.shape[1:2] for v in _tensors(others, options))
    return _empty(x.shape, x) if fits and _floats(x, *_tensors(others, options)) else None


def _attention(query: Tensor, key: Tensor, value: Tensor, *others: Any, **options: Any) -> Result:
    fits = (
        query.shape[:-2] == key.shape[:-2] and query.shape[-1] == key.shape[-1] and key.shape[:-1] == value.shape[:-1]
    )
    return _empty((*query.shape[:-1], value.shape[-1]), query) if fits and _floats(query, key, value) else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Result:
    fits = x.shape[-1:] == weight.shape[1:] and (bias is None or bias.shape == weight.shape[:1])
    floats = _floats(x, weight) if bias is None else _floats(x, weight, bias)
    return _empty((*x.shape[:-1], weight.shape[0]), x) if fits and floats else None


def _mean(x: Tensor, *others: Any, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Result:
    axes = dim if isinstance(dim, list | tuple) else () if dim is None else (dim,)
    if others or not axes or not keepdim or not _floats(x) or not all(-x.ndim <= axis < x.ndim for axis in axes):
        return None
    reduced = {axis % x.ndim for axis in axes}
    return _empty([1 if axis in reduced else size for axis, size in enumerate(x.shape)], x, dtype)


def _pool(x: Tensor, output_size: Any) -> Result:
    return _empty((*x.shape[:-2], 1, 1), x) if output_size == 1 and x.ndim == 4 and _floats(x) else None


def _cat(tensors: Any, dim: int = 0) -> Result:
    first = tensors[0]
    if not _floats(*tensors) or not -first.ndim <= dim < first.ndim:
        return None
    dim %= first.ndim
    beside = {(*value.shape[:dim], *value.shape[dim + 1 :]) for value in tensors}
    if len(beside) > 1 or not all(value.is_contiguous() for value in tensors):
        return None
    return _empty((*first.shape[:dim], sum(value.shape[dim] for value in tensors), *first.shape[dim + 1 :]), first)


def _like(x: Tensor) -> Result:
    """Empty tensor with the axes of ``x`` in the same order in memory; None if an axis repeats the same elements."""
    if 0 in x.shape or any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True)):
        return None
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    dense = _empty([x.shape[axis] for axis in order], x)
    return dense.permute([order.index(axis) for axis in range(x.ndim)])


def _empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device="meta")


RULES: dict[str, Callable[..., Result]] = {
    **dict.fromkeys(("gelu", "silu", "sigmoid", "relu", "softplus", "sin", "cos", "exp", "neg", "square"), _unary),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "group_norm": _group_norm,
    **dict.fromkeys(("add", "sub", "mul", "div", "addcmul"), _elementwise),
    **dict.fromkeys(("mean", "linalg_vector_norm"), _mean),
    "adaptive_avg_pool2d": _pool,
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
    "cat": _cat,
}


def result_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Result:
    """Result of a torch function on the meta device by its rule; None if it has no rule or other inputs."""
    if getattr(function, "__module__", None) == "torch.nn.init":
        filled: Tensor = args[0] if args else kwargs["tensor"]
        return filled if filled.is_meta else None  # what has no storage keeps no values
    rule = RULES.get(getattr(function, "__name__", ""))
    return rule(*args, **kwargs) if rule and kwargs.keys().isdisjoint(("out", "enable_gqa")) else None


def _tensors(others: tuple[Any, ...], options: dict[str, Any]) -> list[Tensor]:
    return [value for value in (*others, *options.values()) if isinstance(value, Tensor)]


def _floats(*tensors: Tensor) -> bool:
    """All on the meta device, of one floating-point type."""
    dtypes = {value.dtype for value in tensors}
    return len(dtypes) == 1 and all(value.is_meta and value.is_floating_point() for value in tensors)


class OnMeta(TorchFunctionMode):
    """Builds networks on the meta device: with these rules, without initial values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = result_of(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if found is None else found
