"""`PixelAttack`: any other l_inf attack of torchattacks with a radius per pixel."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torchattacks.attack import Attack

from ...attacks.change_of_variable import change_of_variable, pull_back
from ...attacks.projection import relative_radii
from ...budget import set_radius
from ...checks import check_number, check_within
from ...pixel_budget import BudgetOptions, make_budget
from .base import UNIT, PixelAttackBase
from .minimum_margin import MMA

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PixelAttack(PixelAttackBase):
    r"""
    Any l_inf attack of torchattacks (FGSM, BIM, MIFGSM, APGD, ...) with a radius per pixel, by a
    change of variable: the attack runs, unchanged, on g(z) = f(x + m * (z - x)) with m = radius / eps,
    and its result z becomes x + m * (z - x), which never leaves the budget.

    Distance Measure : Linf

    Arguments:
        attack (torchattacks.Attack): attack with a numeric `eps`; its model, normalisation and mode are taken over.
        eps_low (float): maximum perturbation of unimportant pixels.
            (Default: None, 7/8 of attack.eps, the paper's ratio)
        budget: a budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
            (Default: None)
        **options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

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
        eps = _linf_radius(attack)
        budget = make_budget(eps, eps_low, budget, **options)
        if budget.eps > eps * (1 + 1e-6):  # a radius in single precision may round up
            raise ValueError(f"budget reaches {budget.eps:g}, further than eps={eps:g} of {attack.attack}")
        super().__init__(f"PixelAttack[{attack.attack}]", attack.model, budget)
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
        return float(self.base_attack.eps)

    @eps.setter
    def eps(self, value: float) -> None:
        set_radius(self.budget, "eps", check_within("eps", check_number("eps", value), UNIT))
        self.base_attack.eps = value

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        r"""
        Overridden.
        """
        images = self._images(images)
        labels = self._labels(labels, images)
        view = self._view()
        radii = self.budget.radii(view, images, labels)
        mask = relative_radii(radii, self.eps)
        network_input = images if view.preprocess is None else view.preprocess(images)
        with change_of_variable(self.model, network_input, mask):
            z = self.base_attack.forward(images, labels)
        return pull_back(images, z.detach(), radii, mask)


def _linf_radius(attack: Any) -> float:
    """Return eps of an attack that a budget per pixel makes sense for, or say why it makes none.

    Raises:
        TypeError: no torchattacks Attack.
        ValueError: one of another norm, without a number eps, or with a budget per pixel already.
    """
    if not isinstance(attack, Attack):
        raise TypeError(f"attack is a {type(attack).__name__}; a torchattacks Attack is needed")
    eps, norm = getattr(attack, "eps", None), getattr(attack, "norm", "Linf")
    if isinstance(attack, PixelAttackBase) and not isinstance(attack, MMA):
        raise ValueError(f"attack={attack.attack} has a budget per pixel already")
    if norm != "Linf" or not isinstance(eps, Real) or "L2" in type(attack).__name__:
        raise ValueError(
            f"attack={attack.attack} cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)"
        )
    return float(eps)
