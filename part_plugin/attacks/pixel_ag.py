"""Pixel-AG (PART, section 3.2): projected gradient ascent in which every pixel has a radius of its own."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..checks import Clip
from ..deferred import check_values, moved
from .projection import project

logger = logging.getLogger(__name__)

WARN_ABOVE = 0.01
"""Share of samples without a gradient that is warned of."""


def pixel_ag(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    radii: Tensor,
    alpha: float,
    steps: int,
    start: Tensor | None = None,
    clip: Clip = (0.0, 1.0),
    on_first_gradient: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Maximise loss(x + d) subject to |d_i| <= radii_i and clip[0] <= x + d <= clip[1] (Eq. 4).

    Each step is d <- clip(d + alpha * sign(gradient), -radii, radii), then x + d is clipped to the
    allowed range. The paper writes a product with a mask instead of the element-wise clip; the
    feasible set is the same, and the clip is its projection.

    Args:
        loss: images (N, C, H, W) -> scalar, differentiable.
        images: x, (N, C, H, W).
        radii: broadcasts to x, >= 0, in the units of x.
        alpha: step size, in the units of x.
        steps: number of gradient steps.
        start: first iterate, inside the budget; default: x itself.
        clip: allowed range of x + d.
        on_first_gradient: called with the first gradient, (N, C, H, W), to count samples that have none.

    Returns:
        x + d, (N, C, H, W), detached.
    """
    adv = (images if start is None else start).detach().clone()
    for step in range(steps):
        adv.requires_grad_()
        gradient = torch.autograd.grad(loss(adv), adv)[0]
        if step == 0 and on_first_gradient is not None:
            on_first_gradient(gradient)
        adv = project(images, adv.detach() + alpha * gradient.sign(), radii, clip).detach()
    return adv


class GradientCount:
    """Counts the samples that give an attack no gradient to follow: zero, NaN or infinite; an `on_first_gradient`.

    Where they are more than 1 %, that is warned of once.

    Attributes:
        samples: how many were looked at.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._look_at: float = 1
        self._missing = torch.zeros((), dtype=torch.long)  # a tensor: counting must not wait for a GPU

    def __call__(self, gradient: Tensor) -> None:
        """Count the samples of a gradient (N, C, H, W)."""
        largest = gradient.flatten(1).abs().amax(1)
        self.samples += len(gradient)
        self._missing = moved(self._missing, gradient) + (~(largest > 0) | largest.isinf()).sum()
        if self.samples >= self._look_at:  # at ever longer intervals
            self._look_at = 2 * self.samples
            check_values(self._missing, partial(self._look, self.samples))

    def _look(self, samples: int, missing: int) -> None:
        if missing > WARN_ABOVE * samples and self._look_at < math.inf:
            self._look_at = math.inf
            logger.warning("%.0f%% of the samples gave the attack no gradient to follow", 100 * missing / samples)

    @property
    def missing(self) -> int:
        """How many of the `samples` had no gradient."""
        return int(self._missing)
