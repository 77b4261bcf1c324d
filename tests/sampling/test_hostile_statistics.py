"""Statistics of real images that somebody else wrote: every lie in them is one line, in little memory."""

import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import in_little_memory
from scripted import fid_files

from convbench.errors import UsageError
from convbench.sampling import reference

MU, SIGMA = np.arange(4.0), np.eye(4)


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(values))
    return stream.getvalue()


def head(text: str, version: bytes = b"\x01\x00") -> bytes:
    """The head of an array that says anything."""
    padded = text + " " * (64 - (len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(padded)) + padded.encode()


def npz(path: Path, kind: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return path


def says(shape: str, kind: str = "<f8") -> bytes:
    return head(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ["f4", "f8", ">f8"])
def test_the_files_of_the_suites_are_read(tmp_path: Path, save: Callable[..., None], kind: str) -> None:
    """In either precision and order, compressed or not, with rounding, beside images that are not touched."""
    mixed = np.random.default_rng(0).normal(size=(9, 4)).astype(kind)
    sigma = np.asfortranarray(np.cov(mixed, rowvar=False).astype(kind))
    sigma[0, 1] *= 1 + 1e-7
    save(tmp_path / "real.npz", mu=mixed.mean(0), sigma=sigma, mu_s=MU)
    with zipfile.ZipFile(tmp_path / "real.npz", "a") as archive:
        archive.writestr("arr_0.npy", b"\x93NUMPY\x03\x00 no array")
    found, digest = reference.read(tmp_path / "real.npz")
    assert found.mean.dtype == found.covariance.dtype == torch.float64 and len(digest) == 64
    np.testing.assert_allclose(found.mean, mixed.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.covariance, sigma, rtol=1e-6)
    assert torch.equal(found.covariance, found.covariance.T)


LIES: dict[str, tuple[dict[str, bytes], str]] = {
    "no sigma": (
        {"mu": npy(MU)},
        "holds no array sigma: expected an .npz file with the arrays mu (F) and sigma (F, F)",
    ),
    "images alone": ({"arr_0": npy(np.zeros((2, 4, 4, 3), "u1"))}, "holds no array mu"),
    "objects": ({"mu": npy(MU), "sigma": says("(4, 4)", "|O") + b"cos\nsystem\n."}, "has the type |O, not float32"),
    "whole numbers": ({"mu": npy(np.arange(4)), "sigma": npy(SIGMA)}, "mu has the type <i8, not float32 or float64"),
    "half precision": ({"mu": npy(MU.astype("f2")), "sigma": npy(SIGMA)}, "mu has the type <f2"),
    "complex": ({"mu": npy(MU), "sigma": npy(SIGMA.astype("c8"))}, "sigma has the type <c8"),
    "too many features": ({"mu": says("(8193,)"), "sigma": npy(SIGMA)}, "mu has the shape (8193,), not (F,) with F at"),
    "a shape beyond any memory": (
        {"mu": npy(MU), "sigma": says("(99999999999, 99999999999)")},
        "sigma has the shape (99999999999, 99999999999), not (F, F) with F at most 8192",
    ),
    "no features": ({"mu": npy(MU[:0]), "sigma": npy(SIGMA[:0, :0])}, "mu has the shape (0,)"),
    "one number": ({"mu": npy(1.0), "sigma": npy(SIGMA)}, "mu has the shape (), not (F,)"),
    "not square": ({"mu": npy(MU), "sigma": npy(np.ones((4, 5)))}, "sigma has the shape (4, 5), not (F, F)"),
    "a vector for a matrix": ({"mu": npy(MU), "sigma": npy(MU)}, "sigma has the shape (4,), not (F, F)"),
    "sizes apart": ({"mu": npy(MU), "sigma": npy(np.eye(5))}, "mu is of 4 features, sigma of 5"),
    "not a number": (
        {"mu": npy(MU * np.nan), "sigma": npy(SIGMA)},
        "mu holds values that are not finite or above 1e+15",
    ),
    "infinite": ({"mu": npy(MU), "sigma": npy(np.diag([np.inf] * 4))}, "sigma holds values that are not finite"),
    "what overflows": ({"mu": npy(MU), "sigma": npy(SIGMA * 1e200)}, "sigma holds values that are not finite or above"),
    "asymmetric": ({"mu": npy(MU), "sigma": npy(SIGMA + np.eye(4, k=1) / 10)}, "sigma is not symmetric"),
    "negative": ({"mu": npy(MU), "sigma": npy(SIGMA - 1.5 * np.diag(MU == 1))}, "sigma has the eigenvalue -5.0e-01"),
    "cut short": ({"mu": npy(MU), "sigma": npy(SIGMA)[:-1]}, "is not a readable .npz file"),
    "no head": ({"mu": b"mu", "sigma": npy(SIGMA)}, "is not a readable .npz file"),
    "a head of another version": (
        {"mu": npy(MU).replace(b"Y\x01", b"Y\x02", 1), "sigma": npy(SIGMA)},
        "is not a readable",
    ),
    "a head that is a program": (
        {"mu": head("__import__('os').system('true')"), "sigma": npy(SIGMA)},
        "not a readable",
    ),
    "a head nested deep": ({"mu": head("(" * 4000), "sigma": npy(SIGMA)}, "is not a readable .npz file"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_one_line(tmp_path: Path, lie: str) -> None:
    entries, reason = LIES[lie]
    path = npz(tmp_path / "real.npz", **entries)
    with pytest.raises(UsageError, match=re.escape(reason)) as raised:
        reference.read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_not_an_archive_is_one_line(tmp_path: Path) -> None:
    good = npz(tmp_path / "good.npz", mu=npy(MU), sigma=npy(SIGMA)).read_bytes()
    odd = npz(tmp_path / "lzma.npz", zipfile.ZIP_LZMA, mu=npy(MU), sigma=npy(SIGMA)).read_bytes()
    flipped = good.replace(npy(SIGMA), npy(2 * SIGMA))  # the checksum is that of the other
    locked = good.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")  # says: encrypted
    for content in (b"", b"mu", npy(MU), good[:-9], good[: len(good) // 2], odd, flipped, locked):
        path = tmp_path / "real.npz"
        path.write_bytes(content)
        assert content != good
        with pytest.raises(UsageError, match=r"real.npz is not a readable .npz file: expected an .npz file with"):
            reference.read(path)
    for path, reason in ((tmp_path, "it is not an ordinary file"), (tmp_path / "none", "No such file")):
        with pytest.raises(UsageError, match=f"cannot read {re.escape(str(path))}: {reason}"):
            reference.read(path)


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    """Its directory says how much an entry unpacks to: too much, more than its shape, or less than it is."""
    mu, sigma = npy(np.arange(2048.0)), says("(2048, 2048)") + bytes(2**25)
    bomb = npz(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, mu=mu, sigma=sigma)
    content, unpacked = bomb.read_bytes(), struct.pack("<L", len(sigma))
    assert len(content) < len(sigma) / 500 and content.count(unpacked) == 2
    for claimed, reason in (
        (2**30, "sigma claims 1073741824 bytes; statistics of features have at most 536875008"),
        (len(sigma) + 8, "is not a readable .npz file"),
        (256, "is not a readable .npz file"),
    ):
        bomb.write_bytes(content.replace(unpacked, struct.pack("<L", claimed)))
        with pytest.raises(UsageError, match=reason):
            reference.read(bomb)


@pytest.mark.slow
def test_the_command_refuses_a_bomb_in_little_memory(tmp_path: Path) -> None:
    _, network = fid_files(tmp_path, torch.zeros(30, 1, 8, 8))
    bomb = npz(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, mu=npy(MU), sigma=says("(8192, 8192)") + bytes(2**29))
    asked = ("--model", "dico_digits", "--device", "cpu", "--reference", bomb, "--features", network)
    ended = in_little_memory("pareto", *asked)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert "bomb.npz" in ended.stderr
