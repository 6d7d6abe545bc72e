"""A network to make black-box examples on, trained here where none is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..network.view import logits_of
from ..part import PART
from .common import seeded

UPDATES = 40
"""At least; ten passes over the samples if that is more."""


def train_surrogate(model: nn.Module, x: Tensor, eps: float, batch_size: int, seed: int) -> nn.Module:
    """Return a small network of another kind that learned, against one step of size eps, to predict what `model` does.

    Args:
        model: network that returns logits (N, K).
        x: images (N, C, H, W) in [0, 1], on its device.
        eps: radius of that step.
        batch_size: samples per forward pass of `model`.
        seed: of weights, order and random starts; the global random state is left alone.
    """
    with torch.no_grad():
        logits = torch.cat([logits_of(model, images) for images in x.split(batch_size)])
    classes = logits.argmax(1)
    with seeded(seed, x.device):
        network = _small_network(x.shape[1], logits.shape[1]).to(x.device)
        part = PART(eps=eps, eps_low=eps, alpha=eps, steps=1, burn_in=0, seed=seed)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(max(UPDATES, 10 * len(x) // 64)):
            rows = torch.randint(len(x), (min(64, len(x)),)).to(x.device)
            optimizer.zero_grad()
            part.loss(network.train(), x[rows], classes[rows]).backward()
            optimizer.step()
    return network.eval()


def _small_network(channels: int, num_classes: int) -> nn.Module:
    def block(inside: int, outside: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

    layers = [*block(channels, 16, 2), *block(16, 32, 1), *block(32, 64, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, num_classes))
