"""ncnn: its own format, made from a trace by its converter pnnx, for one batch and size; run in float32."""

import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from convbench import packages
from convbench.errors import UsageError
from convbench.schema import Step

from .manifest import ENTRIES
from .shapes import Shapes

ENTRY = ENTRIES["ncnn"]
LONGEST_S = 900
FOREIGN = ("aten::", "prim::", "pnnx.", "torch.", "F.", "nn.", "Tensor.")  # layers that pnnx could not translate


def write(model: nn.Module, shapes: Shapes, folder: Path, scratch: Path) -> None:
    """Convert a network. Raises UsageError, naming them, for operators that ncnn does not have."""
    converter = Path(packages.require("pnnx").__file__).with_name("pnnx")
    example = shapes.inputs(shapes.batch[0])
    with torch.no_grad(), warnings.catch_warnings(), mock.patch.object(torch, "addcmul", lambda a, b, c: a + b * c):
        warnings.simplefilter("ignore")  # pnnx leaves addcmul as it is, which ncnn does not know
        torch.jit.trace(model, example, check_trace=False).save(str(scratch / "traced.pt"))
    sizes = ",".join(f"{list(v.shape)}{'i64' if v.dtype == torch.int64 else 'f32'}".replace(" ", "") for v in example)
    line = [str(converter), "traced.pt", f"inputshape={sizes}", "fp16=0"]
    done = subprocess.run(line, cwd=scratch, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    made = {end: scratch / f"traced.ncnn.{end}" for end in ("param", "bin")}
    if done.returncode or not made["param"].is_file():
        raise UsageError(f"pnnx cannot convert this network: {[*done.stderr.splitlines(), 'no reason given'][0]}")
    kinds = {line.split()[0] for line in made["param"].read_text("utf-8").splitlines()[2:]}
    if foreign := sorted(kind for kind in kinds if kind.startswith(FOREIGN)):
        raise UsageError(f"ncnn has no layer for {', '.join(foreign)}, which this network needs")
    shutil.move(made["param"], folder / ENTRY)
    shutil.move(made["bin"], folder / ENTRY.replace(".param", ".bin"))


def step(file: Path, threads: int | None = None, winograd: bool = True) -> Step:
    """The network as a step, in float32. Raises ValueError for files that ncnn refuses."""
    ncnn = packages.require("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads or torch.get_num_threads()
    net.opt.use_winograd_convolution = winograd
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
        setattr(net.opt, f"use_{name}", False)
    if net.load_param(str(file)) or net.load_model(str(file).removesuffix(".param") + ".bin"):
        raise ValueError("ncnn refuses it, or does not know one of its layers")

    def run(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        extractor: Any = net.create_extractor()
        whole = y.int() if y.dtype == torch.int64 else y
        for index, value in enumerate((x, t, whole)):
            axis = {"batch_index": 0} if value.dim() > 1 else {}
            extractor.input(f"in{index}", ncnn.Mat(value.contiguous().numpy(), **axis).clone())
        failed, out = extractor.extract("out0")
        if failed:
            raise RuntimeError("ncnn could not compute the output")
        return torch.from_numpy(out.numpy(batch_index=0).copy())

    return run
