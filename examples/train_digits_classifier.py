"""Train the classifier that evaluates sampled digits: a minute on a CPU, with a fixed seed.

    pip install scikit-learn
    python examples/train_digits_classifier.py

It is trained on four fifths of the 1,797 digits in scikit-learn; every fifth is held out, and the record contains the
accuracy on those. The mean and covariance of the features over all real digits are stored beside the weights.
"""

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import torch
from safetensors.torch import save
from torch.nn import functional as F
from train_digits import commit, digits

from convbench.files import write_whole
from convbench.sampling.digit_quality import WEIGHTS, DigitClassifier

EPOCHS, BATCH, RATE = 60, 64, 2e-3


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default=str(WEIGHTS), show_default=True, help="The file to write.")
def main(seed: int, out: str) -> None:
    """Train the classifier and write its weights and its record."""
    torch.manual_seed(seed)
    images, classes = digits()
    held_out = torch.arange(len(images)) % 5 == 4
    classifier = DigitClassifier()
    train(classifier, images[~held_out], classes[~held_out], seed)
    classifier.eval().requires_grad_(False)
    features = classifier.features(images).double()
    classifier.mean.copy_(features.mean(0))
    classifier.covariance.copy_(features.T.cov())

    right = classifier(images).argmax(1) == classes
    file = Path(out)
    write_whole(file, save(classifier.state_dict()))
    record = {
        "command": " ".join(["python", "examples/train_digits_classifier.py", *sys.argv[1:]]),
        "data": f"sklearn.datasets.load_digits: {int((~held_out).sum())} of {len(images)} images; every fifth held out",
        "epochs": EPOCHS,
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
    click.echo(f"{file}: {record['held_out_accuracy']:.4f} of the held-out digits recognised", err=True)


def train(classifier: DigitClassifier, images: torch.Tensor, classes: torch.Tensor, seed: int) -> None:
    """Train on images (N, 1, 8, 8) with classes (N,), with noise so that no single pixel decides."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=RATE, weight_decay=0.05)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x = images[chosen] + 0.2 * torch.randn((BATCH, 1, 8, 8), generator=generator)
        loss = F.cross_entropy(classifier(x.clamp(-1, 1)), classes[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


if __name__ == "__main__":
    main()
