"""Pixel-AG as torchattacks attacks: `PixelPGD`, `PixelTPGD`, `PixelMMA`, and `PixelAttack` around any other; `MMA`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack

from ..budget import Budget, FixedBudget, PixelBudget
from ..cam import Layer
from ..checks import check_count, check_images, check_number, class_indices
from ..objectives import AT, TRADES, ascent
from ..pixel_ag import MinimumMargin, change_of_variable, gaussian_start, pixel_ag, pull_back, share, uniform_start
from ..surrogate import ModelView, check_fast, lean, logits_of, sped_up, undisturbed

_RANGE_HINT = "; call set_normalization_used(mean, std) or move the normalisation into the model"


class _PixelAttack(Attack):
    """What the attacks here share: a budget, input checks, and a model left as it was found."""

    def __init__(self, name: str, model: nn.Module, budget: Budget):
        super().__init__(name, model)
        self.budget = budget

    @property
    def eps(self) -> float:
        """Largest radius, that of the important pixels."""
        return self.budget.eps

    @eps.setter
    def eps(self, value: float) -> None:
        self.budget.eps = check_number("eps", value)

    @property
    def eps_low(self) -> float:
        """Radius of the other pixels."""
        return self.budget.eps_low

    @eps_low.setter
    def eps_low(self, value: float) -> None:
        self.budget.eps_low = check_number("eps_low", value)

    def __call__(self, inputs: Tensor, labels: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        self._follow_model()
        applied = self._normalization_applied
        try:
            with undisturbed(self.model):
                return super().__call__(inputs, labels, *args, **kwargs)
        finally:
            if self._normalization_applied is not applied:
                self._set_normalization_applied(applied)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """Save adversarial inputs from a data loader; see `torchattacks.attack.Attack.save`."""
        with undisturbed(self.model):
            return super().save(*args, **kwargs)

    def _follow_model(self) -> None:
        """Work where the model is now, which need not be where it was when the attack was made."""
        device = next((parameter.device for parameter in self.model.parameters()), self.device)
        if device != self.device:
            self.set_device(device)

    def _view(self) -> ModelView:
        """The model in the units of the images, [0, 1]."""
        return ModelView(self.model, self.normalize if self._normalization_applied is False else None)

    def _images(self, images: Tensor) -> Tensor:
        """Return a copy of the images on the model's device, if they are what they should be."""
        check_images(images, hint=_RANGE_HINT)
        return images.clone().detach().to(self.device)

    def _labels(self, labels: Tensor | None, images: Tensor) -> Tensor:
        """Return class indices on the model's device; without labels the predicted classes."""
        if labels is None:
            with torch.no_grad():
                return logits_of(self._view(), images).argmax(1)
        return class_indices(labels, len(images)).clone().detach().to(self.device)


