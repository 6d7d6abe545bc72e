"""`PixelAttack`: any other l_inf attack of torchattacks with a radius per pixel."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchattacks import LGV, PIFGSM, PIFGSMPP, TIFGSM, MultiAttack
from torchattacks.attack import Attack

from ...attacks.change_of_variable import change_of_variable, pull_back
from ...attacks.projection import relative_radii
from ...budget import set_radius
from ...checks import check_class_range, check_number, check_within
from ...network.view import logits_of
from ...pixel_budget import BudgetOptions, make_budget
from .base import UNIT, PixelAttackBase
from .minimum_margin import MMA

if TYPE_CHECKING:
    from typing_extensions import Unpack


_RADII = ("eps", "max_epsilon")  # what torchattacks calls it
_FOR_COLOURS = (PIFGSM, PIFGSMPP, TIFGSM)  # whose kernels have 3 channels


class PixelAttack(PixelAttackBase):
    r"""
    Any l_inf attack of torchattacks (FGSM, BIM, MIFGSM, APGD, ...) with a radius per pixel, by a
    change of variable: the attack runs, unchanged, on g(z) = f(x + m * (z - x)) with m = radius / eps,
    and its result z becomes x + m * (z - x), which never leaves the budget.

    Distance Measure : Linf

    Arguments:
        attack (torchattacks.Attack): attack with a numeric `eps` (PIFGSM: `max_epsilon`); its model, normalisation and
            mode are taken over. Instead of a MultiAttack wrap each of its attacks, instead of LGV its `attack_class`.
        eps_low (float): maximum perturbation of unimportant pixels.
            (Default: None, 7/8 of attack.eps, the paper's ratio)
        budget: a budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
            (Default: None)
        **options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

    Shape:
        - images: :math:`(N, C, H, W)`, range [0, 1], or normalised after `set_normalization_used`.
        - labels: :math:`(N)`; without labels the predicted classes take their place.
        - important: :math:`(N, 1, H, W)`, by keyword, bool or weights in [0, 1]: taken in place of a map.
        - output: :math:`(N, C, H, W)`.

    Examples::
        >>> attack = part_plugin.PixelAttack(torchattacks.MIFGSM(model, eps=8/255))
        >>> adv_images = attack(images, labels)

    """

    def __init__(
        self,
        attack: Attack,
        *,
        eps_low: float | None = None,
        budget: Any = None,
        **options: Unpack[BudgetOptions],
    ):
        self._radius, eps = _linf_radius(attack)
        budget = make_budget(eps, eps_low, budget, **options)
        if budget.eps > eps * (1 + 1e-6):  # a radius in single precision may round up
            raise ValueError(f"budget reaches {budget.eps:g}, further than eps={eps:g} of {attack.attack}")
        super().__init__(f"PixelAttack[{attack.attack}]", attack.model, budget)
        self._untargeted_because = f"{attack.attack} has none"
        self.base_attack = attack  # torchattacks passes every later setting on to an attribute like this
        for setting in (
            "device", "attack_mode", "supported_mode", "targeted", "_target_map_function",
            "normalization_used", "_normalization_applied",
            "_model_training", "_batchnorm_training", "_dropout_training",
        ):  # fmt: skip
            setattr(self, setting, getattr(attack, setting))

    @property
    def eps(self) -> float:
        """Radius of the wrapped attack, that of the important pixels."""
        return float(getattr(self.base_attack, self._radius))

    @eps.setter
    def eps(self, value: float) -> None:
        set_radius(self.budget, "eps", check_within("eps", check_number("eps", value), UNIT))
        before = self.eps
        for attack in (self.base_attack, *self.base_attack._attacks.values()):  # AutoAttack gave it to each
            if getattr(attack, self._radius, None) == before:
                setattr(attack, self._radius, value)

    def forward(self, images: Tensor, labels: Tensor | None = None, *, important: Tensor | None = None) -> Tensor:
        r"""
        Overridden.
        """
        images = self._images(images)
        _check_colours(self.base_attack, images)
        labels = self._labels(labels, images)
        view = self._view()
        with torch.no_grad():
            check_class_range(labels, logits_of(view, images[:1]).shape[1])
        radii = self.budget.radii(view, images, labels, important)
        mask = relative_radii(radii, self.eps)
        network_input = images if view.preprocess is None else view.preprocess(images)
        with change_of_variable(self.model, network_input, mask):
            z = self.base_attack.forward(images, labels)
        _check_result(self.base_attack, z, images)
        return pull_back(images, z.detach(), radii, mask)


def _check_colours(attack: Attack, images: Tensor) -> None:
    if images.shape[1] != 3 and isinstance(attack, _FOR_COLOURS):
        raise ValueError(f"images have {images.shape[1]} channels; {attack.attack} takes 3 alone")


def _check_result(attack: Attack, z: Any, images: Tensor) -> None:
    if not isinstance(z, Tensor) or z.shape != images.shape:
        found = tuple(z.shape) if isinstance(z, Tensor) else f"a {type(z).__name__}"
        raise ValueError(f"{attack.attack} returned {found}; images of shape {tuple(images.shape)} are needed")


def _linf_radius(attack: Any) -> tuple[str, float]:
    """Return name and value of the radius of an attack that a budget per pixel makes sense for, or say why not.

    Raises:
        TypeError: no torchattacks Attack.
        ValueError: one of another norm, without a number eps, or with a budget per pixel already.
    """
    if isinstance(attack, type):
        raise TypeError(f"attack is the class {attack.__name__}; an attack is needed: {attack.__name__}(model)")
    if not isinstance(attack, Attack):
        raise TypeError(f"attack is a {type(attack).__name__}; a torchattacks Attack is needed")
    if isinstance(attack, MultiAttack):
        raise ValueError("attack=MultiAttack has no radius; wrap its attacks: MultiAttack([PixelAttack(attack), ...])")
    if isinstance(attack, LGV):
        made = "LGV(..., attack_class=PixelPGD, n_grad=-1)"
        raise ValueError(f"attack=LGV makes its attack later: {made} has a budget per pixel")
    name = next((name for name in _RADII if isinstance(getattr(attack, name, None), Real)), "eps")
    eps, norm = getattr(attack, name, None), getattr(attack, "norm", "Linf")
    if isinstance(attack, PixelAttackBase) and not isinstance(attack, MMA):
        raise ValueError(f"attack={attack.attack} has a budget per pixel already")
    if norm != "Linf" or not isinstance(eps, Real) or "L2" in type(attack).__name__:
        raise ValueError(
            f"attack={attack.attack} cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)"
        )
    return name, float(eps)
