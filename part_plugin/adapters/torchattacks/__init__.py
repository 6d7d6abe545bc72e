"""Pixel-AG as torchattacks attacks: `PixelPGD`, `PixelTPGD`, `PixelMMA`, and `PixelAttack` around any other; `MMA`."""

from .minimum_margin import MMA, PixelMMA
from .pgd import PixelPGD, PixelTPGD
from .wrapper import PixelAttack

__all__ = ["MMA", "PixelAttack", "PixelMMA", "PixelPGD", "PixelTPGD"]
