"""`MMA` and `PixelMMA`: the minimum-margin attack, plain and with a radius per pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...attacks.minimum_margin import MinimumMargin
from ...attacks.projection import uniform_start
from ...budget import Budget, FixedBudget
from ...checks import check_count, check_flag, check_number, check_within
from ...pixel_budget import BudgetOptions, make_budget
from .base import UNIT, PixelAttackBase, check_alpha

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _MinimumMarginAttack(PixelAttackBase):
    _untargeted_because = "it chooses its targets itself, the most likely wrong classes"

    def __init__(
        self, name: str, model: nn.Module, budget: Budget, alpha: float, steps: int, random_start: bool, targets: int
    ):
        alpha, steps = check_alpha(alpha), check_count("steps", steps)
        targets = check_count("targets", targets)
        super().__init__(name, model, budget)
        self.alpha = alpha
        self.steps = steps
        self.random_start = check_flag("random_start", random_start)
        self.targets = targets
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Tensor | None = None, *, important: Tensor | None = None) -> Tensor:
        r"""
        Overridden.
        """
        images = self._images(images)
        labels = self._labels(labels, images)
        view = self._view()
        radii = self.budget.radii(view, images, labels, important)
        start = uniform_start(images, radii, self.eps) if self.random_start else None
        attack = MinimumMargin(view, images, labels, radii, self.alpha, start, targets=self.targets)
        return attack.advance(self.steps)


class MMA(_MinimumMarginAttack):
    r"""
    MM attack in the paper 'Fast and Reliable Evaluation of Adversarial Robustness with Minimum-Margin Attack'
    [https://arxiv.org/abs/2206.07314], with steps of a fixed size; see `part_plugin.attacks.minimum_margin`.

    Distance Measure : Linf

    Arguments:
        model (nn.Module): model to attack; its current weights are used at every call.
        eps (float): maximum perturbation. (Default: 8/255)
        alpha (float): step size. (Default: 2/255)
        steps (int): number of steps for each target. (Default: 20)
        random_start (bool): using random initialization of delta. (Default: True)
        targets (int): number of target classes, the most likely wrong ones. (Default: 3)

    Shape:
        - images: :math:`(N, C, H, W)`, range [0, 1], or normalised after `set_normalization_used`.
        - labels: :math:`(N)`; without labels the predicted classes take their place.
        - output: :math:`(N, C, H, W)`.

    Examples::
        >>> attack = part_plugin.MMA(model, eps=8/255, alpha=2/255, steps=20)
        >>> adv_images = attack(images, labels)

    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 20,
        random_start: bool = True,
        targets: int = 3,
    ):
        super().__init__("MMA", model, FixedBudget(check_number("eps", eps)), alpha, steps, random_start, targets)

    @property
    def eps(self) -> float:
        """Radius of every pixel."""
        return self.budget.eps

    @eps.setter
    def eps(self, value: float) -> None:
        self.budget = FixedBudget(check_within("eps", check_number("eps", value), UNIT))


class PixelMMA(_MinimumMarginAttack):
    r"""
    The attack of `MMA` with a radius per pixel, as in 'Improving Accuracy-robustness Trade-off via Pixel Reweighted
    Adversarial Training' [https://arxiv.org/abs/2406.00685], Appendix H.1 and H.4

    Distance Measure : Linf

    Arguments:
        model (nn.Module): model to attack; its current weights are used at every call.
        eps (float): maximum perturbation of important pixels. (Default: 8/255)
        alpha (float): step size. (Default: 2/255)
        steps (int): number of steps for each target. (Default: 20)
        random_start (bool): using random initialization of delta, inside the budget. (Default: True)
        targets (int): number of target classes, the most likely wrong ones. (Default: 3)
        eps_low (float): maximum perturbation of the others; equal to eps it is `MMA`.
            (Default: None, 7/8 of eps, the paper's ratio)
        budget: a budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
            (Default: None)
        **options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

    Shape:
        - images: :math:`(N, C, H, W)`, range [0, 1], or normalised after `set_normalization_used`.
        - labels: :math:`(N)`; without labels the predicted classes take their place.
        - important: :math:`(N, 1, H, W)`, by keyword, bool or weights in [0, 1]: taken in place of a map.
        - output: :math:`(N, C, H, W)`.

    Examples::
        >>> attack = part_plugin.PixelMMA(model, eps=8/255, alpha=2/255, steps=20)
        >>> adv_images = attack(images, labels)

    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 20,
        random_start: bool = True,
        targets: int = 3,
        *,
        eps_low: float | None = None,
        budget: Any = None,
        **options: Unpack[BudgetOptions],
    ):
        budget = make_budget(eps, eps_low, budget, **options)
        super().__init__("PixelMMA", model, budget, alpha, steps, random_start, targets)
