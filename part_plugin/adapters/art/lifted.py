"""PART whose adversarial examples come from an ART attack."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...objectives import Objective
from ...part import PART
from .base import PixelEvasionBase
from .classifier import classifier_clip
from .pgd import PixelProjectedGradientDescent


class LiftedPART(PART):
    """PART whose adversarial examples come from an ART attack where the objective leaves it the choice."""

    def __init__(self, lifted: PixelEvasionBase, objective: Objective, **schedule: Any):
        self.lifted = lifted
        self.crafts = not isinstance(lifted, PixelProjectedGradientDescent)
        if isinstance(lifted, PixelProjectedGradientDescent):
            schedule |= {"alpha": lifted.eps_step, "steps": lifted.max_iter}
            schedule["random_start"] = lifted.num_random_init > 0
            self.crafts = lifted.num_random_init > 1 and objective.start == "uniform"
        clip = classifier_clip(lifted.estimator)
        super().__init__(objective, budget=lifted.budget, clip=clip, **schedule)

    def attack(
        self, model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, natural_logits: Tensor | None = None
    ) -> Tensor:
        """Return adversarial examples within `radii`; see `PART.attack`."""
        if self.crafts:
            return self.lifted.craft(model, x, y, radii)
        return super().attack(model, x, y, radii, natural_logits)
