"""Where an attack starts, drawn from numpy's global generator: as in ART, `np.random.seed` makes it reproducible."""

from __future__ import annotations

import numpy as np
import torch
from art.config import ART_NUMPY_DTYPE
from torch import Tensor

from ...attacks.projection import relative_radii
from ...checks import Clip


def numpy_uniform_start(images: Tensor, radii: Tensor, eps: float, clip: Clip) -> Tensor:
    """Return a point drawn uniformly from the budget: the number that ART's PGD draws, shrunk to each pixel's radius.

    :param images: x, (N, C, H, W).
    :param radii: Of the budget, broadcast to x.
    :param eps: The largest of them.
    :param clip: Allowed range.
    """
    noise = _like(images, np.random.uniform(-eps, eps, (len(images), images[0].numel())))
    return torch.clamp(images + noise * relative_radii(radii, eps), *clip)


def numpy_gaussian_start(images: Tensor, radii: Tensor, clip: Clip) -> Tensor:
    """Return x + 0.001 * N(0, 1), the start of TRADES and MART, inside the budget.

    :param images, radii, clip: As in `numpy_uniform_start`.
    """
    noise = _like(images, np.random.normal(0, 0.001, images.shape))
    return torch.clamp(images + torch.clamp(noise, min=-radii, max=radii), *clip)


def _like(images: Tensor, noise: np.ndarray) -> Tensor:
    return torch.from_numpy(noise.astype(ART_NUMPY_DTYPE)).to(images).reshape(images.shape)
