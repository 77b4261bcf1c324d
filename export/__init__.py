"""A network as a file that another runtime opens (ONNX, OpenVINO, AOTInductor, TensorRT, ncnn, MNN), and its proof.

An artefact is a folder, written whole or not at all:

    manifest.json       what it is: the fields of ``folder.Manifest``, and a "schema" number
    verification.json   how far it was from fp32 PyTorch when it was made; ``convbench verify`` rewrites it
    layers.json         ONNX and OpenVINO: which value of the graph is the output or the input of which layer
    README.md           for a colleague: what it takes, what it returns, how to run it
    model.onnx          ONNX; weights above 2 GB lie beside it in model.onnx.data, and the two must move together
    model.xml model.bin OpenVINO
    model.pt2           AOTInductor
    model.ncnn.param    ncnn, with model.ncnn.bin beside it
    model.mnn           MNN
    engine.plan         TensorRT or TensorRT-RTX, with timing.cache beside it

In every precision x and t go in and the output comes out as float32, y as int64 (a caption as float32). The names are
x, t, y and out. ``runtimes.opened(folder)`` opens any of them as a function of three tensors.

    folder     writing whole, manifest, hashes          make      what `convbench export` does
    shapes     batch range, sizes, divisibility         cache     artefacts that backends prepare once
    onnx, openvino, aoti, tensorrt, ncnn, mnn           runtimes  any artefact as a step
    autocast, quantize: reduced precision of ONNX       verify, locate: right or not, and where not
    targets: formats and precisions                     verification: what `convbench verify` does
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def artefact(
    model: str,
    to: str,
    out: str | Path,
    res: int = 256,
    precision: str = "fp32",
    batch: int | tuple[int, int] = (1, 64),
    dynamic: bool = False,
    weights: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Build an artefact and prove it, as ``convbench export`` does; public as ``convbench.export``.

    Args:
        model: a model id of ``convbench models``.
        to: format, one of ``targets.TARGETS``.
        out: folder to create; it appears only when it is complete.
        res: side of the decoded image, in pixels.
        precision: of weights and arithmetic, one of ``targets.PRECISIONS``.
        batch: images per call, or the fewest and the most.
        dynamic: allow heights and widths from half to twice ``res``.
        weights: checkpoint, by default random weights.
        force: replace an existing artefact.

    Returns what its verification found, as in ``verification.json``.

    Raises:
        UsageError: an artefact that cannot be built, named before any work where it can be known.
        ConvbenchError: the artefact is wrong; nothing is written then.
    """
    from . import make

    low, high = (batch, batch) if isinstance(batch, int) else batch
    return make.export(make.Wanted(model, res, to, precision, (low, high), dynamic, weights), Path(out), force)


class _Package(ModuleType):
    """This package, which can be called: by contract ``convbench.export`` is a folder as well as a function."""

    __call__ = staticmethod(artefact)


sys.modules[__name__].__class__ = _Package
