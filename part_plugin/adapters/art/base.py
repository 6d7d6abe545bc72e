"""What the ART attacks of this folder share: a budget, batches, and a classifier left as it was found."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from art.attacks.attack import EvasionAttack
from art.config import ART_NUMPY_DTYPE
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...budget import Budget, set_radius
from ...checks import Clip
from ...labels import classes_of, labels_of
from ...mismatch import explained
from ...network.isolation import isolated
from ...network.view import logits_of
from ...pixel_budget import make_budget
from ...radius import check_eps_pair
from .classifier import classifier_clip, classifier_view
from .data import images_of
from .settings import all_or_nothing


class PixelEvasionBase(EvasionAttack):
    """
    Base class of the attacks here: a budget, batches, and a classifier left as it was found.

    :param kwargs: `estimator`, as in ART.
    """

    budget: Budget
    batch_size: int
    verbose: bool
    _clip: Any = None

    @property
    def clip(self) -> Clip:
        """Range of the images, as tensors: that of the classifier, or what was given where it has none."""
        return classifier_clip(self.estimator, self._clip)

    @property
    def eps_low(self) -> float:
        """Radius of the pixels that the map calls unimportant."""
        return self.budget.eps_low

    @eps_low.setter
    def eps_low(self, value: float | None) -> None:
        try:
            set_radius(self.budget, "eps_low", value)
        except ValueError:
            if value != self.budget.eps_low:
                raise

    def set_params(self, **kwargs: Any) -> None:
        """
        Set attack parameters as in ART: checked as in the constructor, and all of them or none. `eps` and `eps_low`
        together are one change: neither is held against the other's old value.

        :param kwargs: A dictionary of attack-specific parameters.
        """
        with all_or_nothing(self, self.budget, *self._changed_with_it()):
            if "budget" in kwargs:
                self._take_budget(kwargs.pop("budget"))
            if "eps" in kwargs and "eps_low" in kwargs:
                check_eps_pair(kwargs["eps"], kwargs["eps_low"])
                if (kwargs["eps"], kwargs["eps_low"]) != (self.eps, self.eps_low):  # which no budget refuses
                    self.eps_low = None
                kwargs = {"eps": kwargs.pop("eps"), **kwargs}
            self._set_params(**kwargs)

    def _set_params(self, **kwargs: Any) -> None:
        super().set_params(**kwargs)

    def _take_budget(self, budget: Any) -> None:
        if budget is None:
            raise ValueError("budget=None is not allowed; a Budget is needed")
        self.budget = make_budget(0.0, budget=budget)

    def _changed_with_it(self) -> list[Any]:
        """Return what else `set_params` may change."""
        return []

    @property
    def origin(self) -> EvasionAttack:
        """The attack that the user gave: this one, or that which it was made of."""
        return self

    def follow(self) -> None:
        """Take over what the user changed on the attack that this one was made of, if there is one."""

    def generate(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any] | None = None,
        *,
        mask: npt.NDArray[Any] | None = None,
        important: npt.NDArray[Any] | Tensor | None = None,
    ) -> npt.NDArray[np.float32]:
        """Generate adversarial samples and return them in an array.

        Random starts are drawn from numpy's global generator, as in ART's PGD: `np.random.seed` makes them
        reproducible.

        :param x: Original inputs of shape `(nb_samples, channels, height, width)`, inside `clip_values`.
        :param y: Class indices, one-hot labels or probabilities, the targets if the attack is targeted; default:
                  predictions.
        :param mask: Array broadcastable to `x`; features where it is zero are not perturbed.
        :param important: Array of shape `(nb_samples, 1, height, width)`, bool or weights in [0, 1], taken in place of
                          a map.
        :return: Adversarial samples, float32.

        Raises:
            TypeError: Images, labels or weights that are no arrays of numbers.
            ValueError: A targeted attack without targets; images, labels, a mask or weights that are not allowed.
        """
        self.follow()
        self._check_params()
        classifier = self.estimator
        if y is None and self.targeted:
            raise ValueError("y=None is not allowed for a targeted attack; pass the target classes")
        images = images_of(x, self.clip)
        labels = None if y is None else labels_of(y, len(images), classifier.nb_classes)
        allowed = None if mask is None else torch.as_tensor(_as_large_as(x, mask) != 0)
        if isinstance(important, np.ndarray):
            important = torch.from_numpy(important)
        if important is not None:
            self.budget.check_important(important, images)
        adv = np.empty(images.shape, ART_NUMPY_DTYPE)
        size = self._rows_at_once(len(images))
        name = f"{type(self).__name__} - Batches"
        whole, first = classifier_view(classifier), images[:1].to(classifier.device)
        with explained(whole, first), isolated(whole, first) as view:
            images = images.clone()  # also tensors made under inference_mode will do
            labels = None if labels is None else labels.clone()
            for begin in tqdm(range(0, len(images), size), desc=name, leave=False, disable=not self.verbose or None):
                rows = slice(begin, begin + size)
                batch = images[rows].to(classifier.device)
                with torch.no_grad():
                    target = logits_of(view, batch).argmax(1) if labels is None else labels[rows].to(batch.device)
                given = None if important is None else important[rows]
                radii = self.budget.radii(view, batch, classes_of(target), given)
                if allowed is not None:
                    radii = radii * allowed[rows].to(batch.device)
                adv[rows] = self.craft(view, batch, target, radii).cpu().numpy()
        return adv

    def _rows_at_once(self, n: int) -> int:
        """Return how many of `n` images make a batch."""
        return self.batch_size

    def craft(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Return the adversarial examples of one batch.

        :param view: The classifier's network behind its preprocessing, in eval mode.
        :param images: Raw images `(nb_samples, channels, height, width)`.
        :param labels: Class indices or probabilities, the targets if the attack is targeted.
        :param radii: Radius of every pixel, broadcastable to `images`.
        """
        raise NotImplementedError


def check_linf(norm: Any, eps: Any, name: str) -> float:
    """Return eps if an attack of that norm and radius can be given a budget per pixel.

    :param norm: Norm of the attack, infinity if it will do.
    :param eps: Radius of the attack, a number if it will do.
    :param name: Name of the attack, for the message.

    Raises:
        ValueError: It cannot.
    """
    arrays = [isinstance(value, np.ndarray) for value in (norm, eps)]
    if any(arrays) or norm not in (np.inf, "inf") or not isinstance(eps, Real):
        kinds = ["an array" if array else value for array, value in zip(arrays, (norm, eps), strict=True)]
        raise ValueError(
            f"{name} with norm={kinds[0]} and eps={kinds[1]} cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)"
        )
    return float(eps)


def _as_large_as(x: npt.NDArray[Any], mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
    try:
        return np.broadcast_to(mask, x.shape)
    except ValueError:
        raise ValueError(f"mask has shape {np.shape(mask)}, which does not fit images of shape {x.shape}") from None
