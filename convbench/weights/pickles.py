"""What the pickle of a checkpoint would make, found out without making it.

torch.load with ``weights_only`` runs no code of a file, but a few bytes can still make it allocate gigabytes
(``bytearray(3 * 10**9)``), hash for ever or replace the methods of what it returns. So the instructions are followed
here first, on stand-ins: what passes is numbers, texts, lists, dictionaries and dense tensors that lie in the file.

The instructions are those that torch's own reader knows (torch/_weights_only_unpickler.py); pickletools reads them.
"""

import math
import pickletools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MOST_INSTRUCTIONS = 2_000_000  # a training checkpoint of the largest model here has some hundred thousand
MOST_KEY = 1024  # characters of a name
MOST_AXES, MOST_ELEMENTS = 16, 2**28  # of a tensor, whatever it occupies: one stored number can be expanded
STORAGES = {
    **dict.fromkeys(("torch ByteStorage", "torch CharStorage", "torch BoolStorage", "torch.storage UntypedStorage"), 1),
    **dict.fromkeys(("torch ShortStorage", "torch HalfStorage", "torch BFloat16Storage"), 2),
    **dict.fromkeys(("torch IntStorage", "torch FloatStorage"), 4),
    **dict.fromkeys(("torch LongStorage", "torch DoubleStorage", "torch ComplexFloatStorage"), 8),
    "torch ComplexDoubleStorage": 16,
}
DTYPE = re.compile(r"torch (u?int|b?float|complex)[0-9]{1,3}[a-z0-9_]*|torch bool")
NAMESPACE = "argparse Namespace"  # the arguments that training scripts parsed and saved


class NotPlain(Exception):
    """A pickle that makes more than plain data and dense tensors."""


class Malformed(Exception):
    """A pickle that torch.save did not write, or not whole."""


@dataclass(frozen=True)
class Named:
    """A class or function of Python, by its name: "module name"."""

    name: str


@dataclass(frozen=True)
class Tensor:
    """Stands in for a tensor."""


@dataclass(frozen=True)
class Stored:
    """Stands in for the numbers of tensors, which lie in the file."""


@dataclass
class Table:
    """Stands in for a dictionary, or for an object with attributes."""

    kind: str  # dict, OrderedDict or Namespace
    keys: set[str] = field(default_factory=set)


@dataclass
class Items:
    """Stands in for a list."""

    of_texts: bool = True


Room = Callable[[str, int], bool]
"""Whether the file has that many bytes for the storage of that key."""


def read(stream: BinaryIO, has_room: Room) -> Any:
    """The stand-in for what the next pickle of a stream makes.

    Raises:
        NotPlain: it would make something else than plain data and tensors in the file.
        Malformed: it cannot be followed.
    """
    machine = _Machine(has_room)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MOST_INSTRUCTIONS:
                raise NotPlain(f"over {MOST_INSTRUCTIONS} instructions")
            machine.follow(operation.name, argument)
    except (ValueError, IndexError, KeyError, TypeError) as error:  # pickletools', and of an empty stack or memo
        raise Malformed(str(error)) from None
    return machine.result


class _Machine:
    """A stack, a memo, and what each instruction does to them."""

    def __init__(self, has_room: Room) -> None:
        self.has_room = has_room
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lay on the stack at each mark
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
        _require(isinstance(self.stack[-1], Items), "appending to what is not a list")
        self.stack[-1].of_texts &= all(isinstance(value, str) for value in values)

    def _setitem(self, _: None) -> None:
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def _setitems(self, _: None) -> None:
        self._update(self._since_mark())

    def _update(self, pairs: Sequence[Any]) -> None:
        table = self.stack[-1]
        _require(isinstance(table, Table) and table.kind != "Namespace" and len(pairs) % 2 == 0, "setting an item")
        for key in pairs[::2]:
            # A tuple could be nested so that its hash takes for ever.
            _require(isinstance(key, str | bytes | int | float | None), "a key that is neither a text nor a number")
            _require(not isinstance(key, str) or len(key) <= MOST_KEY, f"a name of over {MOST_KEY} characters")
            table.keys.add(str(key))

    def _global(self, argument: str) -> None:
        known = argument in CALLS or argument in STORAGES or argument == NAMESPACE or DTYPE.fullmatch(argument)
        _require(known, argument)
        self.stack.append(Named(argument))

    def _reduce(self, _: None) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        _require(isinstance(function, Named) and function.name in CALLS, f"calling {function}")
        _require(isinstance(arguments, tuple), "calling without arguments")
        self.stack[-1] = CALLS[function.name](arguments)

    def _newobj(self, _: None) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        _require((arguments, kind) == ((), Named(NAMESPACE)), "making an object")
        self.stack.append(Table("Namespace"))

    def _build(self, _: None) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        _require(isinstance(state, Table) and isinstance(made, Table), "setting the state of an object")
        attributes = state.keys
        if made.kind == "OrderedDict":  # any other attribute would take the place of a method
            _require(attributes <= {"_metadata"}, "attributes of a dictionary")
        else:
            _require(made.kind == "Namespace" and not any(key.startswith("__") for key in attributes), "attributes")

    def _binpersid(self, _: None) -> None:
        match self.stack.pop():
            case ("storage", Named(kind), str(key), str(), int(count)) if kind in STORAGES:
                pass
            case ("storage", Named(kind), str(key), str(), int(count), None) if kind in STORAGES:
                pass
            case _:
                raise NotPlain("tensors that do not lie in the file")
        if not 0 <= count < 2**63 or not self.has_room(key, count * STORAGES[kind]):
            raise Malformed(f"{count} numbers that the file does not hold")
        self.stack.append(Stored())


def _require(condition: Any, what: str) -> None:
    if not condition:
        raise NotPlain(what)


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """Of (storage, offset, size, stride, …): size and stride are whole numbers, and not beyond all reason."""
    match arguments:
        case (Stored(), int(), tuple(size), tuple(stride), *more) if all(map(_is_plain_argument, more)):
            _require(len(size) <= MOST_AXES and all(type(side) is int for side in (*size, *stride)), "a shape")
            _require(all(0 <= side < 2**63 for side in size) and math.prod(size) <= MOST_ELEMENTS, "a huge shape")
            return Tensor()
    raise NotPlain("a tensor of something else")


def _is_plain_argument(argument: Any) -> bool:
    """Whether it requires gradients; no hooks; a type; whether it is conjugated or negated."""
    if isinstance(argument, Table):
        return argument.keys <= {"conj", "neg"}
    return argument is None or isinstance(argument, bool | Named)


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Tensor(), bool(), Table() | None as hooks) if hooks is None or not hooks.keys:
            return Tensor()
    raise NotPlain("a parameter of something else")


def _ordered(arguments: tuple[Any, ...]) -> Table:
    _require(arguments == (), "a dictionary made of something")
    return Table("OrderedDict")


def _small(arguments: tuple[Any, ...]) -> None:
    """A device or a size: of a few texts and numbers."""
    inner = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else arguments
    _require(len(inner) <= MOST_AXES and all(isinstance(each, str | int) for each in inner), "a device or a size")


CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections OrderedDict": _ordered,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch Size": _small,
    "torch device": _small,
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": Items,
    "EMPTY_DICT": lambda: Table("dict"),
}
LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
