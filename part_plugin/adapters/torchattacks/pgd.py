"""`PixelPGD` and `PixelTPGD`: torchattacks' PGD and TPGD with a radius per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...attacks.pixel_ag import pixel_ag
from ...attacks.projection import gaussian_start, uniform_start
from ...checks import check_count, check_flag, class_indices
from ...network.fast import accelerated, check_fast
from ...network.view import logits_of
from ...objectives import AT, TRADES, ascent
from ...pixel_budget import BudgetOptions, make_budget
from .base import PixelAttackBase, check_alpha

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PixelPGD(PixelAttackBase):
    r"""
    PGD in the paper 'Towards Deep Learning Models Resistant to Adversarial Attacks'
    [https://arxiv.org/abs/1706.06083] with a radius per pixel, as in 'Improving Accuracy-robustness
    Trade-off via Pixel Reweighted Adversarial Training' [https://arxiv.org/abs/2406.00685]

    Distance Measure : Linf

    Arguments:
        model (nn.Module): model to attack; its current weights are used at every call.
        eps (float): maximum perturbation of important pixels. (Default: 8/255)
        alpha (float): step size. (Default: 2/255)
        steps (int): number of steps. (Default: 10)
        random_start (bool): using random initialization of delta, inside the budget. (Default: True)
        eps_low (float): maximum perturbation of the others; equal to eps it is torchattacks.PGD.
            (Default: None, 7/8 of eps, the paper's ratio)
        budget: a budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
            (Default: None)
        fast (str or tuple): options that make it cheaper and its gradients approximate; see
            `part_plugin.network.fast.FAST`. (Default: ())
        **options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

    Shape:
        - images: :math:`(N, C, H, W)`, range [0, 1], or normalised after `set_normalization_used`.
        - labels: :math:`(N)`; without labels the predicted classes take their place.
        - important: :math:`(N, 1, H, W)`, by keyword, bool or weights in [0, 1]: taken in place of a map.
        - output: :math:`(N, C, H, W)`.

    Examples::
        >>> attack = part_plugin.PixelPGD(model, eps=8/255, alpha=2/255, steps=10)
        >>> adv_images = attack(images, labels)

    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
        *,
        eps_low: float | None = None,
        budget: Any = None,
        fast: str | Sequence[str] = (),
        **options: Unpack[BudgetOptions],
    ):
        alpha, steps = check_alpha(alpha), check_count("steps", steps)
        super().__init__("PixelPGD", model, make_budget(eps, eps_low, budget, **options))
        self.alpha = alpha
        self.steps = steps
        self.random_start = check_flag("random_start", random_start)
        self.fast = check_fast(fast)
        self.supported_mode = ["default", "targeted"]

    def forward(self, images: Tensor, labels: Tensor | None = None, *, important: Tensor | None = None) -> Tensor:
        r"""
        Overridden.
        """
        images = self._images(images)
        labels = self._labels(labels, images)
        view = self._view()
        radii = self.budget.radii(view, images, labels, important)
        aim = class_indices(self.get_target_label(images, labels), len(images)) if self.targeted else labels
        start = uniform_start(images, radii, self.eps) if self.random_start else None
        with accelerated(view, images, self.fast) as attacked:
            loss = ascent(attacked, AT(), aim, sign=-1 if self.targeted else 1)
            return pixel_ag(loss, images, radii, self.alpha, self.steps, start)


class PixelTPGD(PixelAttackBase):
    r"""
    The attack of 'Theoretically Principled Trade-off between Robustness and Accuracy'
    [https://arxiv.org/abs/1901.08573], which maximises the KL-divergence from the natural output,
    with a radius per pixel, as in [https://arxiv.org/abs/2406.00685]

    Distance Measure : Linf

    Arguments:
        model (nn.Module): model to attack; its current weights are used at every call.
        eps (float): maximum perturbation of important pixels. (Default: 8/255)
        alpha (float): step size. (Default: 2/255)
        steps (int): number of steps. (Default: 10)
        eps_low (float): maximum perturbation of the others; equal to eps it is torchattacks.TPGD.
            (Default: None, 7/8 of eps, the paper's ratio)
        budget: a budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
            (Default: None)
        **options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

    Shape:
        - images: :math:`(N, C, H, W)`, range [0, 1], or normalised after `set_normalization_used`.
        - labels: only looked at by a budget with target="true".
        - important: :math:`(N, 1, H, W)`, by keyword, bool or weights in [0, 1]: taken in place of a map.
        - output: :math:`(N, C, H, W)`.

    Examples::
        >>> attack = part_plugin.PixelTPGD(model, eps=8/255, alpha=2/255, steps=10)
        >>> adv_images = attack(images)

    """

    _untargeted_because = "it leaves the natural output, whatever class that is"

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        *,
        eps_low: float | None = None,
        budget: Any = None,
        **options: Unpack[BudgetOptions],
    ):
        alpha, steps = check_alpha(alpha), check_count("steps", steps)
        super().__init__("PixelTPGD", model, make_budget(eps, eps_low, budget, **options))
        self.alpha = alpha
        self.steps = steps
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Tensor | None = None, *, important: Tensor | None = None) -> Tensor:
        r"""
        Overridden.
        """
        images = self._images(images)
        view = self._view()
        classes = None if labels is None else self._labels(labels, images)
        radii = self.budget.radii(view, images, classes, important)
        with torch.no_grad():
            natural_logits = logits_of(view, images)
        loss = ascent(view, TRADES(), natural_logits.argmax(1), natural_logits)
        return pixel_ag(loss, images, radii, self.alpha, self.steps, gaussian_start(images, radii))
