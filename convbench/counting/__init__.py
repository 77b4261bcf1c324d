"""MACs, bytes and parameters of a network, counted on the meta device, without weights in memory or computation.

There are two conventions, because the field uses both and seldom says which:

* ``macs``: as torchprofile counts. Convolutions, linear layers, matrix products and fused attention in full; one per
  output element of an elementwise product, a mean or pooling, and a norm with affine; zero for additions,
  ``addcmul``, activations, softmax, vector norms, norms without affine, and everything inside an operator that a
  tracer cannot open (the linear attention of DiG, the scan of Mamba). The papers print this under "FLOPs".
* ``macs_full``: multiply-accumulates of convolutions, linear layers and matrix products, including those inside such
  operators, without elementwise operations.

Neither includes the samples of FlowDCN's deformable operator, which are counted in ``dcn_samples``.

Both refer to one image and one forward pass. The table ``RULES`` maps the name of a torch function to a rule, which
returns the kind and the MACs of a call.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from .meta import result_of

ELEMENTWISE = frozenset({"mul", "norm", "pool_mean", "einsum", "resize"})
"""Kinds that are not matrix products: part of ``macs``, not of ``macs_full``."""

HIDDEN = frozenset({"gla_core", "scan_core"})
"""Kinds that a tracer cannot see: part of ``macs_full``, not of ``macs``."""

UNCOUNTED = frozenset({"dcn_samples"})
"""Kinds in neither: weighted samples of a deformable operator. Each is one product with its weight and, if it lies
between tokens, four more with the weights of its corners; no convention defines how many of them count."""

WINOGRAD = (4, 9)
"""F(2x2, 3x3) needs 16 products where the direct form needs 36 (Lavin and Gray 2016)."""

WINOGRAD4 = (36, 144)
"""F(4x4, 3x3) needs 36 products where the direct form needs 144."""


@dataclass(frozen=True)
class Operation:
    """A call of a torch function in the network."""

    module: str  # dotted path of the innermost module
    in_block: bool  # inside a module whose class name ends with Block
    kind: str
    macs: int
    bytes: int  # read and written, without weights


@dataclass
class Count:
    """Counts of one forward pass of one image.

    Bytes refer to the given element size; ``activation_bytes`` are read and written by unfused operators, without
    weights; ``peak_activation_bytes`` is the maximum alive at the same time.
    """

    params: int
    weight_bytes: int
    operations: list[Operation] = field(default_factory=list)
    peak_activation_bytes: int = 0

    def by_kind(self) -> dict[str, int]:
        """MACs by kind, including hidden kinds, largest first."""
        kinds: Counter[str] = Counter()
        for op in self.operations:
            kinds[op.kind] += 0 if op.kind in UNCOUNTED else op.macs
        return {kind: macs for kind, macs in kinds.most_common() if macs}

    def by_module(self, depth: int = 2) -> dict[str, int]:
        """MACs as torchprofile counts, by the first ``depth`` parts of the module path, in the order of the calls."""
        modules: dict[str, int] = {}
        for op in self.operations:
            path = ".".join(op.module.split(".")[:depth]) or "(top)"
            modules[path] = modules.get(path, 0) + (0 if op.kind in HIDDEN | UNCOUNTED else op.macs)
        return {path: macs for path, macs in modules.items() if macs}

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.operations if op.kind not in HIDDEN | UNCOUNTED)

    @property
    def macs_full(self) -> int:
        return sum(op.macs for op in self.operations if op.kind not in ELEMENTWISE | UNCOUNTED)

    @property
    def dcn_samples(self) -> int:
        """Weighted samples of deformable operators, which are part of neither ``macs`` nor ``macs_full``."""
        return sum(op.macs for op in self.operations if op.kind in UNCOUNTED)

    @property
    def activation_bytes(self) -> int:
        return sum(op.bytes for op in self.operations)

    @property
    def dense_3x3_macs(self) -> int:
        """MACs of dense stride-1 3x3 convolutions."""
        return sum(op.macs for op in self.operations if op.kind == "conv3x3_s1")

    @property
    def winograd_macs(self) -> int:
        """MACs by the papers' rule: 4/9 of the dense 3x3 convolutions inside blocks, everything else in full."""
        return self._with_winograd(lambda op: op.in_block)

    @property
    def winograd_macs_all(self) -> int:
        """MACs with 4/9 of every dense stride-1 3x3 convolution, everything else in full."""
        return self._with_winograd(lambda op: True)

    @property
    def winograd4_macs_all(self) -> int:
        """The same with 1/4 of them, by F(4x4, 3x3) on whole tiles."""
        return self._with_winograd(lambda op: True, WINOGRAD4)

    def _with_winograd(self, applies: Callable[[Operation], bool], share: tuple[int, int] = WINOGRAD) -> int:
        dense = sum(op.macs for op in self.operations if op.kind == "conv3x3_s1" and applies(op))
        numerator, denominator = share
        return self.macs - dense + dense * numerator // denominator  # exact: every such count is a multiple of 9

    def without(self, parts: list[str]) -> int:
        """Compute ``macs`` without the operations named by "end of the module path/kind", e.g. "mlp.down_proj/linear".

        "*" in place of the path matches every module.
        """
        left_out = [part.rsplit("/", 1) for part in parts]
        return sum(
            op.macs
            for op in self.operations
            if op.kind not in HIDDEN | UNCOUNTED
            and not any(
                op.kind == kind and (path == "*" or f".{op.module}".endswith(f".{path}")) for path, kind in left_out
            )
        )