class PixelPGD(_PixelAttack):
    r"""
    PGD in the paper 'Towards Deep Learning Models Resistant to Adversarial Attacks'
    [https://arxiv.org/abs/1706.06083] with a radius per pixel, as in 'Improving Accuracy-robustness
    Trade-off via Pixel Reweighted Adversarial Training' [https://arxiv.org/abs/2406.00685]

    Distance Measure : Linf

    Arguments:
        model (nn.Module): model to attack; its current weights are used at every call.
        eps (float): maximum perturbation of important pixels. (Default: 8/255)
        eps_low (float): maximum perturbation of the others; equal to eps it is torchattacks.PGD. (Default: 7/255)
        alpha (float): step size. (Default: 2/255)
        steps (int): number of steps. (Default: 10)
        random_start (bool): using random initialization of delta, inside the budget. (Default: True)
        cam (str or type): see `class_activation_map`. (Default: "gradcam")
        target_layers: modules or dotted names; None finds the last with spatial extent. (Default: None)
        budget: a budget to use instead of one made from the arguments. (Default: None)
        fast (str or tuple): options that make it cheaper and its gradients approximate; see
            `part_plugin.surrogate.FAST`. (Default: ())
        **budget_options: reshape_transform, threshold, target; see `PixelBudget`.

    Shape:
        - images: :math:`(N, C, H, W)`, range [0, 1], or normalised after `set_normalization_used`.
        - labels: :math:`(N)`; without labels the predicted classes take their place.
        - output: :math:`(N, C, H, W)`.

    Examples::
        >>> attack = part_plugin.PixelPGD(model, eps=8/255, eps_low=7/255, alpha=2/255, steps=10)
        >>> adv_images = attack(images, labels)

    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        eps_low: float = 7 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
        cam: str | type = "gradcam",
        target_layers: Layer | Sequence[Layer] | None = None,
        budget: Budget | None = None,
        fast: str | Sequence[str] = (),
        **budget_options: Any,
    ):
        budget = budget or PixelBudget(eps, eps_low, cam, target_layers, **budget_options)
        alpha, steps = check_number("alpha", alpha, above=True), check_count("steps", steps)
        super().__init__("PixelPGD", model, budget)
        self.alpha = alpha
        self.steps = steps
        self.random_start = random_start
        self.fast = check_fast(fast)
        self.supported_mode = ["default", "targeted"]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        r"""
        Overridden.
        """
        images = self._images(images)
        labels = self._labels(labels, images)
        view = self._view()
        radii = self.budget(view, images, labels)
        aim = self.get_target_label(images, labels) if self.targeted else labels
        start = uniform_start(images, radii, self.eps) if self.random_start else None
        with lean(view) if self.fast else nullcontext(), sped_up(view, images, self.fast) as attacked:
            loss = ascent(attacked, AT(), aim, sign=-1 if self.targeted else 1)
            return pixel_ag(loss, images, radii, self.alpha, self.steps, start)


class PixelTPGD(_PixelAttack):
    r"""
    The attack of 'Theoretically Principled Trade-off between Robustness and Accuracy'
    [https://arxiv.org/abs/1901.08573], which maximises the KL-divergence from the natural output,
    with a radius per pixel, as in [https://arxiv.org/abs/2406.00685]

    Distance Measure : Linf

    Arguments:
        model (nn.Module): model to attack; its current weights are used at every call.
        eps (float): maximum perturbation of important pixels. (Default: 8/255)
        eps_low (float): maximum perturbation of the others; equal to eps it is torchattacks.TPGD. (Default: 7/255)
        alpha (float): step size. (Default: 2/255)
        steps (int): number of steps. (Default: 10)
        cam, target_layers, budget, **budget_options: as in `PixelPGD`.

    Shape:
        - images: :math:`(N, C, H, W)`, range [0, 1], or normalised after `set_normalization_used`.
        - labels: only looked at by a budget with target="true".
        - output: :math:`(N, C, H, W)`.

    Examples::
        >>> attack = part_plugin.PixelTPGD(model, eps=8/255, eps_low=7/255, alpha=2/255, steps=10)
        >>> adv_images = attack(images)

    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        eps_low: float = 7 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        cam: str | type = "gradcam",
        target_layers: Layer | Sequence[Layer] | None = None,
        budget: Budget | None = None,
        **budget_options: Any,
    ):
        budget = budget or PixelBudget(eps, eps_low, cam, target_layers, **budget_options)
        alpha, steps = check_number("alpha", alpha, above=True), check_count("steps", steps)
        super().__init__("PixelTPGD", model, budget)
        self.alpha = alpha
        self.steps = steps
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        r"""
        Overridden.
        """
        images = self._images(images)
        view = self._view()
        radii = self.budget(view, images, None if labels is None else self._labels(labels, images))
        with torch.no_grad():
            natural_logits = logits_of(view, images)
        loss = ascent(view, TRADES(), natural_logits.argmax(1), natural_logits)
        return pixel_ag(loss, images, radii, self.alpha, self.steps, gaussian_start(images, radii))


class _MinimumMarginAttack(_PixelAttack):
    def __init__(
        self, name: str, model: nn.Module, budget: Budget, alpha: float, steps: int, random_start: bool, targets: int
    ):
        alpha, steps = check_number("alpha", alpha, above=True), check_count("steps", steps)
        targets = check_count("targets", targets)
        super().__init__(name, model, budget)
        self.alpha = alpha
        self.steps = steps
        self.random_start = random_start
        self.targets = targets
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        r"""
        Overridden.
        """
        images = self._images(images)
        labels = self._labels(labels, images)
        view = self._view()
        radii = self.budget(view, images, labels)
        start = uniform_start(images, radii, self.eps) if self.random_start else None
        attack = MinimumMargin(view, images, labels, radii, self.alpha, start, targets=self.targets)
        return attack.advance(self.steps)


class MMA(_MinimumMarginAttack):
    r"""
    MM attack in the paper 'Fast and Reliable Evaluation of Adversarial Robustness with Minimum-Margin Attack'
    [https://arxiv.org/abs/2206.07314], with steps of a fixed size; see `part_plugin.pixel_ag.MinimumMargin`.

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
        self.budget = FixedBudget(check_number("eps", value))


class PixelMMA(_MinimumMarginAttack):
    r"""
    The attack of `MMA` with a radius per pixel, as in 'Improving Accuracy-robustness Trade-off via Pixel Reweighted
    Adversarial Training' [https://arxiv.org/abs/2406.00685], Appendix H.1 and H.4

    Distance Measure : Linf

    Arguments:
        model (nn.Module): model to attack; its current weights are used at every call.
        eps (float): maximum perturbation of important pixels. (Default: 8/255)
        eps_low (float): maximum perturbation of the others; equal to eps it is `MMA`. (Default: 7/255)
        alpha (float): step size. (Default: 2/255)
        steps (int): number of steps for each target. (Default: 20)
        random_start (bool): using random initialization of delta, inside the budget. (Default: True)
        targets (int): number of target classes, the most likely wrong ones. (Default: 3)
        cam, target_layers, budget, **budget_options: as in `PixelPGD`.

    Shape:
        - images: :math:`(N, C, H, W)`, range [0, 1], or normalised after `set_normalization_used`.
        - labels: :math:`(N)`; without labels the predicted classes take their place.
        - output: :math:`(N, C, H, W)`.

    Examples::
        >>> attack = part_plugin.PixelMMA(model, eps=8/255, eps_low=7/255, alpha=2/255, steps=20)
        >>> adv_images = attack(images, labels)

    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        eps_low: float = 7 / 255,
        alpha: float = 2 / 255,
        steps: int = 20,
        random_start: bool = True,
        targets: int = 3,
        cam: str | type = "gradcam",
        target_layers: Layer | Sequence[Layer] | None = None,
        budget: Budget | None = None,
        **budget_options: Any,
    ):
        budget = budget or PixelBudget(eps, eps_low, cam, target_layers, **budget_options)
        super().__init__("PixelMMA", model, budget, alpha, steps, random_start, targets)


