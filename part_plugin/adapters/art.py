"""Pixel-AG as ART evasion attacks: PGD under a radius per pixel, and any other l_inf attack."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import BasicIterativeMethod, ProjectedGradientDescent, ProjectedGradientDescentPyTorch
from art.config import ART_NUMPY_DTYPE
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..budget import Budget, PixelBudget
from ..cam import Layer
from ..checks import Clip, check_images, class_indices
from ..objectives import AT, Criterion, ascent
from ..pixel_ag import change_of_variable, pixel_ag, pull_back, share, uniform_start
from ..surrogate import ModelView, gradients_kept, logits_of, undisturbed


def check_classifier(classifier: Any) -> None:
    """Raise unless `classifier` is one that a budget per pixel can be worked out and kept for."""
    if not isinstance(classifier, PyTorchClassifier):
        raise TypeError(f"classifier is a {type(classifier).__name__}; an ART PyTorchClassifier is needed")
    if classifier.clip_values is None:
        raise ValueError("clip_values=None leaves the range of the images open; give it to PyTorchClassifier")
    if not classifier.channels_first:
        raise ValueError("channels_first=False is not supported; images of shape (N, C, H, W) are needed")
    if classifier.use_amp:
        raise ValueError("use_amp=True is not supported; it relies on NVIDIA Apex")
    for operation in classifier.preprocessing_operations:
        if not isinstance(operation, StandardisationMeanStdPyTorch):
            raise ValueError(
                f"preprocessing defence {type(operation).__name__} is not supported; only preprocessing=(mean, std) is"
            )


def classifier_view(classifier: PyTorchClassifier) -> ModelView:
    """Return the classifier's network behind its preprocessing, as a module on raw images."""

    def preprocess(images: Tensor) -> Tensor:
        return classifier._apply_preprocessing(images, y=None, fit=False, no_grad=False)[0]

    return ModelView(classifier.model, preprocess)


def classifier_criterion(classifier: PyTorchClassifier) -> Criterion:
    """Return the classifier's own loss as a function of logits (N, K) and class indices (N,)."""

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        if not (classifier._reduce_labels and classifier._int_labels):
            labels = classifier.reduce_labels(F.one_hot(labels, classifier.nb_classes))
        return classifier.loss(logits, labels)

    return criterion


def classifier_clip(classifier: PyTorchClassifier) -> Clip:
    """Return the classifier's clip_values as tensors on its device."""
    return tuple(
        torch.as_tensor(np.asarray(value, ART_NUMPY_DTYPE), device=classifier.device)
        for value in classifier.clip_values
    )


