"""Simulation of a checkpoint's pickle on stand-ins, without creating its objects.

torch.load with ``weights_only`` does not execute code of a file, but a few bytes can still make it allocate gigabytes
(``bytearray(3 * 10**9)``), hash without end or replace methods of its result. So the instructions are first followed
here on stand-ins. Only numbers, texts, lists, dictionaries and dense tensors within the file are accepted.

The instructions are those of torch's own reader (torch/_weights_only_unpickler.py); pickletools parses them.
"""

import math
import pickletools
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_INSTRUCTIONS = 2_000_000  # a training checkpoint of the largest model has several hundred thousand
MAX_KEY = 1024  # characters of a name
MAX_AXES, MAX_ELEMENTS = 16, 2**28  # of a tensor, independent of its storage: one stored number can be expanded
STORAGES = {
    **dict.fromkeys(("torch ByteStorage", "torch CharStorage", "torch BoolStorage", "torch.storage UntypedStorage"), 1),
    **dict.fromkeys(("torch ShortStorage", "torch HalfStorage", "torch BFloat16Storage"), 2),
    **dict.fromkeys(("torch IntStorage", "torch FloatStorage"), 4),
    **dict.fromkeys(("torch LongStorage", "torch DoubleStorage", "torch ComplexFloatStorage"), 8),
    "torch ComplexDoubleStorage": 16,
}
DTYPE = re.compile(r"torch (u?int|b?float|complex)[0-9]{1,3}[a-z0-9_]*|torch bool")
NAMESPACE = "argparse Namespace"  # the parsed arguments that training scripts save


class NotPlain(Exception):
    """A pickle that creates more than plain data and dense tensors."""


class Malformed(Exception):
    """A truncated pickle, or one that torch.save did not write."""


@dataclass(frozen=True)
class GlobalName:
    """A class or function of Python, by its name: "module name"."""

    name: str


@dataclass(frozen=True)
class TensorStandIn:
    """Stand-in for a tensor."""


@dataclass(frozen=True)
class StorageStandIn:
    """Stand-in for the storage of tensors within the file."""


@dataclass
class DictStandIn:
    """Stand-in for a dictionary or an object with attributes."""

    kind: str  # dict, OrderedDict or Namespace
    keys: set[str] = field(default_factory=set)


@dataclass
class ListStandIn:
    """Stand-in for a list."""

    of_texts: bool = True


HasRoom = Callable[[str, int], bool]
"""(key of a storage, bytes) -> True if the file has that many bytes for the storage."""


def simulate(stream: BinaryIO, has_room: HasRoom) -> Any:
    """Read the next pickle of a stream and return the stand-in for its object.

    Raises:
        NotPlain: the pickle would create more than plain data and tensors within the file.
        Malformed: its instructions are invalid.
    """
    machine = _Machine(has_room)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in texts of the file
            for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
                if count > MAX_INSTRUCTIONS:
                    raise NotPlain(f"over {MAX_INSTRUCTIONS} instructions")
                machine.follow(operation.name, argument)
    # Raised by pickletools, or for an empty stack or memo.
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise Malformed(str(error)) from None
    return machine.result


