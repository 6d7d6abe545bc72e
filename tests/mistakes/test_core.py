"""Mistakes in a loop of one's own: maps, budgets, PART."""

import torch
from conftest import SmallNet
from mistakes.mistake import Mistake, each

from part_plugin import PART

NET = SmallNet().eval()
X, Y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])

MISTAKES = [
    Mistake(
        "pictures as bytes",
        lambda: PART(burn_in=0).loss(NET, (255 * X).byte(), Y),
        TypeError,
        "images are torch.uint8; a floating-point tensor is needed (uint8 / 255 for pictures)",
    ),
]


@each(MISTAKES)
def test_a_mistake_gets_its_sentence(mistake):
    mistake.check()