# ---- the rules: arguments and result of a torch function -> kind and MACs ----

Rule = Callable[[tuple[Any, ...], dict[str, Any], Tensor], tuple[str, int]]


def _conv(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> tuple[str, int]:
    x, weight = args[:2]
    strides = args[3] if len(args) > 3 else kwargs.get("stride", 1)
    kernel = weight.shape[2:]
    step = strides if isinstance(strides, int) else strides[0]
    size = "x".join(map(str, kernel))
    if weight.shape[1] == 1 and weight.shape[0] == x.shape[1] > 1:
        kind = f"dwconv{size}"
    elif step == kernel[0] > 1:
        kind = "conv_patch"
    else:
        kind = f"conv{size}" if kernel[0] == 1 else f"conv{size}_s{step}"
    return kind, out.numel() * weight.shape[1] * prod(kernel)


def _conv_transpose(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> tuple[str, int]:
    x, weight = args[:2]
    return "conv_transpose", x.numel() * prod(weight.shape[1:])


def _linear(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> tuple[str, int]:
    return "linear", out.numel() * args[1].shape[-1]


def _matmul(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> tuple[str, int]:
    return "matmul", out.numel() * args[0].shape[-1]


def _addmm(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> tuple[str, int]:
    return "matmul", out.numel() * args[1].shape[-1]


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> tuple[str, int]:
    q, k, v = args[:3]
    return "attention_matmul", prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _einsum(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> tuple[str, int]:
    equation, tensors = args[0], args[1] if isinstance(args[1], list | tuple) else args[1:]
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if "." in equation:
        return "einsum", 0  # as torchprofile does
    sizes = {
        letter: size for term, x in zip(terms, tensors, strict=True) for letter, size in zip(term, x.shape, strict=True)
    }
    return ("einsum" if len(terms) == 1 else "matmul"), prod(sizes.values())


def _norm(position: int, name: str) -> Rule:
    def rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> tuple[str, int]:
        weight = args[position] if len(args) > position else kwargs.get(name)
        return "norm", out.numel() if weight is not None else 0

    return rule


def _elements(kind: str, each: int = 1) -> Rule:
    return lambda args, kwargs, out: (kind, each * out.numel())


def _bilinear(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> tuple[str, int]:
    return "resize", 4 * out.numel() if kwargs.get("mode") == "bilinear" else 0


RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    "linear": _linear,
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm", "mv"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
    **dict.fromkeys(("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"), _elements("mul")),
    **dict.fromkeys(
        ("mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d"),
        _elements("pool_mean"),
    ),
    "layer_norm": _norm(2, "weight"),
    "group_norm": _norm(2, "weight"),
    "batch_norm": _norm(3, "weight"),
    "instance_norm": _norm(3, "weight"),
    "leaky_relu": _elements("mul"),
    "interpolate": _bilinear,
}


# ---- the counter ----


class _Recorder(TorchFunctionMode):
    """Recorder of each outermost torch function of a forward pass and the module that called it."""

    def __init__(self, count: Count, element_size: int) -> None:
        super().__init__()
        self.count = count
        self.element_size = element_size
        self.modules: list[tuple[str, bool]] = [("", False)]
        self.opaque = 0
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = result_of(func, args, kwargs)
        if out is None:
            out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.device.type == "meta":
            self._record(getattr(func, "__name__", ""), args, kwargs, out)
        return out

    def _record(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        inputs = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        inputs += [a for group in args if isinstance(group, list | tuple) for a in group if isinstance(a, Tensor)]
        view = any(out.untyped_storage()._cdata == a.untyped_storage()._cdata for a in inputs)
        if not view:
            self._watch(out)
        if self.opaque:
            return
        kind, macs = RULES[name](args, kwargs, out) if name in RULES else ("", 0)
        moved = 0 if view and not macs else self._bytes([*(a for a in inputs if not isinstance(a, nn.Parameter)), out])
        if macs or moved:
            self._add(kind, macs, moved)

    def _add(self, kind: str, macs: int, moved: int = 0) -> None:
        path, in_block = self.modules[-1]
        self.count.operations.append(Operation(path, in_block, kind, macs, moved))

    def _bytes(self, tensors: list[Tensor]) -> int:
        return sum(t.numel() * (self.element_size if t.is_floating_point() else t.element_size()) for t in tensors)

    def _watch(self, out: Tensor) -> None:
        storage = out.untyped_storage()
        self.alive = {id: (ref, size) for id, (ref, size) in self.alive.items() if not ref.expired()}
        self.alive[storage._cdata] = (StorageWeakRef(storage), self._bytes([out]))
        self.count.peak_activation_bytes = max(
            self.count.peak_activation_bytes, sum(size for _, size in self.alive.values())
        )

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Track which module of the model is being called."""
        handles = []
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(path)))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            in_block = self.modules[-1][1] or type(module).__name__.endswith("Block")
            self.modules.append((path, in_block))
            # A module that a profiler cannot open counts itself, see gla.py.
            if hasattr(module, "count_macs"):
                moved = self._bytes([a for a in args if isinstance(a, Tensor)])
                own: dict[str, int] = module.count_macs(*args)  # type: ignore[operator]
                for kind, macs in own.items() or [("", 0)]:
                    self._add(kind, macs, moved)
                self.opaque += 1
            products = getattr(module, "extra_products", 0)
            if products := products(*args) if callable(products) else products:
                self._add("mul", products)

        return hook

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        self.modules.pop()
        if hasattr(module, "count_macs"):
            self.opaque -= 1


def count(model: nn.Module, inputs: tuple[Tensor, ...], element_size: int = 4) -> Count:
    """Count one forward pass of a network on the meta device.

    Args:
        model: a network on the meta device, in evaluation mode.
        inputs: its arguments with batch 1, on the meta device, e.g. x (1, C, H, W), t (1,) and y (1,).
        element_size: bytes of a weight and of an activation: 4 for fp32, 2 for fp16 and bf16.
    """
    params = sum(p.numel() for p in model.parameters())
    result = Count(params=params, weight_bytes=params * element_size)
    recorder = _Recorder(result, element_size)
    with torch.no_grad(), recorder.watching(model), recorder:
        model(*inputs)
    return result
