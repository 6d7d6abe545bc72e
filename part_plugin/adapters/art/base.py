"""What the ART attacks of this folder share: a budget, batches, and a classifier left as it was found."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.config import ART_NUMPY_DTYPE
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...budget import Budget, set_radius
from ...checks import check_images, class_indices
from ...network.isolation import eval_mode
from ...network.view import logits_of
from .classifier import classifier_clip, classifier_view


class PixelEvasionBase(EvasionAttack):
    """What the attacks here share: a budget, batches, and a classifier left as it was found."""

    budget: Budget
    batch_size: int
    verbose: bool

    @property
    def eps_low(self) -> float:
        """Radius of the pixels that the map calls unimportant."""
        return self.budget.eps_low

    @eps_low.setter
    def eps_low(self, value: float | None) -> None:
        set_radius(self.budget, "eps_low", value)

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs) -> np.ndarray:
        """Generate adversarial samples and return them in an array.

        :param x: Original inputs of shape `(nb_samples, channels, height, width)`, inside `clip_values`.
        :param y: Class indices or one-hot labels, the targets if the attack is targeted; default: predictions.
        :param mask: Array broadcastable to `x`; features where it is zero are not perturbed.
        :return: Adversarial samples, float32.
        """
        classifier = self.estimator
        if y is None and self.targeted:
            raise ValueError("y=None is not allowed for a targeted attack; pass the target classes")
        adv = np.empty(x.shape, ART_NUMPY_DTYPE)
        batches = range(0, len(x), self.batch_size)
        view = classifier_view(classifier)
        with eval_mode(classifier._model):
            images = torch.from_numpy(x.astype(ART_NUMPY_DTYPE))
            check_images(images.to(classifier.device), classifier_clip(classifier))
            labels = None if y is None else class_indices(y, len(x), classifier.nb_classes)
            mask = kwargs.get("mask")
            mask = None if mask is None else torch.as_tensor(np.broadcast_to(mask, x.shape) != 0)
            for begin in tqdm(batches, desc=f"{type(self).__name__} - Batches", leave=False, disable=not self.verbose):
                rows = slice(begin, begin + self.batch_size)
                batch = images[rows].to(classifier.device)
                with torch.no_grad():
                    target = logits_of(view, batch).argmax(1) if labels is None else labels[rows].to(batch.device)
                radii = self.budget.radii(view, batch, target)
                if mask is not None:
                    radii = radii * mask[rows].to(batch.device)
                adv[rows] = self.craft(view, batch, target, radii).cpu().numpy()
        return adv

    def craft(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Return the adversarial examples of one batch within `radii`, all of them tensors."""
        raise NotImplementedError


def check_linf(norm: Any, eps: Any, name: str) -> None:
    """Raise unless an attack of that norm and radius can be given a budget per pixel."""
    if norm not in (np.inf, "inf") or not isinstance(eps, Real):
        kind = "an array" if isinstance(eps, np.ndarray) else eps
        raise ValueError(
            f"{name} with norm={norm} and eps={kind} cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)"
        )
