"""Train one of the small backbones of glyphs that ship with convbench, with a fixed seed: minutes on one core.

    OMP_NUM_THREADS=1 python examples/train_glyphs.py dic_glyphs

The data are drawn here: 62 characters of 32x32 pixels (convbench.sampling.glyphs), folded to 8x8 of 16 channels. Every
network learns to predict noise and variance (iDDPM). With one thread the same processor gives the same file.
"""

import click
import torch
import training
from torch import Tensor
from torch.nn import functional as F

from convbench.catalogue import find
from convbench.sampling import glyphs

IMAGES = 500 * len(glyphs.CHARACTERS)  # drawn once before the training
HELD_OUT = 20 * len(glyphs.CHARACTERS)  # behind them, for the loss in the record
STEPS = {"dic_glyphs": 4000, "dico_glyphs": 4000, "fcdm_glyphs": 4000, "dit_glyphs": 20000}


@click.command()
@click.argument("model", type=click.Choice(list(STEPS)))
@click.option("--steps", type=int, help="Number of steps [default: as the files that ship].")
@click.option("--batch", default=64, show_default=True)
@click.option("--rate", default=2e-3, show_default=True, help="Highest learning rate.")
@click.option("--seed", default=0, show_default=True, help="Of the training; the images are those of seed 0.")
@click.option("--images", default=IMAGES, show_default=True, help="Number of images drawn to train on.")
@click.option("--out", default=str(training.WEIGHTS), show_default=True, help="Folder of the result.")
def main(model: str, steps: int | None, batch: int, rate: float, seed: int, images: int, out: str) -> None:
    """Train MODEL and write MODEL.safetensors and its record MODEL.json."""
    factor = find(model).signature.factor
    pixels, classes = pixels_and_classes(range(images))
    held_out, held_out_classes = pixels_and_classes(range(IMAGES, IMAGES + HELD_OUT))
    training.run(
        model,
        F.pixel_unshuffle(pixels, factor),
        classes,
        f"convbench.sampling.glyphs: images 0 to {images - 1} of seed 0; the loss is of {HELD_OUT} from {IMAGES} on",
        steps or STEPS[model],
        batch,
        rate,
        seed,
        out,
        torch.channels_last,
        lambda network, loss_of: training.mean_loss(
            network, F.pixel_unshuffle(held_out, factor), held_out_classes, loss_of
        ),
    )


def pixels_and_classes(numbers: range) -> tuple[Tensor, Tensor]:
    """Draw the images with these numbers, (N, 1, 32, 32) in [-1, 1], and their classes (N,)."""
    drawn = [torch.from_numpy(glyphs.draw(numbers[at : at + 620])) for at in range(0, len(numbers), 620)]
    return torch.cat(drawn).float()[:, None] / 127.5 - 1, torch.from_numpy(glyphs.labels(numbers))


if __name__ == "__main__":
    main()
