"""`PixelProjectedGradientDescent`: ART's PGD with a radius per pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from ...attacks.pixel_ag import pixel_ag
from ...attacks.projection import uniform_start
from ...budget import set_radius
from ...checks import check_number, check_within
from ...network.view import logits_of
from ...objectives import AT, ascent
from ...pixel_budget import BudgetOptions, make_budget
from .base import PixelEvasionBase, check_linf
from .classifier import check_classifier, classifier_clip, classifier_criterion

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PixelProjectedGradientDescent(PixelEvasionBase, ProjectedGradientDescentPyTorch):
    """
    Projected Gradient Descent with a radius per pixel: full `eps` on the pixels that a class activation map calls
    important, `eps_low` elsewhere. A call of ART's `ProjectedGradientDescent` stays valid, with these additions.

    | Paper link: https://arxiv.org/abs/2406.00685 (PART), https://arxiv.org/abs/1706.06083 (PGD)
    """

    attack_params = [*ProjectedGradientDescentPyTorch.attack_params, "eps_low", "budget"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        norm: int | float | str = np.inf,
        eps: int | float = 0.3,
        eps_step: int | float = 0.1,
        decay: float | None = None,
        max_iter: int = 100,
        targeted: bool = False,
        num_random_init: int = 0,
        batch_size: int = 32,
        random_eps: bool = False,
        summary_writer: bool = False,
        verbose: bool = True,
        *,
        eps_low: float | None = None,
        budget: Any = None,
        **options: Unpack[BudgetOptions],
    ) -> None:
        """
        Create a :class:`.PixelProjectedGradientDescent` instance.

        :param estimator: A trained `PyTorchClassifier` with `clip_values`.
        :param norm: `np.inf` or "inf"; other norms bound no pixel by itself.
        :param eps: Maximum perturbation of important pixels, in the units of `clip_values`.
        :param eps_step: Attack step size, in the units of `clip_values`.
        :param decay, random_eps, summary_writer: As in ART, but only their defaults are supported.
        :param max_iter: The number of iterations.
        :param targeted: Indicates whether the attack is targeted.
        :param num_random_init: Number of random starts inside the budget; 0 starts at the input.
        :param batch_size: Size of the batch on which adversarial samples are generated.
        :param verbose: Show progress bars.
        :param eps_low: Maximum perturbation of the other pixels; default 7/8 of `eps`, the paper's ratio.
        :param budget: A budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
        :param options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

        Raises:
            TypeError: A classifier that is no PyTorchClassifier.
            ValueError: A classifier or a setting that is not allowed; the sentence names it.
        """
        check_classifier(estimator)
        unsupported = {"decay": decay, "random_eps": random_eps, "summary_writer": summary_writer}
        for name, value in unsupported.items():
            if value:
                raise ValueError(f"{name}={value} is not supported; wrap ART's own attack in PixelEvasionAttack")
        check_linf(norm, eps, type(self).__name__)
        self.budget = make_budget(eps, eps_low, budget, **options)
        super().__init__(
            estimator=estimator,
            norm=norm,
            eps=self.budget.eps,
            eps_step=eps_step,
            max_iter=max_iter,
            targeted=targeted,
            num_random_init=num_random_init,
            batch_size=batch_size,
            verbose=verbose,
        )
        self._check_params()

    def _check_params(self) -> None:
        super()._check_params()
        check_within("eps_step", check_number("eps_step", self.eps_step, above=True), classifier_clip(self.estimator))

    @property
    def eps(self) -> float:
        """Largest radius, that of the important pixels."""
        return self.budget.eps

    @eps.setter
    def eps(self, value: float) -> None:
        check_within("eps", check_number("eps", value), classifier_clip(self.estimator))
        if value != self.budget.eps:
            set_radius(self.budget, "eps", value)

    def craft(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Return the adversarial examples of one batch, of several starts the last that succeeded.

        :param view, images, labels, radii: See `PixelEvasionBase.craft`.
        """
        adv = self._run(view, images, labels, radii)
        for _ in range(1, self.num_random_init):
            again = self._run(view, images, labels, radii)
            with torch.no_grad():
                hit = logits_of(view, again).argmax(1) == labels
            success = hit if self.targeted else ~hit
            adv = torch.where(success[:, None, None, None], again, adv)
        return adv

    def _run(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        criterion, clip = classifier_criterion(self.estimator), classifier_clip(self.estimator)
        start = uniform_start(images, radii, self.eps, clip) if self.num_random_init else None
        loss = ascent(view, AT(criterion), labels, sign=-1 if self.targeted else 1)
        return pixel_ag(loss, images, radii, self.eps_step, self.max_iter, start, clip)
