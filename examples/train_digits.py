"""Train one of the small backbones of digits that ship with convbench: a few minutes on a CPU, with a fixed seed.

    pip install scikit-learn
    python examples/train_digits.py dico_digits

The data are the 1,797 digits of 8x8 pixels in scikit-learn. DiCo and DiC learn to predict noise and variance (iDDPM),
FCDM a velocity (flow matching), according to ``predicts`` of the variant. The averaged weights are rounded to float16,
as stored, before the final loss is computed. A record of the training is written beside them.
"""

import click
import torch
import training
from torch import Tensor


@click.command()
@click.argument("model", type=click.Choice(["dico_digits", "fcdm_digits", "dic_digits"]))
@click.option("--steps", default=2500, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--rate", default=2e-3, show_default=True, help="Highest learning rate.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default=str(training.WEIGHTS), show_default=True, help="Folder of the result.")
def main(model: str, steps: int, batch: int, rate: float, seed: int, out: str) -> None:
    """Train MODEL and write MODEL.safetensors and its record MODEL.json."""
    images, classes = digits()
    data = f"sklearn.datasets.load_digits: all {len(images)} images, pixels / 8 - 1"
    training.run(model, images, classes, data, steps, batch, rate, seed, out)


def digits() -> tuple[Tensor, Tensor]:
    """Load the images (1797, 1, 8, 8) in [-1, 1] and their classes (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 8 - 1, torch.from_numpy(data.target).long()


if __name__ == "__main__":
    main()