class PixelAttack(_PixelAttack):
    r"""
    Any l_inf attack of torchattacks (FGSM, BIM, MIFGSM, APGD, ...) with a radius per pixel, by a
    change of variable: the attack runs, unchanged, on g(z) = f(x + m * (z - x)) with m = radius / eps,
    and its result z becomes x + m * (z - x), which never leaves the budget.

    Distance Measure : Linf

    Arguments:
        attack (torchattacks.Attack): attack with a numeric `eps`; its model, normalisation and mode are taken over.
        eps_low (float): maximum perturbation of unimportant pixels. (Default: 7/8 of attack.eps, the paper's ratio)
        cam, target_layers, budget, **budget_options: as in `PixelPGD`.

    Examples::
        >>> attack = part_plugin.PixelAttack(torchattacks.MIFGSM(model, eps=8/255), eps_low=7/255)
        >>> adv_images = attack(images, labels)

    """

    def __init__(
        self,
        attack: Attack,
        eps_low: float | None = None,
        cam: str | type = "gradcam",
        target_layers: Layer | Sequence[Layer] | None = None,
        budget: Budget | None = None,
        **budget_options: Any,
    ):
        eps = _linf_radius(attack)
        if budget is None:
            budget = PixelBudget(eps, 7 / 8 * eps if eps_low is None else eps_low, cam, target_layers, **budget_options)
        elif budget.eps > eps:
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
        return self.base_attack.eps

    @eps.setter
    def eps(self, value: float) -> None:
        self.base_attack.eps = check_number("eps", value)
        if isinstance(self.budget, PixelBudget):
            self.budget.eps = self.base_attack.eps

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        r"""
        Overridden.
        """
        images = self._images(images)
        labels = self._labels(labels, images)
        view = self._view()
        radii = self.budget(view, images, labels)
        mask = share(radii, self.eps)
        network_input = images if view.preprocess is None else view.preprocess(images)
        with change_of_variable(self.model, network_input, mask):
            z = self.base_attack.forward(images, labels)
        return pull_back(images, z.detach(), radii, mask)


def _linf_radius(attack: Any) -> float:
    """Return eps of an attack that a budget per pixel makes sense for, or say why it makes none."""
    if not isinstance(attack, Attack):
        raise TypeError(f"attack is a {type(attack).__name__}; a torchattacks Attack is needed")
    eps, norm = getattr(attack, "eps", None), getattr(attack, "norm", "Linf")
    if isinstance(attack, _PixelAttack) and not isinstance(attack, MMA):
        raise ValueError(f"attack={attack.attack} has a budget per pixel already")
    if norm != "Linf" or not isinstance(eps, Real) or "L2" in type(attack).__name__:
        raise ValueError(
            f"attack={attack.attack} cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)"
        )
    return float(eps)
