"""Budgets as users write them, for the table of recipes."""

from __future__ import annotations

import torch
from common import EPS
from torch import Tensor, nn

from part_plugin import Budget


def frame(eps_low: float) -> Tensor:
    """Return radii that are smaller at the edge, (8, 8).

    Args:
        eps_low: radius there.
    """
    radii = torch.full((8, 8), eps_low)
    radii[1:-1, 1:-1] = EPS
    return radii


class Framed(Budget):
    """A budget with less room at the edge.

    Args:
        eps_low: radius there.
    """

    def __init__(self, eps_low: float):
        self.lowest = eps_low

    @property
    def eps(self) -> float:
        """Largest radius."""
        return EPS

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the radii, (8, 8)."""
        return frame(self.lowest)


class AnyObject:
    """What has eps and a call, and is no Budget.

    Args:
        eps_low: smallest radius.
    """

    eps = EPS

    def __init__(self, eps_low: float):
        self.eps_low = eps_low

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return less room where the network is sure, (N, 1, 1, 1)."""
        with torch.no_grad():
            sure = model(images).softmax(1).amax(1) > 0.5
        return torch.where(sure, self.eps_low, EPS)[:, None, None, None]
