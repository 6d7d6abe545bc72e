"""RobustBench's ResNet-18 of any width."""

from __future__ import annotations

import torch
from torch import nn

from .toolkit import architectures

_USUAL = 64


class ResNet18(architectures.resnet.ResNet):
    """RobustBench's ResNet-18 with `width` channels in its first block instead of 64, and any number of classes.

    With 64 channels a seed gives the weights that it gives RobustBench's own.

    Args:
        width: channels of the first block; the others have 2, 4 and 8 times as many.
        num_classes: number of logits.
    """

    def __init__(self, width: int = _USUAL, num_classes: int = 10):
        nn.Module.__init__(self)  # not the parent's, which would make the usual network first
        if width != _USUAL:
            _skip_draws(num_classes)
        block = architectures.resnet.BasicBlock
        self.in_planes = width
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for number in range(4):
            stage = self._make_layer(block, width * 2**number, 2, 1 + (number > 0))
            setattr(self, f"layer{number + 1}", stage)
        self.linear = nn.Linear(8 * width, num_classes)


def _skip_draws(num_classes: int) -> None:
    """Draw as many numbers as the usual network's first weights are, and throw them away.

    Earlier releases made that network first; so a seed goes on giving the weights that it gave.
    """
    left = 11_159_232 + (8 * _USUAL + 1) * num_classes  # convolutions, then the last layer
    while left > 0:
        left -= torch.empty(min(left, 1 << 16)).uniform_().numel()
