"""Train a classifier that evaluates sampled images: a minute or a few on a CPU, with a fixed seed.

    pip install scikit-learn
    python examples/train_classifier.py digits
    OMP_NUM_THREADS=1 python examples/train_classifier.py glyphs

Every fifth of the 1,797 digits of scikit-learn is held out; of the glyphs, images that are not among those trained on.
The record contains the accuracy on these. The mean and covariance of the features over all images are stored beside
the weights.
"""

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import torch
import train_digits
import train_glyphs
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F
from training import commit

from convbench.files import write_whole
from convbench.sampling.classifier import SETS, SHIPPED, ImageClassifier

BATCH, RATE = 64, 2e-3
EPOCHS = {"digits": 60, "glyphs": 8}


@click.command()
@click.argument("name", type=click.Choice(list(SETS)))
@click.option("--seed", default=0, show_default=True)
@click.option("--epochs", type=int, help="Passes over the images.")
@click.option("--out", default=str(SHIPPED), show_default=True, help="Folder of the result.")
def main(name: str, seed: int, epochs: int | None, out: str) -> None:
    """Train the classifier of a set of images and write its weights and its record."""
    torch.manual_seed(seed)
    images, classes, held_out, data = DATA[name]()
    network = ImageClassifier(*SETS[name])
    train(network, images[~held_out], classes[~held_out], epochs or EPOCHS[name], seed)
    network.eval().requires_grad_(False)
    features = torch.cat([network.features(part) for part in images.split(1000)]).double()
    network.mean.copy_(features.mean(0))
    network.covariance.copy_(features.T.cov())

    right = torch.cat([network(part).argmax(1) for part in images.split(1000)]) == classes
    file = Path(out) / f"{name}_classifier.safetensors"
    write_whole(file, save(network.state_dict()))
    record = {
        "command": " ".join(["python", "examples/train_classifier.py", *sys.argv[1:]]),
        "data": data,
        "epochs": epochs or EPOCHS[name],
        "batch": BATCH,
        "seed": seed,
        "optimiser": f"AdamW, rate {RATE:g}, cosine to 0; noise of 0.2 on the images",
        "held_out_images": int(held_out.sum()),
        "held_out_accuracy": right[held_out].float().mean().item(),
        "training_accuracy": right[~held_out].float().mean().item(),
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "torch": torch.__version__,
    }
    write_whole(file.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
    click.echo(f"{file}: {record['held_out_accuracy']:.4f} of the held-out {name} recognised", err=True)


def digits() -> tuple[Tensor, Tensor, Tensor, str]:
    """Load the digits (N, 1, 8, 8), their classes, which are held out, and a description."""
    images, classes = train_digits.digits()
    held_out = torch.arange(len(images)) % 5 == 4
    kept = int((~held_out).sum())
    return (
        images,
        classes,
        held_out,
        f"sklearn.datasets.load_digits: {kept} of {len(images)} images; every fifth held out",
    )


def glyphs() -> tuple[Tensor, Tensor, Tensor, str]:
    """Draw the glyphs (N, 1, 32, 32), their classes, which are held out, and a description."""
    count, more = 62_000, 6_200
    images, classes = train_glyphs.pixels_and_classes(range(count + more))
    held_out = torch.arange(count + more) >= count
    text = f"convbench.sampling.glyphs: images 0 to {count - 1} of seed 0; the next {more} are held out"
    return images, classes, held_out, text


DATA = {"digits": digits, "glyphs": glyphs}


def train(network: ImageClassifier, images: Tensor, classes: Tensor, epochs: int, seed: int) -> None:
    """Train on images (N, 1, S, S) with classes (N,), with noise so that no single pixel decides."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x = images[chosen] + 0.2 * torch.randn((BATCH, *images.shape[1:]), generator=generator)
        loss = F.cross_entropy(network(x.clamp(-1, 1)), classes[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


if __name__ == "__main__":
    main()
