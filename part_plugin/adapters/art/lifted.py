"""PART whose adversarial examples come from an ART attack."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...checks import check_count
from ...network.isolation import isolated
from ...objectives import Objective
from ...part import PART
from .base import PixelEvasionBase
from .classifier import classifier_view
from .pgd import PixelProjectedGradientDescent
from .starts import numpy_gaussian_start, numpy_uniform_start


class LiftedPART(PART):
    """PART whose adversarial examples come from an ART attack where the objective leaves it the choice.

    :param lifted: Attack with a budget. Of a plain PGD the settings are taken over, and it runs inside PART itself
                   unless it has several starts.
    :param objective: What is trained.
    :param foreign: Whether the attack is one on another classifier than that which is trained: the radii are then of
                    the latter, and the gradients of the former.
    :param schedule: burn_in, mask_every, fast and seed; see `PART`.

    Raises:
        ValueError: A PGD without iterations.
    """

    def __init__(self, lifted: PixelEvasionBase, objective: Objective, *, foreign: bool = False, **schedule: Any):
        self.lifted = lifted
        self.foreign = foreign
        eps_step = getattr(lifted, "eps_step", lifted.eps / 4 or 1e-6)
        super().__init__(objective, budget=lifted.budget, alpha=eps_step, clip=lifted.clip, **schedule)
        self.refresh()

    def refresh(self) -> None:
        """Take over the settings of the attack as they are now.

        Raises:
            NotImplementedError: It is targeted, as in ART's trainers.
            ValueError: A PGD without iterations, a budget that does not fit.
        """
        lifted = self.lifted
        lifted.follow()
        lifted._check_params()
        if lifted.targeted:
            name = type(lifted.origin).__name__
            raise NotImplementedError(f"{name} is targeted; training needs an untargeted attack")
        self.budget = self.scheduled.budget = lifted.budget
        self.clip = lifted.clip
        self.crafts = True
        if isinstance(lifted, PixelProjectedGradientDescent):
            self.alpha = lifted.eps_step
            self.steps = check_count("max_iter", lifted.max_iter)
            self.random_start = lifted.num_random_init > 0
            self.crafts = self.foreign or (lifted.num_random_init > 1 and self.objective.start == "uniform")

    def attack(
        self, model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, natural_logits: Tensor | None = None
    ) -> Tensor:
        """Return adversarial examples within `radii`; see `PART.attack`.

        :param model, x, y, radii, natural_logits: As there.
        """
        if not self.crafts:
            return super().attack(model, x, y, radii, natural_logits)
        if not self.foreign:
            return self.lifted.craft(model, x, y, radii)
        with isolated(classifier_view(self.lifted.estimator), x) as theirs:
            return self.lifted.craft(theirs, x, y, radii)

    def _start(self, x: Tensor, radii: Tensor) -> Tensor | None:
        if self.seed is not None:
            return super()._start(x, radii)
        if self.objective.start == "gaussian":
            return numpy_gaussian_start(x, radii, self.clip)
        return numpy_uniform_start(x, radii, self.budget.eps, self.clip) if self.random_start else None
