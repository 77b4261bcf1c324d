"""Artefacts of tiny networks that several tests share: made once for all processes of a test run."""

import fcntl
import os
from pathlib import Path

import tiny
from torch import nn

from convbench import catalogue, models
from convbench.export import folder, make, shapes
from convbench.export.make import build  # the real one, also where a test replaces it in its module
from convbench.export.shapes import Shapes

RES = 64  # of dico, whose artefact most tests share
OF_ANY_SIZE = ("dic", "dico", "fcdm")


def network(family: str) -> nn.Module:
    return models.create(f"tiny:{family}", res=tiny.RES[family])


def sizes(family: str) -> Shapes:
    """Batches of 1 to 8; for OF_ANY_SIZE any size from 8x8 to 16x16, for the others the one of ``tiny.RES``."""
    variant = catalogue.find(f"tiny:{family}")
    return shapes.of_variant(variant, tiny.RES[family], (1, 8), dynamic=family in OF_ANY_SIZE)


def artefact(base: Path, family: str, to: str, precision: str = "fp32") -> Path:
    """The folder of the artefact, made by the first process that asks for it."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    path = base / f"{family}-{to}-{precision}"
    with (base / f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            wanted = make.Wanted(f"tiny:{family}", tiny.RES[family], to, precision, (1, 8))
            with folder.making(path) as partial:
                build(network(family), sizes(family), wanted, partial)
    return path
