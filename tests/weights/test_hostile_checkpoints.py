"""Checkpoints that somebody else made: a small file takes little memory and time, and ends in one line."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import ESCAPES, in_little_memory
from safetensors.torch import save_file

from convbench import models
from convbench.cli import main
from convbench.errors import WeightsError
from convbench.weights import container, locate
from convbench.weights.read import read_state_dict

MODEL = "dico_digits"  # the smallest variant
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
LEGACY = MAGIC + pickle.dumps(1001, protocol=2) + pickle.dumps({"little_endian": True}, protocol=2)
NO_STORAGES = pickle.dumps([], protocol=2)
Make = Callable[[Path], None]


def zipped(path: Path, pickled: bytes, **entries: bytes) -> None:
    """An archive as torch.save lays it out."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickled)
        archive.writestr("w/byteorder", "little")
        for name, content in entries.items():
            archive.writestr(f"w/data/{name}", content)
        archive.writestr("w/version", "3\n")


def legacy(path: Path, pickled: bytes, keys: bytes = NO_STORAGES) -> None:
    path.write_bytes(LEGACY + pickled + keys)


def under(pickled: bytes) -> bytes:
    """The instructions for {"x": what those instructions make}."""
    return b"\x80\x02}X\x01\x00\x00\x00x" + pickled + b"s."


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


