"""What the attacks of this folder share: a budget, input checks, and a model left as it was found."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack

from ...budget import Budget, set_radius
from ...checks import check_batch, check_images, check_number, check_within, class_indices, shown
from ...mismatch import check_model, explained, warn_of_one_device
from ...network.isolation import eval_mode, isolated, lock_of
from ...network.view import ModelView, logits_of, network_of

logger = logging.getLogger(__name__)

UNIT = (0.0, 1.0)
"""Range of pixel values in torchattacks."""
_RANGE_HINT = "; call set_normalization_used(mean, std) or move the normalisation into the model"


class PixelAttackBase(Attack):
    """
    Base class of the attacks here: a budget, input checks, and a model left as it was found.

    Arguments:
        name (str): name of the attack.
        model (nn.Module): model to attack.
        budget (Budget): how far each pixel may move.

    """

    _untargeted_because = "it is not made for one"

    def __init__(self, name: str, model: nn.Module, budget: Budget):
        check_model("model", model)
        check_within("eps", budget.eps, UNIT)
        super().__init__(name, model)
        self.budget = budget
        self._range_known = False
        warn_of_one_device(model)

    @property
    def eps(self) -> float:
        """Largest radius, that of the important pixels."""
        return self.budget.eps

    @eps.setter
    def eps(self, value: float) -> None:
        set_radius(self.budget, "eps", check_within("eps", check_number("eps", value), UNIT))

    @property
    def eps_low(self) -> float:
        """Radius of the other pixels."""
        return self.budget.eps_low

    @eps_low.setter
    def eps_low(self, value: float | None) -> None:
        set_radius(self.budget, "eps_low", value)

    def __call__(self, inputs: Tensor, labels: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """Return adversarial examples; see `torchattacks.attack.Attack.__call__`."""
        check_batch(inputs)
        self._check_normalised(inputs)
        self._follow_model()
        moved = inputs.to(self.device)
        with explained(self.model, moved), isolated(self.model, moved) as model:
            # torchattacks keeps what changes during a call in the attack; a copy for each call leaves this one alone
            adv: Tensor = super(PixelAttackBase, bound_to(self, model)).__call__(inputs, labels, *args, **kwargs)
        return adv

    def set_normalization_used(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take images that are normalised already; see `torchattacks.attack.Attack.set_normalization_used`.

        Arguments:
            mean (list): what was subtracted from each channel.
            std (list): what each channel was divided by.

        """
        _check_mean_and_std(mean, std)
        super().set_normalization_used(mean, std)

    def _set_mode_targeted(self, mode: str, quiet: bool) -> None:
        if "targeted" not in self.supported_mode:
            raise ValueError(f"{self.attack} has no targeted mode: {self._untargeted_because}")
        super()._set_mode_targeted(mode, quiet)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """Save adversarial inputs from a data loader; see `torchattacks.attack.Attack.save`."""
        with lock_of(network_of(self.model)), eval_mode(self.model):
            return super().save(*args, **kwargs)

    def _check_normalised(self, inputs: Tensor) -> None:
        """Look whether the inputs are what `set_normalization_used` says; warn, once, if they are not normalised.

        Raises:
            ValueError: they have other channels.
        """
        if self._normalization_applied is not True:
            return
        means = self.normalization_used["mean"].shape[1]
        if means not in (1, inputs.shape[1]):
            raise ValueError(f"images have {inputs.shape[1]} channels; set_normalization_used was given {means} means")
        if not self._range_known:  # looked at once, as a GPU must be waited for
            self._range_known = True
            if inputs.min() >= 0 and inputs.max() <= 1:
                logger.warning(
                    "%s: all images are inside [0, 1], and set_normalization_used is for images that are normalised "
                    "already; for others the model must normalise them",
                    self.attack,
                )

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
        """Return class indices on the model's device; without labels the predicted classes.

        Raises:
            ValueError: no labels where they are the targets.
        """
        if labels is None and self.attack_mode == "targeted(label)":
            raise ValueError("labels=None does not go with set_mode_targeted_by_label; pass the target classes")
        if labels is None:
            with torch.no_grad():
                return logits_of(self._view(), images).argmax(1)
        return class_indices(labels, len(images)).clone().detach().to(self.device)


def bound_to(attack: Attack, model: nn.Module, copies: dict[int, Attack] | None = None) -> Attack:
    """Return a copy of an attack, and of the attacks inside it, that attacks `model`.

    Arguments:
        attack (torchattacks.Attack): the attack, which stays as it is.
        model (nn.Module): what the copy attacks.
        copies (dict): copies of attacks that were met already. (Default: None)

    """
    copies = {} if copies is None else copies
    if id(attack) not in copies:
        copies[id(attack)] = copied = copy.copy(attack)
        for name, value in vars(attack).items():
            vars(copied)[name] = _bound_inside(value, model, copies)
        vars(copied)["model"] = model
    return copies[id(attack)]


def _bound_inside(value: Any, model: nn.Module, copies: dict[int, Attack]) -> Any:
    if isinstance(value, Attack):
        return bound_to(value, model, copies)
    if isinstance(value, MethodType) and isinstance(value.__self__, Attack):
        return MethodType(value.__func__, bound_to(value.__self__, model, copies))
    if isinstance(value, dict):
        return type(value)((key, _bound_inside(item, model, copies)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_bound_inside(item, model, copies) for item in value)
    return value


def _check_mean_and_std(mean: Any, std: Any) -> None:
    try:
        means, stds = (torch.as_tensor(values, dtype=torch.float64) for values in (mean, std))
    except (TypeError, ValueError, RuntimeError):
        means = stds = torch.zeros(())
    if means.dim() != 1 or means.shape != stds.shape:
        raise ValueError(f"mean={shown(mean)} and std={shown(std)} are not allowed; one number per channel is needed")
    if not bool((stds > 0).all() and stds.isfinite().all() and means.isfinite().all()):
        raise ValueError(f"mean={shown(mean)} and std={shown(std)} are not allowed; std must be > 0, both finite")


def check_alpha(alpha: float) -> float:
    """Return alpha if it is a step size for images in [0, 1]."""
    return check_within("alpha", check_number("alpha", alpha, above=True), UNIT)
