"""`PixelProjectedGradientDescent`: ART's PGD with a radius per pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from ...attacks.pixel_ag import pixel_ag
from ...budget import set_radius
from ...checks import check_count, check_number, check_within
from ...labels import classes_of
from ...network.view import logits_of
from ...objectives import AT, ascent
from ...pixel_budget import BudgetOptions, make_budget
from .base import PixelEvasionBase, check_linf
from .classifier import REQUIREMENTS, check_classifier, classifier_criterion
from .settings import Watched, plain
from .starts import numpy_uniform_start

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PixelProjectedGradientDescent(PixelEvasionBase, ProjectedGradientDescentPyTorch):
    """
    Projected Gradient Descent with a radius per pixel: full `eps` on the pixels that a class activation map calls
    important, `eps_low` elsewhere. A call of ART's `ProjectedGradientDescent` stays valid, with these additions. ART's
    own trainers take it as they take PGD (TRADES, AWP, OAAT, ...), see examples/art_own_trainers.py.

    | Paper link: https://arxiv.org/abs/2406.00685 (PART), https://arxiv.org/abs/1706.06083 (PGD)
    """

    attack_params = [*ProjectedGradientDescentPyTorch.attack_params, "eps_low", "budget"]
    _estimator_requirements = REQUIREMENTS
    watched: Watched | None = None

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
        clip: Any = None,
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
        :param clip: Smallest and largest pixel value, for a classifier without `clip_values`.
        :param options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

        Raises:
            EstimatorError: A classifier that is no PyTorchClassifier.
            TypeError: A setting of the wrong type; the sentence names it.
            ValueError: A classifier or a setting that is not allowed; the sentence names it.
        """
        check_classifier(estimator, type(self), clip)
        if isinstance(eps, np.ndarray) and not isinstance(eps_step, np.ndarray):
            raise TypeError(f"eps is an array and eps_step={eps_step} is not; two numbers are needed")
        self._clip = clip
        self._estimator = estimator
        self._check_supported(norm, eps, decay, random_eps, summary_writer)
        self.budget = make_budget(plain(eps), eps_low, budget, **options)
        super().__init__(
            estimator=estimator,
            norm=norm,
            eps=self.budget.eps,
            eps_step=plain(eps_step),
            max_iter=max_iter,
            targeted=plain(targeted),
            num_random_init=plain(num_random_init),
            batch_size=batch_size,
            verbose=verbose,
        )
        self._check_params()

    def _set_params(self, **kwargs: Any) -> None:
        self._check_supported(self.norm, self.eps, None, False, kwargs.pop("summary_writer", False))
        super()._set_params(**kwargs)

    def _check_params(self) -> None:
        for name in ("eps_step", "max_iter", "targeted", "num_random_init", "batch_size"):
            setattr(self, name, plain(getattr(self, name)))
        self._check_supported(self.norm, self.eps, self.decay, self.random_eps, self._summary_writer_arg)
        super()._check_params()
        check_within("eps", check_number("eps", self.eps), self.clip)
        check_within("eps_step", check_number("eps_step", self.eps_step, above=True), self.clip)
        check_count("max_iter", self.max_iter, 0)
        check_count("batch_size", self.batch_size)

    def _check_supported(self, norm: Any, eps: Any, decay: Any, random_eps: Any, summary_writer: Any) -> None:
        for name, value in {"decay": decay, "random_eps": random_eps, "summary_writer": summary_writer}.items():
            if value:
                raise ValueError(f"{name}={value} is not supported; wrap ART's own attack in PixelEvasionAttack")
        check_linf(norm, eps, type(self).__name__)

    @property
    def eps(self) -> float:
        """Largest radius, that of the important pixels."""
        return self.budget.eps

    @eps.setter
    def eps(self, value: float) -> None:
        if isinstance(value, np.ndarray):
            check_linf(self.norm, value, type(self).__name__)
        check_within("eps", check_number("eps", value), self.clip)
        if value != self.budget.eps:
            set_radius(self.budget, "eps", plain(value))

    @property
    def origin(self) -> EvasionAttack:
        """The attack that the user gave: this one, or the PGD that it was made of."""
        return self if self.watched is None else self.watched.attack

    def follow(self) -> None:
        """Take over what was changed on the PGD that this one was made of; what cannot be is refused by name."""
        if self.watched is not None:
            self.watched.follow(self.set_params)

    def craft(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Return the adversarial examples of one batch, of several starts the last that succeeded.

        One succeeds that misses the label, or meets the target; in ART one that changes the prediction, right or wrong.

        :param view, images, labels, radii: See `PixelEvasionBase.craft`.
        """
        adv = self._run(view, images, labels, radii)
        for _ in range(1, self.num_random_init):
            again = self._run(view, images, labels, radii)
            with torch.no_grad():
                hit = logits_of(view, again).argmax(1) == classes_of(labels)
            success = hit if self.targeted else ~hit
            adv = torch.where(success[:, None, None, None], again, adv)
        return adv

    def _run(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        criterion, clip = classifier_criterion(self.estimator), self.clip
        start = numpy_uniform_start(images, radii, self.eps, clip) if self.num_random_init else None
        loss = ascent(view, AT(criterion), labels, sign=-1 if self.targeted else 1)
        return pixel_ag(loss, images, radii, self.eps_step, self.max_iter, start, clip)