def call(name: str, *arguments: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return b"((" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


def old_storage(count: int, key: str = "0") -> bytes:
    return b"((" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"NtQ"


def sizes(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(shape: bytes, stride: bytes, of: bytes) -> bytes:
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", of, number(0), shape, stride, b"\x89", hooks)


NESTED = b")" + b"q\x00h\x00h\x00\x86q\x00" * 60  # a tuple of itself twice, 60 times: 2 ** 60 leaves to hash
HUGE = 3 * 10**9

PICKLES = {
    "bytearray": under(call("builtins.bytearray", number(HUGE))),
    "bytearray of Python 2": under(call("__builtin__.bytearray", number(HUGE))),
    "storage by call": under(call("torch.storage.UntypedStorage", number(HUGE))),
    "typed storage by call": under(call("torch.FloatStorage", number(HUGE))),
    "tensor by call": under(call("torch.Tensor", number(10**5), number(10**5))),
    "legacy tensor": under(call("torch.FloatTensor", number(HUGE))),
    "new storage": under(b"ctorch.storage\nUntypedStorage\n" + number(HUGE) + b"\x85\x81"),
    "numpy": under(call("torch._utils._rebuild_device_tensor_from_numpy", number(HUGE))),
    "quantised": under(call("torch._utils._rebuild_qtensor", number(HUGE))),
    "meta": under(call("torch._utils._rebuild_meta_tensor_no_storage", number(HUGE))),
    "nested": under(call("torch._utils._rebuild_nested_tensor", number(HUGE))),
    "subclass": under(call("torch._tensor._rebuild_from_type_v2", number(HUGE))),
    "wrapper subclass": under(call("torch._utils._rebuild_wrapper_subclass", number(HUGE))),
    "sparse": under(call("torch._utils._rebuild_sparse_tensor", number(HUGE))),
    "encode": under(call("_codecs.encode", text("x" * 1000), text("unicode_escape"))),
    "counter": under(call("collections.Counter", text("x" * 1000))),
    "set": under(b"\x8f(" + NESTED + b"\x90"),
    "complex": under(call("builtins.complex", number(1))),
    "storage not in the file": under(tensor(sizes(4), sizes(1), storage(HUGE))),
    "storage of another key": under(tensor(sizes(4), sizes(1), storage(1, key="../../etc/passwd"))),
    "storage of a negative length": under(tensor(sizes(4), sizes(1), storage(-1))),
    "storage of a type of no number": under(tensor(sizes(4), sizes(1), storage(1, kind="Tensor"))),
    "tensor beyond its storage": under(tensor(sizes(1000), sizes(1), storage(4))),
    "tensor expanded to a terabyte": under(tensor(sizes(10**6, 10**6), sizes(0, 0), storage(4))),
    "tensor of many axes": under(tensor(sizes(*[1] * 100), sizes(*[1] * 100), storage(4))),
    "tensor of a negative side": under(tensor(sizes(-1), sizes(1), storage(4))),
    "tensor of a huge side": under(tensor(sizes(2**80), sizes(1), storage(4))),
    "tensor of texts": under(call("torch._utils._rebuild_tensor_v2", storage(4), number(0), text("x"), text("y"))),
    "parameter with a method": under(
        call("torch._utils._rebuild_parameter_with_state", tensor(sizes(4), sizes(1), storage(4)), b"\x89}}")
    ),
    "a key that hashes for ever": b"\x80\x02}" + NESTED + b"K\x01s.",
    "a key that hashes for ever, in a list of pairs": under(
        call("collections.OrderedDict", b"](" + NESTED + b"K\x01\x86e")
    ),
    "a name that is cut for ever": b"\x80\x02}" + text("module." * 10**6) + b"K\x01s.",
    "a dictionary whose items are no method": under(
        call("collections.OrderedDict") + b"}" + text("items") + b"K\x05sb"
    ),
    "arguments that say what class they are": under(
        b"cargparse\nNamespace\n)\x81}" + text("__class__") + text("x") + b"sb"
    ),
    "attributes of a number": b"\x80\x02K\x01}b.",
    "LONG4": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01" * 100,
    "LONG4 below zero": b"\x80\x02\x8b" + struct.pack("<i", -1) + b".",
    "BINBYTES8": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "BINUNICODE8": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"x.",
    "BINUNICODE": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x.",
    "BINSTRING": b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"x.",
    "FRAME": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "INT of many digits": b"\x80\x02I" + b"9" * 10**5 + b"\n.",
    "LONG of many digits": b"\x80\x02L" + b"9" * 10**5 + b"L\n.",
    "memo of a huge number": b"\x80\x02}r\xff\xff\xff\xff0j\xff\xff\xff\xfe.",
    "memo that is empty": b"\x80\x02h\x05.",
    "marks alone": b"\x80\x02" + b"(" * 3_000_000 + b".",
    "lists in lists": b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
    "a list of itself": under(b"]q\x00h\x00a"),
    "no end": b"\x80\x02}",
    "an empty stack": b"\x80\x020.",
    "a persistent id of a number": b"\x80\x02K\x01Q.",
    "a persistent id of a module": b"\x80\x02(" + text("module") + b"NNNtQ.",
    "an extension": b"\x80\x02\x82\x01.",
    "a global in two words": b"\x80\x02ccollections OrderedDict\nx\n.",
    "a stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
}
FINE = {
    "a list of itself",
    "lists in lists",
    "tensor beyond its storage",
}  # to look at; the reader or the loader refuses them


SLOW = ("lists in lists", "marks alone")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in PICKLES])
@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_hostile_pickle_is_refused_in_one_line(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    pickled = PICKLES[name]
    if form == "zip":
        zipped(path, pickled, **{"0": bytes(16)})
    else:
        legacy(path, pickled.replace(b"tQ", b"NtQ"))
    started = time.process_time()
    with pytest.raises(WeightsError) as caught:
        read_state_dict(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path} ") and len(message.splitlines()) == 1 and len(message) < 400 + len(str(path))
    assert time.process_time() - started < 30
    if name not in FINE:
        assert "contains more than plain tensors" in message or "is not a readable PyTorch checkpoint: " in message


def test_the_attack_works_without_the_check() -> None:
    """A hundred bytes, which torch's own reader would follow: three thousand million bytes."""
    assert len(PICKLES["bytearray"]) < 100
    assert pickle.loads(under(call("builtins.bytearray", number(1000)))) == {"x": bytearray(1000)}


def tar(path: Path) -> None:
    """As torch saved before 0.1.10; the header of its first entry claims 90 GB of names."""
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    block = bytearray(path.read_bytes()[:512])
    block[156:157] = b"x"
    block[124:136] = b"%011o\0" % (90 * 10**9 % 8**11)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(bytes(block) + bytes(10**4))


def deflated(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(10**9))


def claimed(path: Path) -> None:
    """The directory says that an entry has 60 GB."""
    zipped(path, under(b"K\x01"))
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 20 : at + 28] = struct.pack("<LL", 2**32 - 2, 2**32 - 2)
    path.write_bytes(content)