class _Machine:
    """Machine with a stack and a memo that follows the instructions of a pickle."""

    def __init__(self, has_room: HasRoom) -> None:
        self.has_room = has_room
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stack at each mark
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def follow(self, name: str, argument: Any) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in LITERALS:
            self.stack.append(argument)
        elif name in TUPLES:
            length = TUPLES[name]
            self.stack[-length:] = [tuple(self.stack[-length:])]
        elif handler := getattr(self, f"_{name.lower()}", None):
            handler(argument)
        elif name not in ("PROTO", "FRAME"):
            raise Malformed(f"the instruction {name}")

    def _mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        found, self.stack = self.stack, self.below.pop()
        return found

    def _stop(self, _: None) -> None:
        self.result = self.stack.pop()

    def _tuple(self, _: None) -> None:
        found = tuple(self._since_mark())
        self.stack.append(found)

    def _binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _long_binput, _long_binget = _binput, _binget

    def _append(self, _: None) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: Sequence[Any]) -> None:
        _require(isinstance(self.stack[-1], ListStandIn), "appending to an object that is not a list")
        self.stack[-1].of_texts &= all(isinstance(value, str) for value in values)

    def _setitem(self, _: None) -> None:
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def _setitems(self, _: None) -> None:
        self._update(self._since_mark())

    def _update(self, pairs: Sequence[Any]) -> None:
        table = self.stack[-1]
        _require(
            isinstance(table, DictStandIn) and table.kind != "Namespace" and len(pairs) % 2 == 0, "setting an item"
        )
        for key in pairs[::2]:
            # A tuple could be nested so that hashing it does not end.
            _require(isinstance(key, str | bytes | int | float | None), "a key that is neither text nor number")
            _require(not isinstance(key, str) or len(key) <= MAX_KEY, f"a name of more than {MAX_KEY} characters")
            table.keys.add(str(key))

    def _global(self, argument: str) -> None:
        known = argument in CALLS or argument in STORAGES or argument == NAMESPACE or DTYPE.fullmatch(argument)
        _require(known, argument)
        self.stack.append(GlobalName(argument))

    def _reduce(self, _: None) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        _require(isinstance(function, GlobalName) and function.name in CALLS, f"calling {function}")
        _require(isinstance(arguments, tuple), "calling without arguments")
        self.stack[-1] = CALLS[function.name](arguments)

    def _newobj(self, _: None) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        _require((arguments, kind) == ((), GlobalName(NAMESPACE)), "making an object")
        self.stack.append(DictStandIn("Namespace"))

    def _build(self, _: None) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        _require(isinstance(state, DictStandIn) and isinstance(made, DictStandIn), "setting the state of an object")
        attributes = state.keys
        if made.kind == "OrderedDict":  # any other attribute could replace a method
            _require(attributes <= {"_metadata"}, "attributes of a dictionary")
        else:
            _require(made.kind == "Namespace" and not any(key.startswith("__") for key in attributes), "attributes")

    def _binpersid(self, _: None) -> None:
        match self.stack.pop():
            case ("storage", GlobalName(kind), str(key), str(), int(count)) if kind in STORAGES:
                pass
            case ("storage", GlobalName(kind), str(key), str(), int(count), None) if kind in STORAGES:
                pass
            case _:
                raise NotPlain("tensors outside the file")
        if not 0 <= count < 2**63 or not self.has_room(key, count * STORAGES[kind]):
            raise Malformed(f"{count} numbers that the file does not contain")
        self.stack.append(StorageStandIn())


def _require(condition: Any, what: str) -> None:
    if not condition:
        raise NotPlain(what)


def _tensor(arguments: tuple[Any, ...]) -> TensorStandIn:
    """Check (storage, offset, size, stride, …): size and stride must be whole numbers within the limits."""
    match arguments:
        case (StorageStandIn(), int(), tuple(size), tuple(stride), *more) if all(map(_is_plain_argument, more)):
            _require(len(size) <= MAX_AXES and all(type(side) is int for side in (*size, *stride)), "a shape")
            _require(all(0 <= side < 2**63 for side in size) and math.prod(size) <= MAX_ELEMENTS, "a huge shape")
            return TensorStandIn()
    raise NotPlain("a tensor of unknown arguments")


def _is_plain_argument(argument: Any) -> bool:
    """Accept the flags of a tensor (gradients, conjugated, negated), a type, and no hooks."""
    if isinstance(argument, DictStandIn):
        return argument.keys <= {"conj", "neg"}
    return argument is None or isinstance(argument, bool | GlobalName)


def _parameter(arguments: tuple[Any, ...]) -> TensorStandIn:
    match arguments:
        case (TensorStandIn(), bool(), DictStandIn() | None as hooks) if hooks is None or not hooks.keys:
            return TensorStandIn()
    raise NotPlain("a parameter of unknown arguments")


def _ordered_dict(arguments: tuple[Any, ...]) -> DictStandIn:
    _require(arguments == (), "a dictionary with arguments")
    return DictStandIn("OrderedDict")


def _device_or_size(arguments: tuple[Any, ...]) -> None:
    """Check a device or a size, which has a few texts and numbers."""
    inner = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else arguments
    _require(len(inner) <= MAX_AXES and all(isinstance(each, str | int) for each in inner), "a device or a size")


CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch Size": _device_or_size,
    "torch device": _device_or_size,
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": ListStandIn,
    "EMPTY_DICT": lambda: DictStandIn("dict"),
}
LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
