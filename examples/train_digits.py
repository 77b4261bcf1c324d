"""Train one of the small backbones that ship with convbench: a few minutes on a CPU, with a fixed seed.

    pip install scikit-learn
    python examples/train_digits.py dico_digits

The data are the 1,797 digits of 8x8 pixels in scikit-learn. DiCo and DiC learn to predict noise and variance (iDDPM),
FCDM a velocity (flow matching), according to ``predicts`` of the variant. The averaged weights are rounded to float16,
as stored, before the final loss is computed. A record of the training is written beside them.
"""

import copy
import hashlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import torch
from safetensors.torch import save
from torch import Tensor, nn

import convbench
from convbench import models
from convbench.catalogue import Variant, find
from convbench.files import write_whole
from convbench.sampling import diffusion, flow

DROPPED = 0.1  # share of labels replaced by "no class", for guidance
WARM_UP = 100  # steps to the full learning rate, which then decreases to zero along a cosine
AVERAGED = 0.998  # decay of the averaged weights, smaller in the first steps
LOSSES_KEPT = 40  # points of the loss curve in the record

WEIGHTS = Path(convbench.__file__).parent / "weights" / "shipped"

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""(network, data (B, 1, 8, 8), classes (B,), generator) -> loss of each image (B,)."""


@click.command()
@click.argument("model", type=click.Choice(["dico_digits", "fcdm_digits", "dic_digits"]))
@click.option("--steps", default=2500, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--rate", default=2e-3, show_default=True, help="Highest learning rate.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default=str(WEIGHTS), show_default=True, help="Folder of the result.")
def main(model: str, steps: int, batch: int, rate: float, seed: int, out: str) -> None:
    """Train MODEL and write MODEL.safetensors and its record MODEL.json."""
    torch.manual_seed(seed)
    variant = find(model)
    images, classes = digits()
    network = models.build(variant, variant.res).train()
    start_at_zero(network)
    loss_of = flow_loss if variant.signature.predicts == "velocity" else diffusion_loss

    started, threads = time.perf_counter(), torch.get_num_threads()
    averaged, curve = train(network, images, classes, variant, loss_of, steps, batch, rate, seed)
    seconds = time.perf_counter() - started

    state = {key: value.half() for key, value in averaged.state_dict().items()}
    averaged.load_state_dict(state)  # evaluate the stored weights
    final = mean_loss(averaged, images, classes, loss_of)
    file = Path(out) / f"{model}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, save(state))
    record = {
        "model": model,
        "command": " ".join(["python", "examples/train_digits.py", *sys.argv[1:]]),
        "data": f"sklearn.datasets.load_digits: all {len(images)} images, pixels / 8 - 1",
        "objective": variant.signature.predicts,
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "optimiser": f"AdamW, rate {rate:g} after {WARM_UP} steps, cosine to 0; averaged weights, decay {AVERAGED:g}",
        "labels_dropped": DROPPED,
        "loss_of_averaged_float16_weights": final,
        "losses": curve,
        "params": sum(p.numel() for p in averaged.parameters()),
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "seconds": round(seconds),
        "threads": threads,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "torch": torch.__version__,
        "convbench": convbench.__version__,
    }
    write_whole(file.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
    click.echo(f"{file}: {record['bytes']} bytes, loss {final:.4f}, {seconds:.0f} s", err=True)


def digits() -> tuple[Tensor, Tensor]:
    """Load the images (1797, 1, 8, 8) in [-1, 1] and their classes (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 8 - 1, torch.from_numpy(data.target).long()


def start_at_zero(network: nn.Module) -> None:
    """Initialise every block as the identity and the output as zero (adaLN-Zero, Peebles and Xie 2023)."""
    for name, module in network.named_modules():
        if name.rsplit(".", 1)[-1] in ("adaLN_modulation", "affine") or name in (
            "final_layer.out_proj",
            "final_layer.conv",
        ):
            last = module[-1] if isinstance(module, nn.Sequential) else module
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


def diffusion_loss(network: nn.Module, data: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Compute the iDDPM loss over the 1000 original steps. data (B, 1, 8, 8), classes (B,) -> (B,)"""
    t = (stratified(len(data), generator) * len(SCHEDULE.betas)).long()
    noise = torch.randn(data.shape, generator=generator)
    x = diffusion.add_noise(SCHEDULE, data, t, noise)
    return diffusion.training_loss(SCHEDULE, network(x, t.float(), classes), data, x, t, noise).total


def flow_loss(network: nn.Module, data: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Compute the loss of flow matching. data (B, 1, 8, 8), classes (B,) -> (B,)"""
    t = stratified(len(data), generator)
    x, velocity = flow.add_noise(data, t, torch.randn(data.shape, generator=generator))
    return flow.training_loss(network(x, t, classes), velocity)


SCHEDULE = diffusion.Schedule.spaced()


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """Draw uniformly in [0, 1), one value per part of ``count`` equal parts, for a less noisy loss. -> (count,)"""
    return (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count


def train(
    network: nn.Module,
    images: Tensor,
    classes: Tensor,
    variant: Variant,
    loss_of: Loss,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> tuple[nn.Module, list[tuple[int, float]]]:
    """Train a network on images (N, 1, 8, 8) with classes (N,).

    Returns the averaged network, and at some of the steps the mean loss since the previous point.
    """
    generator = torch.Generator().manual_seed(seed)
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    curve: list[tuple[int, float]] = []
    recent: list[float] = []
    with click.progressbar(range(1, steps + 1), file=sys.stderr, show_pos=True) as numbers:
        for step in numbers:
            for group in optimiser.param_groups:
                group["lr"] = rate * min(step / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
            chosen = torch.randint(len(images), (batch,), generator=generator)
            kept = torch.rand(batch, generator=generator) >= DROPPED
            label = torch.where(kept, classes[chosen], variant.signature.classes)
            loss = loss_of(network, images[chosen], label, generator).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            decay = min(AVERAGED, step / (step + 10))
            for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.lerp_(value.detach(), 1 - decay)
            recent.append(loss.item())
            if step == steps or step % math.ceil(steps / LOSSES_KEPT) == 0:
                curve.append((step, round(sum(recent) / len(recent), 5)))
                recent.clear()
    return averaged.eval(), curve


@torch.no_grad()
def mean_loss(network: nn.Module, images: Tensor, classes: Tensor, loss_of: Loss) -> float:
    """Compute the mean loss over all images (N, 1, 8, 8) with their classes (N,), eight times each."""
    generator = torch.Generator().manual_seed(1)
    return torch.cat([loss_of(network, images, classes, generator) for _ in range(8)]).mean().item()


def commit() -> str:
    """Commit of the checkout that contains this script."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "not a checkout"


if __name__ == "__main__":
    main()