def many_entries(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", under(b"K\x01"))
    content = path.read_bytes()
    end = bytearray(content[-22:])
    at = content.find(b"PK\x01\x02")
    end[12:16] = struct.pack("<L", 2**31)
    with path.open("wb") as file:  # a directory of 2 GB, in a file with holes
        file.write(content[:-22])
        file.truncate(at + 2**31)
        file.seek(at + 2**31)
        file.write(end)


def two_directories(path: Path) -> None:
    """Python reads the directory before the end, torch the one at the offset that stands there."""
    zipped(path, PICKLES["bytearray"])
    hidden = path.read_bytes()
    zipped(path, under(b"K\x01"))
    shown = path.read_bytes()
    at = shown.find(b"PK\x01\x02")
    start = struct.unpack("<L", hidden[-6:-2])[0]
    end = shown[-22:-6] + struct.pack("<L", start) + shown[-2:]
    directory = bytearray(shown[at:-22])
    path.write_bytes(hidden[:-22] + shown[:at] + bytes(directory) + end)


def two_names(path: Path) -> None:
    """Torch's reader of archives takes DATA.PKL for data.pkl."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/DATA.PKL", PICKLES["bytearray"])
        archive.writestr("w/data.pkl", under(b"K\x01"))
        archive.writestr("w/version", "3\n")


def two_folders(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("v/data.pkl", PICKLES["bytearray"])
        archive.writestr("w/data.pkl", under(b"K\x01"))


def with_a_null(path: Path) -> None:
    zipped(path, under(b"K\x01"))
    path.write_bytes(path.read_bytes().replace(b"w/byteorder", b"w/data.pk\0r"))


def torchscript(path: Path) -> None:
    zipped(path, under(b"K\x01"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("w/constants.pkl", pickle.dumps((), 2))


def with_a_comment(path: Path) -> None:
    zipped(path, under(b"K\x01"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\x05\x06" + bytes(18)


def large_byteorder(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", under(b"K\x01"))
        archive.writestr("w/byteorder", b"x" * 10**7)


@pytest.mark.parametrize(
    "make",
    [tar, deflated, claimed, many_entries, two_directories, two_names, two_folders, with_a_null, torchscript,
     with_a_comment, large_byteorder],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_a_hostile_container_is_refused_in_one_line(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "w.pt")
    with pytest.raises(WeightsError) as caught:
        read_state_dict(str(tmp_path / "w.pt"))
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.startswith(f"{tmp_path}/w.pt ")


@pytest.mark.parametrize(
    "name",
    [
        "bytearray",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("storage by call", "marks alone", "BINUNICODE", "a key that hashes for ever")
        ),
    ],
)
@pytest.mark.parametrize("form", ["zip", pytest.param("old", marks=pytest.mark.slow)])
def test_hostile_files_use_little_memory(name: str, form: str, tmp_path: Path) -> None:
    """The command itself, in a process that may allocate half a gigabyte beyond its imports."""
    (zipped if form == "zip" else legacy)(tmp_path / "w.pt", PICKLES[name])
    arguments = ["sample", "--model", MODEL, "--weights", tmp_path / "w.pt", "--out", tmp_path / "a.png"]
    done = in_little_memory(*arguments, limit=2**29)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"convbench: {tmp_path}/w.pt ")
    assert os.listdir(tmp_path) == ["w.pt"]


def test_the_memory_limit_is_effective(tmp_path: Path) -> None:
    """Without the look at the pickle, the same process would allocate what it asks for."""
    program = (
        "import resource, sys, torch\n"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + 2**29,) * 2)\n"
        "torch.load(sys.argv[1], weights_only=True)"
    )
    zipped(tmp_path / "w.pt", PICKLES["bytearray"])
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "w.pt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "MemoryError" in done.stderr


# ---- what is right is still read ----


def test_the_64_bit_end_of_an_archive_must_be_in_place(tmp_path: Path) -> None:
    """Torch writes a second end, of 64 bits, before the end of every file."""
    path = tmp_path / "w.pt"
    torch.save({"x": torch.ones(3)}, path)
    content = path.read_bytes()
    assert content[-98:-94] == b"PK\x06\x06" and content[-42:-38] == b"PK\x06\x07"
    assert torch.equal(read_state_dict(str(path))["x"], torch.ones(3))
    start, where = content[-50:-42], content[-34:-26]
    for at, right in ((-50, start), (-34, where), (-6, start[:4])):
        wrong = struct.pack("<Q", struct.unpack("<Q", right.ljust(8, b"\0"))[0] - 1)[: len(right)]
        path.write_bytes(content[:at] + wrong + content[at + len(right) :])
        with pytest.raises(WeightsError, match="its archive is damaged"):
            read_state_dict(str(path))


def test_every_valid_content_of_a_state_dict_is_read(tmp_path: Path) -> None:
    kinds = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
    content: dict[str, Any] = OrderedDict({str(kind): torch.ones(2, 3).to(kind) for kind in kinds})
    content["transposed"] = torch.ones(2, 3).t()
    content["shared"] = content["transposed"][0]
    content["scalar"], content["empty"] = torch.tensor(1.0), torch.zeros(0, 5)
    content["parameter"] = torch.nn.Parameter(torch.ones(2))
    content["narrow"] = torch.ones(2).to(torch.float8_e4m3fn)
    for new in (True, False):
        if not new:
            content.pop("narrow")  # which had no name then
        torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
        assert read_state_dict(str(tmp_path / "w.pt")).keys() == content.keys()


def test_a_tensor_under_a_wrapper_key_is_a_tensor(tmp_path: Path) -> None:
    """Whether it is true cannot be said of several numbers."""
    torch.save({"net": torch.ones(2), "ema": torch.zeros(3)}, tmp_path / "w.pt")
    assert read_state_dict(str(tmp_path / "w.pt")).keys() == {"net", "ema"}


# ---- safetensors ----


def header(raw: bytes, content: bytes = b"") -> bytes:
    return len(raw).to_bytes(8, "little") + raw + content


ENTRY = b'{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"x":%s}' % (ENTRY % (b"9" * 4000)), "x has an invalid shape"),
        (b'{"x":%s}' % (ENTRY % (b"9" * 5000)), "its header is not JSON"),
        (b'{"x":%s}' % (ENTRY % b",".join([b"1099511627776"] * 16)), "elements for x"),
        (b'{"x":%s}' % (ENTRY % b",".join([b"1"] * 17)), "x has an invalid shape"),
        (b'{"x":%s}' % (ENTRY % b"true"), "invalid shape"),
        (b'{"x":%s}' % (ENTRY % b"1e400"), "invalid shape"),
        (b'{"x":%s}' % (ENTRY % b"NaN"), "invalid shape"),
        (b'{"%s":%s}' % (b"x" * 2000, ENTRY % b"1"), "has more than 1024 characters"),
        (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,%s]}}' % (b"9" * 4000), "stated in the header"),
        (b'{"x":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}', "has no valid type"),
        (b'{"x":' * 10**5, "its header is not JSON"),
        (b'{"__metadata__":5,"x":%s}' % (ENTRY % b"1"), "is not a readable safetensors file"),
        (b'{"\\u001b[2J":5}', "has no valid type"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_header_with_huge_dimensions_is_refused_in_one_line(
    raw: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.safetensors").write_bytes(header(raw, bytes(4)))
    with pytest.raises(SystemExit) as ended:
        main(["sample", "--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "a.png")])
    shown = capsys.readouterr()
    assert ended.value.code == 2 and "Traceback" not in shown.err and "\x1b" not in shown.err
    assert words in shown.err.splitlines()[-1]


def test_many_tensors_are_refused_at_once(tmp_path: Path) -> None:
    """300,000 of them took over 40 s."""
    entries = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % each for each in range(300_000))
    (tmp_path / "w.safetensors").write_bytes(header(b"{" + entries + b"}"))
    with pytest.raises(WeightsError, match=r"its header has 17.* MB; the limit is 10 MB"):
        container.require_sane_header(tmp_path / "w.safetensors")
    entries = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % each for each in range(60_000))
    (tmp_path / "w.safetensors").write_bytes(header(b"{" + entries + b"}"))
    with pytest.raises(WeightsError, match=r"it lists 60000 tensors; the limit is 50000"):
        container.require_sane_header(tmp_path / "w.safetensors")


@pytest.mark.slow
def test_names_of_tensors_do_not_control_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = dict(models.create(MODEL, res=8).state_dict())
    for save, name in ((save_file, "w.safetensors"), (torch.save, "w.pt")):
        save({**state, f"a{ESCAPES}": torch.ones(1)}, tmp_path / name)  # type: ignore[operator]
        with pytest.raises(SystemExit):
            main(["sample", "--model", MODEL, "--weights", str(tmp_path / name), "--out", str(tmp_path / "a.png")])
        shown = capsys.readouterr().err
        assert "\\x1b[2J" in shown and "\x1b" not in shown and "\u202e" not in shown and "\r" not in shown


# ---- 20: what an address stands for ----


def test_the_digest_of_an_authors_file_is_recorded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path))
    file = tmp_path / "w.pt"
    file.write_bytes(b"first")
    digest = locate.require_same("https://authors/w.pt", file)
    assert locate.record().read_text() == f"{digest} https://authors/w.pt\n"
    assert locate.require_same("https://authors/w.pt", file) == digest
    file.write_bytes(b"second")
    with pytest.raises(WeightsError, match=rf"its SHA-256 is \w+, not {digest}, as at its first use"):
        locate.require_same("https://authors/w.pt", file)
    assert locate.record().read_text().count("\n") == 1
    with pytest.raises(WeightsError, match="as stated in the catalogue"):
        locate.require_same("https://authors/w.pt", file, stated="0" * 64)
