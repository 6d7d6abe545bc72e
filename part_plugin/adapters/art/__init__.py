"""Pixel-AG as ART attacks, and PART as ART trainers."""

from .pgd import PixelProjectedGradientDescent
from .trainer import PARTTrainer
from .two_term_trainers import PARTTrainerMART, PARTTrainerTRADES
from .wrapper import PixelEvasionAttack

__all__ = [
    "PARTTrainer",
    "PARTTrainerMART",
    "PARTTrainerTRADES",
    "PixelEvasionAttack",
    "PixelProjectedGradientDescent",
]
