"""A judge of any images: the features of a network that the user names, beside reference statistics of real images.

The network is TorchScript, as the Inception of StyleGAN and EDM is kept (``inception-2015-12-05.pt``): it takes bytes
(B, 3, H, W) and resizes them itself. TorchScript is a program: only a file named on the command line is opened, never
one that an artefact or a row names.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import precision
from ..errors import UsageError, printable
from ..files import opened
from . import reference
from .decoding import bytes_from_pixels
from .judge import JudgedImages

FORM = "expected TorchScript, such as inception-2015-12-05.pt"
BY_NAME = "return_features"  # the argument for features in place of class scores, where the network has it
BATCH = 50  # images at once


class FeatureNetwork:
    """A judge by a feature network and statistics. It tells distances, not whether an image shows its class."""

    name = "reference"
    recognises = False

    def __init__(self, statistics: Path, network: Path, res: int, device: str) -> None:
        """Open both files and try the network on images of ``res`` pixels. Raises UsageError for what does not fit."""
        self.device = device
        self.real, self.statistics_sha256 = reference.read(statistics)
        self.network, self.network_sha256 = _script(network, device)
        try:
            takes = {argument.name for argument in self.network.forward.schema.arguments}
        except (AttributeError, RuntimeError):
            raise UsageError(f"{network} has no forward: {FORM}") from None
        self.arguments = {BY_NAME: True} if BY_NAME in takes else {}
        try:
            found = self._features(torch.zeros(2, 3, res, res))
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            # The last line of an error in TorchScript says what happened, those before it where.
            reason = printable((str(error).strip().splitlines() or [type(error).__name__])[-1])[:160]
            raise UsageError(f"{network} does not turn bytes (B, 3, H, W) into features (B, F): {reason}") from None
        if found.shape != (2, len(self.real.mean)):
            raise UsageError(
                f"{network} computes {found.shape[-1]} features of an image, but {statistics} is of "
                f"{len(self.real.mean)}: they do not belong together"
            )

    def look(self, images: Tensor, classes: Tensor) -> JudgedImages:
        """Look at images (B, 1 or 3, H, W) in about [-1, 1].

        All images form one group: of a thousand classes each has one image or a few, too few to be resampled on their
        own. The intervals therefore contain the spread between classes too, and are rather too wide.
        """
        images = images.detach().float().cpu()
        finite = images.isfinite().flatten(1).all(1)
        found = torch.cat([self._features(part) for part in images.nan_to_num(0, 1, -1).split(BATCH)])
        features = found.where(finite[:, None], torch.nan)
        return JudgedImages(self.real, features, torch.zeros_like(classes.cpu()))

    def origin(self) -> dict[str, str]:
        """SHA-256 of the two files."""
        return {"reference_sha256": self.statistics_sha256, "features_sha256": self.network_sha256}

    @torch.inference_mode()
    def _features(self, images: Tensor) -> Tensor:
        """Compute the features of images (B, 1 or 3, H, W) in [-1, 1] as bytes. -> (B, F) float32 on the CPU"""
        pixels = bytes_from_pixels(images.expand(-1, 3, -1, -1)).permute(0, 3, 1, 2).contiguous()
        # Without the executor that specialises itself to what it has seen, so that equal images have equal features.
        jit: Any = torch.jit  # whose stubs lack this
        with precision.applied("fp32"), jit.optimized_execution(False):
            found: Any = self.network(pixels.to(self.device), **self.arguments)
        if not isinstance(found, Tensor):
            raise TypeError(f"it returns {type(found).__name__}")
        return found.float().flatten(1).cpu()


def _script(path: Path, device: str) -> tuple[Any, str]:
    """Load TorchScript, and the SHA-256 of its file. Raises UsageError where it is none."""
    try:
        with opened(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch has no successor for files that exist
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            return torch.jit.load(file, map_location=device).eval(), digest
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (RuntimeError, ValueError, EOFError):
        raise UsageError(f"{path} is not TorchScript: {FORM}") from None
