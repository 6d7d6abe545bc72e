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
from ...checks import check_eps_pair, check_images, class_indices
from ...network.isolation import isolated
from ...network.view import logits_of
from .classifier import classifier_clip, classifier_view


class PixelEvasionBase(EvasionAttack):
    """
    Base class of the attacks here: a budget, batches, and a classifier left as it was found.

    :param kwargs: `estimator`, as in ART.
    """

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

    def set_params(self, **kwargs: Any) -> None:
        """
        Set attack parameters as in ART. `eps` and `eps_low` together are one change: neither is held against the
        other's old value.

        :param kwargs: A dictionary of attack-specific parameters.
        """
        if "eps" in kwargs and "eps_low" in kwargs:
            check_eps_pair(kwargs["eps"], kwargs["eps_low"])
            self.eps_low = None
            kwargs = {"eps": kwargs.pop("eps"), **kwargs}
        super().set_params(**kwargs)

    def generate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, *, mask: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.float32]:
        """Generate adversarial samples and return them in an array.

        :param x: Original inputs of shape `(nb_samples, channels, height, width)`, inside `clip_values`.
        :param y: Class indices or one-hot labels, the targets if the attack is targeted; default: predictions.
        :param mask: Array broadcastable to `x`; features where it is zero are not perturbed.
        :return: Adversarial samples, float32.

        Raises:
            ValueError: A targeted attack without targets; images, labels or a mask that are not allowed.
        """
        classifier = self.estimator
        if y is None and self.targeted:
            raise ValueError("y=None is not allowed for a targeted attack; pass the target classes")
        adv = np.empty(x.shape, ART_NUMPY_DTYPE)
        batches = range(0, len(x), self.batch_size)
        images = torch.from_numpy(x.astype(ART_NUMPY_DTYPE))
        check_images(images.to(classifier.device), classifier_clip(classifier))
        labels = None if y is None else class_indices(y, len(x), classifier.nb_classes)
        allowed = None if mask is None else torch.as_tensor(_as_large_as(x, mask) != 0)
        name = f"{type(self).__name__} - Batches"
        with isolated(classifier_view(classifier), images[:1].to(classifier.device)) as view:
            images = images.clone()  # also tensors made under inference_mode will do
            labels = None if labels is None else labels.clone()
            for begin in tqdm(batches, desc=name, leave=False, disable=None if self.verbose else True):
                rows = slice(begin, begin + self.batch_size)
                batch = images[rows].to(classifier.device)
                with torch.no_grad():
                    target = logits_of(view, batch).argmax(1) if labels is None else labels[rows].to(batch.device)
                radii = self.budget.radii(view, batch, target)
                if allowed is not None:
                    radii = radii * allowed[rows].to(batch.device)
                adv[rows] = self.craft(view, batch, target, radii).cpu().numpy()
        return adv

    def craft(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Return the adversarial examples of one batch.

        :param view: The classifier's network behind its preprocessing, in eval mode.
        :param images: Raw images `(nb_samples, channels, height, width)`.
        :param labels: Class indices, the targets if the attack is targeted.
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
    if norm not in (np.inf, "inf") or not isinstance(eps, Real):
        kind = "an array" if isinstance(eps, np.ndarray) else eps
        raise ValueError(
            f"{name} with norm={norm} and eps={kind} cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)"
        )
    return float(eps)


def _as_large_as(x: npt.NDArray[Any], mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
    try:
        return np.broadcast_to(mask, x.shape)
    except ValueError:
        raise ValueError(f"mask has shape {np.shape(mask)}, which does not fit images of shape {x.shape}") from None
