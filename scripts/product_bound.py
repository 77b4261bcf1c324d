#!/usr/bin/env python3
"""Could an engine of our own be 1.15 times as fast as AOTInductor on DiCo and FCDM? The bound of docs/cpu.md.

    python scripts/product_bound.py [MODEL ...] [--batch 1,8]

Times the 1x1 products of a network alone, with the matrix product of `kernels/cpu/winograd.cpp` on packed weights and
one thread, interleaved with a whole step of AOTInductor's. The engine would be as fast as the ratio if everything else
that a network does took no time at all.
"""

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from convbench import backends, catalogue, models  # noqa: E402
from convbench.kernels.cpu import compiled  # noqa: E402
from convbench.models import random_weights  # noqa: E402
from convbench.schema import Case  # noqa: E402
from convbench.timing.intervals import ratio_interval  # noqa: E402

RES, BLOCKS, WARM_UP = 256, 40, 3


class Product(ctypes.Structure):
    """One product: rows x K times K x N, weights packed in groups of two vectors."""

    _fields_ = [(name, ctypes.c_void_p) for name in "abc"] + [(name, ctypes.c_int64) for name in ("rows", "K", "N")]


def shapes(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[tuple[int, int, int]]:
    """(rows, K, N) of every dense 1x1 product of a forward pass, in its order."""
    found: list[tuple[int, int, int]] = []

    def note(module: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            found.append((given[0].numel() // module.in_features, module.in_features, module.out_features))
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1:
            found.append((out.numel() // module.out_channels, module.in_channels, module.out_channels))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    with torch.no_grad():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def build(folder: Path) -> ctypes.CDLL:
    """The products of scripts/product_bound.cpp for this processor."""

    name, out = compiled.target(), folder / "bound.so"
    assert name, "needs AVX2 or AVX-512"
    source = Path(__file__).with_suffix(".cpp")
    extra = (f"-I{compiled.SOURCE.parent}", "-Wno-unused-function", "-Wno-unused-template")
    line = compiled.command(out, name, extra, source)
    subprocess.run([part for part in line if part != "-Werror"], check=True)
    return ctypes.CDLL(str(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", default=["dico_s", "fcdm_s"])
    parser.add_argument("--batch", default="1,8")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    wide = 2 * compiled.TARGETS[compiled.target() or "AVX2"][0]
    print("| model | batch | 1x1 MACs / all | products ms | their GFLOP/s | AOTInductor ms | bound | 95 % |")
    print("|" + " --- |" * 8)
    with tempfile.TemporaryDirectory() as name:
        library = build(Path(name))
        for model in asked.model:
            for batch in map(int, asked.batch.split(",")):
                case = Case(model, RES, batch, "aoti", threads=1)
                variant = catalogue.find(model)
                network = models.build(variant, RES).eval()
                random_weights.fill(network)
                side = RES // 8
                inputs = (torch.randn(batch, 4, side, side), torch.full((batch,), 500.0), torch.ones(batch).long())
                found = shapes(network, inputs)
                keep, products = [], []
                for rows, k, n in found:
                    padded = -(-n // wide) * wide
                    a, b, c = torch.randn(rows, k), torch.randn(k * padded), torch.empty(rows * padded)
                    keep += [a, b, c]
                    products.append(Product(a.data_ptr(), b.data_ptr(), c.data_ptr(), rows, k, n))
                array = (Product * len(products))(*products)
                cache = ctypes.c_int64(compiled.second_level_cache() // 3)
                macs = sum(rows * k * n for rows, k, n in found)
                backend = backends.find("aoti")
                with torch.no_grad(), backend.open(network, case, inputs) as opened:
                    step = getattr(opened, "step", opened)
                    pairs = []
                    for number in range(BLOCKS + WARM_UP):
                        times = []
                        started = time.perf_counter()
                        step(*inputs)
                        times.append(time.perf_counter() - started)
                        started = time.perf_counter()
                        library.multiply_all(array, len(products), cache)
                        times.append(time.perf_counter() - started)
                        if number >= WARM_UP:
                            pairs.append((times[0], times[1]))
                ratio, low, high = ratio_interval(pairs)
                whole, alone = (sorted(each)[len(pairs) // 2] for each in zip(*pairs, strict=True))
                share = macs / (variant.macs * batch)
                rate = 2 * macs / alone / 1e9
                parts = [model, batch, f"{share:.2f}", f"{alone * 1e3:.1f}", f"{rate:.0f}", f"{whole * 1e3:.1f}"]
                print(f"| {' | '.join(map(str, [*parts, f'{ratio:.2f}', f'{low:.2f}-{high:.2f}']))} |", flush=True)


if __name__ == "__main__":
    main()