class _PixelEvasion(EvasionAttack):
    """What the attacks here share: a budget, batches, and a classifier left as it was found."""

    budget: Budget
    batch_size: int
    verbose: bool

    @property
    def eps_low(self) -> float:
        """Radius of the pixels that the map calls unimportant."""
        return self.budget.eps_low

    @eps_low.setter
    def eps_low(self, value: float) -> None:
        self.budget.eps_low = value

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
        with undisturbed(classifier._model):
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
                radii = self.budget(view, batch, target)
                if mask is not None:
                    radii = radii * mask[rows].to(batch.device)
                adv[rows] = self.craft(view, batch, target, radii).cpu().numpy()
        return adv

    def craft(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Return the adversarial examples of one batch within `radii`, all of them tensors."""
        raise NotImplementedError


class PixelProjectedGradientDescent(_PixelEvasion, ProjectedGradientDescentPyTorch):
    """
    Projected Gradient Descent with a radius per pixel: full `eps` on the pixels that a class activation map calls
    important, `eps_low` elsewhere. A call of ART's `ProjectedGradientDescent` stays valid, with these additions.

    | Paper link: https://arxiv.org/abs/2406.00685 (PART), https://arxiv.org/abs/1706.06083 (PGD)
    """

    attack_params = [*ProjectedGradientDescentPyTorch.attack_params, "eps_low", "budget"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        norm: int | float | str = np.inf,
        eps: int | float = 0.3,
        eps_step: int | float = 0.1,
        decay: float | None = None,
        max_iter: int = 100,
        targeted: bool = False,
        num_random_init: int = 0,
        batch_size: int = 32,
        random_eps: bool = False,
        summary_writer: bool = False,
        verbose: bool = True,
        eps_low: float | None = None,
        cam: str | type = "gradcam",
        target_layers: Layer | Sequence[Layer] | None = None,
        budget: Budget | None = None,
        **budget_options: Any,
    ) -> None:
        """
        Create a :class:`.PixelProjectedGradientDescent` instance.

        :param estimator: A trained `PyTorchClassifier` with `clip_values`.
        :param norm: `np.inf` or "inf"; other norms bound no pixel by itself.
        :param eps: Maximum perturbation of important pixels, in the units of `clip_values`.
        :param eps_step: Attack step size, in the units of `clip_values`.
        :param decay, random_eps, summary_writer: As in ART, but only their defaults are supported.
        :param max_iter: The number of iterations.
        :param targeted: Indicates whether the attack is targeted.
        :param num_random_init: Number of random starts inside the budget; 0 starts at the input.
        :param batch_size: Size of the batch on which adversarial samples are generated.
        :param verbose: Show progress bars.
        :param eps_low: Maximum perturbation of the other pixels; default 7/8 of `eps`, the paper's ratio.
        :param cam, target_layers, budget_options: See `PixelBudget`.
        :param budget: A budget to use instead of one made from `eps` and `eps_low`.
        """
        check_classifier(estimator)
        unsupported = {"decay": decay, "random_eps": random_eps, "summary_writer": summary_writer}
        for name, value in unsupported.items():
            if value:
                raise ValueError(f"{name}={value} is not supported; wrap ART's own attack in PixelEvasionAttack")
        _check_linf(norm, eps, type(self).__name__)
        self.budget = budget or PixelBudget(eps, _low(eps, eps_low), cam, target_layers, **budget_options)
        super().__init__(
            estimator=estimator,
            norm=norm,
            eps=self.budget.eps,
            eps_step=eps_step,
            max_iter=max_iter,
            targeted=targeted,
            num_random_init=num_random_init,
            batch_size=batch_size,
            verbose=verbose,
        )

    @property
    def eps(self) -> float:
        """Largest radius, that of the important pixels."""
        return self.budget.eps

    @eps.setter
    def eps(self, value: float) -> None:
        if value != self.budget.eps:
            self.budget.eps = value

    def craft(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Return the adversarial examples of one batch within `radii`; of several starts a successful one."""
        adv = self._run(view, images, labels, radii)
        for _ in range(1, self.num_random_init):
            again = self._run(view, images, labels, radii)
            with torch.no_grad():
                hit = logits_of(view, again).argmax(1) == labels
            success = hit if self.targeted else ~hit
            adv = torch.where(success[:, None, None, None], again, adv)
        return adv

    def _run(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        criterion, clip = classifier_criterion(self.estimator), classifier_clip(self.estimator)
        start = uniform_start(images, radii, self.eps, clip) if self.num_random_init else None
        loss = ascent(view, AT(criterion), labels, sign=-1 if self.targeted else 1)
        return pixel_ag(loss, images, radii, self.eps_step, self.max_iter, start, clip)


class PixelEvasionAttack(_PixelEvasion):
    """
    Any l_inf attack of ART with a radius per pixel, by a change of variable: the attack runs, unchanged, on
    g(z) = f(x + m * (z - x)) with m = radius / eps, and its result z becomes x + m * (z - x).

    | Paper link: https://arxiv.org/abs/2406.00685
    """

    attack_params = [*EvasionAttack.attack_params, "eps", "eps_low", "budget", "batch_size", "verbose"]
    _estimator_requirements = (PyTorchClassifier,)

    def __init__(
        self,
        attack: EvasionAttack,
        eps_low: float | None = None,
        cam: str | type = "gradcam",
        target_layers: Layer | Sequence[Layer] | None = None,
        budget: Budget | None = None,
        **budget_options: Any,
    ) -> None:
        """
        Create a :class:`.PixelEvasionAttack` instance.

        :param attack: An attack with `norm` infinity and a number `eps`; its batch size is kept.
        :param eps_low: Maximum perturbation of unimportant pixels; default 7/8 of `attack.eps`.
        :param cam, target_layers, budget, budget_options: See `PixelBudget`.
        """
        if not isinstance(attack, EvasionAttack):
            raise TypeError(f"attack is a {type(attack).__name__}; an ART EvasionAttack is needed")
        if isinstance(attack, _PixelEvasion):
            raise ValueError(f"attack is a {type(attack).__name__}, which has a budget per pixel already")
        check_classifier(attack.estimator)
        eps = getattr(attack, "eps", None)
        _check_linf(getattr(attack, "norm", None), eps, type(attack).__name__)
        self.budget = budget or PixelBudget(eps, _low(eps, eps_low), cam, target_layers, **budget_options)
        if self.budget.eps > eps:
            raise ValueError(f"budget reaches {self.budget.eps:g}, further than eps={eps:g} of {type(attack).__name__}")
        self.attack = attack
        super().__init__(estimator=attack.estimator)
        self.batch_size = getattr(attack, "batch_size", 32)
        self.verbose = False
        self._targeted = bool(attack.targeted)

    @property
    def eps(self) -> float:
        """Radius of the wrapped attack, that of the important pixels."""
        return self.attack.eps

    @eps.setter
    def eps(self, value: float) -> None:
        self.attack.set_params(eps=value)
        if isinstance(self.budget, PixelBudget):
            self.budget.eps = value

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"[{type(self.attack).__name__}](", 1)

    def craft(self, view: nn.Module, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Return the adversarial examples of one batch within `radii`."""
        mask = share(radii, self.eps)
        module = self.estimator._model
        with gradients_kept(module), change_of_variable(module, view.preprocess(images), mask):
            z = self.attack.generate(images.cpu().numpy(), labels.cpu().numpy())
        z = torch.from_numpy(z).to(images)
        return pull_back(images, z, radii, mask, classifier_clip(self.estimator))


def lift(attack: Any, **options: Any) -> _PixelEvasion:
    """Return the Pixel-AG form of an ART attack; one that has a budget already is returned as it is.

    A plain PGD becomes `PixelProjectedGradientDescent` with the same settings, another l_inf attack
    is wrapped in `PixelEvasionAttack`, and what can be neither is refused by name.

    :param options: eps_low, cam, target_layers, budget and so on.
    """
    if isinstance(attack, _PixelEvasion):
        return attack
    if not isinstance(attack, EvasionAttack):
        raise TypeError(f"attacks holds a {type(attack).__name__}; ART EvasionAttack instances are needed")
    inner = getattr(attack, "_attack", attack)
    plain = (ProjectedGradientDescent, ProjectedGradientDescentPyTorch, BasicIterativeMethod)
    if type(attack) not in plain or inner.decay is not None or inner.random_eps:
        return PixelEvasionAttack(attack, **options)
    kept = ("norm", "eps", "eps_step", "max_iter", "targeted", "num_random_init", "batch_size", "verbose")
    settings = {name: getattr(attack, name) for name in kept}
    return PixelProjectedGradientDescent(attack.estimator, **settings, **options)


def _check_linf(norm: Any, eps: Any, name: str) -> None:
    if norm not in (np.inf, "inf") or not isinstance(eps, Real):
        kind = "an array" if isinstance(eps, np.ndarray) else eps
        raise ValueError(
            f"{name} with norm={norm} and eps={kind} cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)"
        )


def _low(eps: float, eps_low: float | None) -> float:
    return 7 / 8 * eps if eps_low is None else eps_low
