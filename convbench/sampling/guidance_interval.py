"""Guidance within an interval of the way from noise to data; outside it the network runs on half the batch.

Source: Kynkäänniemi et al. 2024, arXiv:2404.07724, eq. 5: the scale is w within an interval of the noise level, else 1.
Theirs is an interval of sigma; here it is one of the share p of the way, from 0 at the noise to 1 at the data, linear
in the time t that the network takes: p = 1 - t / t_end where t counts steps of diffusion, t / t_end in flow matching.
"""

from torch import Tensor

from ..catalogue import Signature
from . import sampler_names
from .method_names import Interval
from .sampler import Model

FROM_NOISE = ("velocity", "data")  # predictions of networks whose time grows from noise to data


def within(interval: Interval, takes: Signature, guided: Model, alone: Model) -> Model:
    """Choose between a network with guidance and without at every step, by the time of the first image."""
    low, high = interval
    grows = sampler_names.prediction(takes) in FROM_NOISE

    def model(x: Tensor, t: Tensor) -> Tensor:
        share = float(t[0]) / takes.t_end
        share = share if grows else 1 - share
        return (guided if low <= share <= high else alone)(x, t)

    return model
