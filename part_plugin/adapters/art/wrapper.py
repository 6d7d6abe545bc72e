"""`PixelEvasionAttack`: any other l_inf attack of ART with a radius per pixel."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import TargetedUniversalPerturbation, UniversalPerturbation
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from torch import Tensor, nn

from ...attacks.change_of_variable import change_of_variable, pull_back
from ...attacks.projection import relative_radii
from ...budget import set_radius
from ...checks import check_number, check_within
from ...network.isolation import callers_own, gradients_kept
from ...network.view import network_of
from ...pixel_budget import BudgetOptions, make_budget
from .base import PixelEvasionBase, check_linf
from .bound import BoundAttack
from .classifier import REQUIREMENTS, check_classifier, one_hot
from .settings import FOLLOWED, Watched, parts_of, plain

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PixelEvasionAttack(PixelEvasionBase):
    """
    Any l_inf attack of ART with a radius per pixel, by a change of variable: the attack runs, unchanged, on
    g(z) = f(x + m * (z - x)) with m = radius / eps, and its result z becomes x + m * (z - x).

    | Paper link: https://arxiv.org/abs/2406.00685
    """

    _own_params = (*EvasionAttack.attack_params, "eps", "eps_low", "budget", "batch_size", "verbose")
    _estimator_requirements = REQUIREMENTS

    def __init__(
        self,
        attack: EvasionAttack,
        *,
        eps_low: float | None = None,
        budget: Any = None,
        clip: Any = None,
        **options: Unpack[BudgetOptions],
    ) -> None:
        """
        Create a :class:`.PixelEvasionAttack` instance.

        :param attack: An attack with `norm` infinity and a number `eps`; its settings are kept, and followed where
                       they are changed later.
        :param eps_low: Maximum perturbation of unimportant pixels; default 7/8 of `attack.eps`.
        :param budget: A budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
        :param clip: Smallest and largest pixel value, for a classifier without `clip_values`.
        :param options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

        Raises:
            EstimatorError: An attack on something else than a PyTorchClassifier.
            TypeError: `attack` is no EvasionAttack.
            ValueError: An attack or a budget that is not allowed; the sentence names it.
        """
        if not isinstance(attack, EvasionAttack):
            raise TypeError(f"attack is {kind_of(attack)}; an ART EvasionAttack is needed")
        if isinstance(attack, PixelEvasionBase):
            raise ValueError(f"attack is a {type(attack).__name__}, which has a budget per pixel already")
        check_classifier(attack.estimator, type(self), clip)
        self.attack = attack
        self.attack_params = [
            *self._own_params,
            *(name for name in attack.attack_params if name not in self._own_params),
        ]
        self._clip = clip
        self._estimator = attack.estimator
        self._radius = check_within("eps", linf_radius(attack), self.clip)
        self.budget = make_budget(self._radius, eps_low, budget, **options)
        self._follows_eps = budget is None
        self._watched = self._watch()
        super().__init__(estimator=attack.estimator)
        self._check_params()
        self.verbose = False

    def _check_params(self) -> None:
        super()._check_params()
        linf_radius(self.attack)
        check_within("eps", check_number("eps", self.eps), self.clip)
        if self.budget.eps > self.eps * (1 + 1e-6):  # a radius in single precision may round up
            name = type(self.attack).__name__
            raise ValueError(f"budget reaches {self.budget.eps:g}, further than eps={self.eps:g} of {name}")

    def _set_params(self, **kwargs: Any) -> None:
        own = {
            name: kwargs.pop(name)
            for name in tuple(kwargs)
            if name in self._own_params or name not in self.attack_params
        }
        if isinstance(own.get("eps"), np.ndarray):
            check_linf(getattr(self.attack, "norm", None), own["eps"], type(self.attack).__name__)
        if kwargs:
            self.attack.set_params(**kwargs)
        super()._set_params(**own)

    def _changed_with_it(self) -> list[Any]:
        return parts_of(self.attack)

    @property
    def origin(self) -> EvasionAttack:
        """The wrapped attack."""
        return self.attack

    def follow(self) -> None:
        """Take over an eps that was changed on the wrapped attack, all of whose other settings are its own anyway."""
        self._watched.follow(self._follow)

    def _watch(self) -> Watched:
        return Watched(self.attack, FOLLOWED if hasattr(self.attack, "_attack") else ("eps",))

    def _follow(self, **changed: Any) -> None:
        check_within("eps", check_number("eps", linf_radius(self.attack)), self.clip)
        random = getattr(self.attack, "random_eps", False)  # drawn anew for every batch, from those up to our radius
        if "eps" in changed and not random:
            if self._follows_eps:
                set_radius(self.budget, "eps", plain(changed["eps"]))
            self._radius = float(changed["eps"])
        if hasattr(self.attack, "_attack"):
            self.attack.set_params(**changed)  # a changed attribute does not reach the one that does its work

    @property
    def eps(self) -> float:
        """Radius of the wrapped attack, that of the important pixels."""
        return self._radius

    @eps.setter
    def eps(self, value: float) -> None:
        value = check_within("eps", check_number("eps", value), self.clip)
        set_radius(self.budget, "eps", value)
        self.attack.set_params(eps=value)
        self._radius, self._watched = value, self._watch()

    @property
    def batch_size(self) -> int:
        """Batch size of the wrapped attack."""
        return int(getattr(self.attack, "batch_size", 32))

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self.attack.set_params(batch_size=value)

    def _rows_at_once(self, n: int) -> int:
        universal = isinstance(self.attack, (UniversalPerturbation, TargetedUniversalPerturbation))
        return n if universal else self.batch_size  # one perturbation is made for all images

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
        targets = one_hot(labels, self.estimator.nb_classes)  # the form that every attack of ART takes
        network = network_of(view)
        bound = BoundAttack(self.attack, self.estimator.model, network)
        with gradients_kept(network), ExitStack() as changed:
            for classifier in bound.classifiers:
                if classifier.model is not network:  # an attack that was made on another network
                    changed.enter_context(callers_own(classifier.model))
                gate = nn.Identity()  # before everything else that a classifier does with its images
                changed.enter_context(change_of_variable(gate, images, mask))
                classifier.preprocessing_operations.insert(0, _Gate(gate, classifier.device_type))
            z = bound.attack.generate(images.cpu().numpy(), targets.cpu().numpy())
        bound.report()
        z = torch.from_numpy(z).to(images)
        return pull_back(images, z, radii, mask, self.clip)


class _Gate(PreprocessorPyTorch):
    """A module as a preprocessing of ART's."""

    def __init__(self, module: nn.Module, device_type: str) -> None:
        super().__init__(device_type=device_type, is_fitted=True, apply_fit=False, apply_predict=True)
        self.module = module

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        return self.module(x).to(x.dtype), y


def linf_radius(attack: EvasionAttack) -> float:
    """Return eps of an attack if it can be given a budget per pixel; see `check_linf`."""
    return check_linf(getattr(attack, "norm", None), getattr(attack, "eps", None), type(attack).__name__)


def kind_of(value: Any) -> str:
    """Return what a value is that is no attack, for a message."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
