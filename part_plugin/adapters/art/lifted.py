"""PART whose adversarial examples come from an ART attack."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...checks import check_count
from ...objectives import Objective
from ...part import PART
from .base import PixelEvasionBase
from .classifier import classifier_clip
from .pgd import PixelProjectedGradientDescent


class LiftedPART(PART):
    """PART whose adversarial examples come from an ART attack where the objective leaves it the choice.

    :param lifted: Attack with a budget. Of a plain PGD the settings are taken over, and it runs inside PART itself
                   unless it has several starts.
    :param objective: What is trained.
    :param schedule: burn_in, mask_every and fast; see `PART`.

    Raises:
        ValueError: A PGD without iterations.
    """

    def __init__(self, lifted: PixelEvasionBase, objective: Objective, **schedule: Any):
        self.lifted = lifted
        self.crafts = not isinstance(lifted, PixelProjectedGradientDescent)
        if isinstance(lifted, PixelProjectedGradientDescent):
            steps = check_count("max_iter", lifted.max_iter)
            schedule |= {"alpha": lifted.eps_step, "steps": steps}
            schedule["random_start"] = lifted.num_random_init > 0
            self.crafts = lifted.num_random_init > 1 and objective.start == "uniform"
        clip = classifier_clip(lifted.estimator)
        super().__init__(objective, budget=lifted.budget, clip=clip, **schedule)

    def attack(
        self, model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, natural_logits: Tensor | None = None
    ) -> Tensor:
        """Return adversarial examples within `radii`; see `PART.attack`.

        :param model, x, y, radii, natural_logits: As there.
        """
        if self.crafts:
            return self.lifted.craft(model, x, y, radii)
        return super().attack(model, x, y, radii, natural_logits)
