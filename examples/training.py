"""Training of the small backbones that ship with convbench: losses, the loop, the record. Used by train_*.py."""

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
"""(network, data (B, C, S, S), classes (B,), generator) -> loss of each image (B,)."""
SCHEDULE = diffusion.Schedule.spaced()


def run(
    model: str,
    images: Tensor,
    classes: Tensor,
    data: str,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    out: str,
    memory_format: torch.memory_format = torch.contiguous_format,
    final_loss: Callable[[nn.Module, Loss], float] | None = None,
) -> None:
    """Train a variant and write its float16 weights and a record of the training.

    Args:
        images: as the network takes them, (N, C, S, S); with ``classes`` (N,).
        data: what they are, in words.
        final_loss: of the averaged network as it is stored; by default ``mean_loss`` over all images.
    """
    torch.manual_seed(seed)
    variant = find(model)
    network = models.build(variant, variant.res).train().to(memory_format=memory_format)
    start_at_zero(network)
    loss_of = flow_loss if variant.signature.predicts == "velocity" else diffusion_loss

    started, threads = time.perf_counter(), torch.get_num_threads()
    averaged, curve = train(network, images, classes, variant, loss_of, steps, batch, rate, seed)
    seconds = time.perf_counter() - started

    state = {key: value.half().contiguous() for key, value in averaged.state_dict().items()}
    averaged.load_state_dict(state)  # evaluate the stored weights
    final = final_loss(averaged, loss_of) if final_loss else mean_loss(averaged, images, classes, loss_of)
    file = Path(out) / f"{model}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, save(state))
    record = {
        "model": model,
        "command": " ".join(["python", f"examples/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "data": data,
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


def start_at_zero(network: nn.Module) -> None:
    """Initialise every block as the identity and the output as zero (adaLN-Zero, Peebles and Xie 2023)."""
    for name, module in network.named_modules():
        if name.rsplit(".", 1)[-1] in ("adaLN_modulation", "affine") or name in (
            "final_layer.out_proj",
            "final_layer.conv",
            "final_layer.linear",
        ):
            last = module[-1] if isinstance(module, nn.Sequential) else module
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


def diffusion_loss(network: nn.Module, data: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Compute the iDDPM loss over the 1000 original steps. data (B, C, S, S), classes (B,) -> (B,)"""
    t = (stratified(len(data), generator) * len(SCHEDULE.betas)).long()
    noise = torch.randn(data.shape, generator=generator)
    x = diffusion.add_noise(SCHEDULE, data, t, noise)
    return diffusion.training_loss(SCHEDULE, network(x, t.float(), classes), data, x, t, noise).total


def flow_loss(network: nn.Module, data: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Compute the loss of flow matching. data (B, C, S, S), classes (B,) -> (B,)"""
    t = stratified(len(data), generator)
    x, velocity = flow.add_noise(data, t, torch.randn(data.shape, generator=generator))
    return flow.training_loss(network(x, t, classes), velocity)


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
    """Train a network on images (N, C, S, S) with classes (N,).

    Returns the averaged network, and at some of the steps the mean loss since the previous point.
    """
    generator = torch.Generator().manual_seed(seed)
    averaged = copy.deepcopy(network).requires_grad_(False)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
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
            nn.utils.clip_grad_norm_(learned, 1.0)
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
    """Compute the mean loss over all images (N, C, S, S) with their classes (N,), eight times each."""
    generator = torch.Generator().manual_seed(1)
    return torch.cat([loss_of(network, images, classes, generator) for _ in range(8)]).mean().item()


def commit() -> str:
    """Commit of the checkout that contains this script."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "not a checkout"
