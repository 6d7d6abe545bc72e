"""`PixelEvasionAttack`: any other l_inf attack of ART with a radius per pixel; `lift` makes it or a Pixel-AG PGD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import BasicIterativeMethod, ProjectedGradientDescent, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from ...attacks.change_of_variable import change_of_variable, pull_back
from ...attacks.projection import relative_radii
from ...budget import set_radius
from ...checks import check_number, check_within
from ...network.isolation import callers_own, eval_mode
from ...pixel_budget import BudgetOptions, make_budget
from .base import PixelEvasionBase, check_linf
from .classifier import check_classifier, classifier_clip, preprocessed
from .pgd import PixelProjectedGradientDescent

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PixelEvasionAttack(PixelEvasionBase):
    """
    Any l_inf attack of ART with a radius per pixel, by a change of variable: the attack runs, unchanged, on
    g(z) = f(x + m * (z - x)) with m = radius / eps, and its result z becomes x + m * (z - x).

    | Paper link: https://arxiv.org/abs/2406.00685
    """

    attack_params = [*EvasionAttack.attack_params, "eps", "eps_low", "budget", "batch_size", "verbose"]
    _estimator_requirements = (PyTorchClassifier,)

    def __init__(
        self,
        attack: EvasionAttack,
        *,
        eps_low: float | None = None,
        budget: Any = None,
        **options: Unpack[BudgetOptions],
    ) -> None:
        """
        Create a :class:`.PixelEvasionAttack` instance.

        :param attack: An attack with `norm` infinity and a number `eps`; its batch size is kept.
        :param eps_low: Maximum perturbation of unimportant pixels; default 7/8 of `attack.eps`.
        :param budget: A budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
        :param options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

        Raises:
            TypeError: `attack` is no EvasionAttack.
            ValueError: An attack or a budget that is not allowed; the sentence names it.
        """
        if not isinstance(attack, EvasionAttack):
            raise TypeError(f"attack is a {type(attack).__name__}; an ART EvasionAttack is needed")
        if isinstance(attack, PixelEvasionBase):
            raise ValueError(f"attack is a {type(attack).__name__}, which has a budget per pixel already")
        check_classifier(attack.estimator)
        eps = linf_radius(attack)
        check_within("eps", eps, classifier_clip(attack.estimator))
        self.budget = make_budget(eps, eps_low, budget, **options)
        if self.budget.eps > eps * (1 + 1e-6):  # a radius in single precision may round up
            raise ValueError(f"budget reaches {self.budget.eps:g}, further than eps={eps:g} of {type(attack).__name__}")
        self.attack = attack
        super().__init__(estimator=attack.estimator)
        self.verbose = False

    @property
    def eps(self) -> float:
        """Radius of the wrapped attack, that of the important pixels."""
        return float(self.attack.eps)

    @eps.setter
    def eps(self, value: float) -> None:
        value = check_within("eps", check_number("eps", value), classifier_clip(self.estimator))
        set_radius(self.budget, "eps", value)
        self.attack.set_params(eps=value)

    @property
    def batch_size(self) -> int:
        """Batch size of the wrapped attack."""
        return int(getattr(self.attack, "batch_size", 32))

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self.attack.set_params(batch_size=value)

    @property
    def targeted(self) -> bool:
        """Whether the wrapped attack is targeted."""
        return bool(self.attack.targeted)

    @targeted.setter
    def targeted(self, value: bool) -> None:
        self.attack.set_params(targeted=value)

    def __repr__(self) -> str:
        settings: str = super().__repr__()
        return settings.replace("(", f"[{type(self.attack).__name__}](", 1)

    def craft(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Return the adversarial examples of one batch.

        :param view, images, labels, radii: See `PixelEvasionBase.craft`.
        """
        mask = relative_radii(radii, self.eps)
        module = self.estimator._model  # which ART itself attacks: no replica can stand in for it
        inputs = preprocessed(self.estimator, images)
        with callers_own(self.estimator.model), eval_mode(module), change_of_variable(module, inputs, mask):
            z = self.attack.generate(images.cpu().numpy(), labels.cpu().numpy())
        z = torch.from_numpy(z).to(images)
        return pull_back(images, z, radii, mask, classifier_clip(self.estimator))


def linf_radius(attack: EvasionAttack) -> float:
    """Return eps of an attack if it can be given a budget per pixel; see `check_linf`."""
    return check_linf(getattr(attack, "norm", None), getattr(attack, "eps", None), type(attack).__name__)


def lift(attack: Any, **options: Any) -> PixelEvasionBase:
    """Return the Pixel-AG form of an ART attack; one that has a budget already is returned as it is.

    A plain PGD becomes `PixelProjectedGradientDescent` with the same settings, another l_inf attack
    is wrapped in `PixelEvasionAttack`, and what can be neither is refused by name.

    :param attack: The attack.
    :param options: eps_low, budget, cam, target_layers, reshape_transform, rule, target.

    Raises:
        TypeError: `attack` is no EvasionAttack.
        ValueError: One that cannot be given a budget per pixel, or options for one that has a budget already.
    """
    if isinstance(attack, PixelEvasionBase):
        given = [f"{name}={value}" for name, value in options.items() if value is not None]
        if given:
            raise ValueError(f"{given[0]} does not go with {type(attack).__name__}, which has a budget already")
        return attack
    if not isinstance(attack, EvasionAttack):
        raise TypeError(f"attacks holds a {type(attack).__name__}; ART EvasionAttack instances are needed")
    linf_radius(attack)  # by the name that the user knows it under
    inner = getattr(attack, "_attack", attack)
    plain = (ProjectedGradientDescent, ProjectedGradientDescentPyTorch, BasicIterativeMethod)
    if type(attack) not in plain or inner.decay is not None or inner.random_eps:
        return PixelEvasionAttack(attack, **options)
    kept = ("norm", "eps", "eps_step", "max_iter", "targeted", "num_random_init", "batch_size", "verbose")
    settings = {name: getattr(attack, name) for name in kept}
    return PixelProjectedGradientDescent(attack.estimator, **settings, **options)
