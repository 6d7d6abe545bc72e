"""What a budget per pixel needs to know of ART's PyTorchClassifier: its network on raw images, loss and range."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from art.config import ART_NUMPY_DTYPE
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from art.estimators.estimator import BaseEstimator, LossGradientsMixin
from art.exceptions import EstimatorError
from torch import Tensor

from ...checks import Clip, check_clip
from ...network.view import ModelView
from ...objectives import Criterion

REQUIREMENTS = (BaseEstimator, LossGradientsMixin)
"""What ART's PGD asks of an estimator; that it is a PyTorchClassifier comes on top."""


def check_classifier(classifier: Any, owner: type, clip: Any = None) -> None:
    """Raise unless `classifier` is one that a budget per pixel can be worked out and kept for.

    :param classifier: What was given.
    :param owner: Attack or trainer that it was given to.
    :param clip: Range of the images, where the classifier has none.

    Raises:
        EstimatorError: It is no PyTorchClassifier.
        TypeError: `clip` is no pair.
        ValueError: It has no range, channels that come last, mixed precision or a defence without a PyTorch form.
    """
    if not isinstance(classifier, PyTorchClassifier):
        raise EstimatorError(owner, [*REQUIREMENTS, PyTorchClassifier], classifier)
    if clip is not None:
        check_clip(clip)
    if classifier.clip_values is None and clip is None:
        raise ValueError(
            "clip_values=None leaves the range of the images open; "
            "give it to PyTorchClassifier, or clip=(smallest, largest) to this"
        )
    if clip is not None and classifier.clip_values is not None and not same_range(clip, classifier.clip_values):
        raise ValueError(f"clip={clip} is another range than the clip_values of the classifier; leave it out")
    if not classifier.channels_first:
        raise ValueError("channels_first=False is not supported; images of shape (N, C, H, W) are needed")
    if classifier.use_amp:
        raise ValueError("use_amp=True is not supported; it relies on NVIDIA Apex")
    for operation in classifier.preprocessing_operations:
        if not isinstance(operation, PreprocessorPyTorch):
            raise ValueError(
                f"preprocessing defence {type(operation).__name__} has no PyTorch form to take gradients through; "
                "one derived from PreprocessorPyTorch is needed"
            )


def check_training(classifier: PyTorchClassifier, scheduler: Any) -> None:
    """Raise unless `classifier` can be trained with such a scheduler of the learning rate, or None.

    :param classifier: What is trained.
    :param scheduler: What was given.

    Raises:
        TypeError: It has no method step.
        ValueError: There is no optimizer.
    """
    if classifier.optimizer is None:
        raise ValueError("optimizer=None leaves nothing to train with; give one to PyTorchClassifier")
    if scheduler is not None and not callable(getattr(scheduler, "step", None)):
        raise TypeError(f"scheduler is a {type(scheduler).__name__}; an object with a method step is needed")
    if getattr(scheduler, "optimizer", classifier.optimizer) is not classifier.optimizer:
        message = (
            "scheduler changes the learning rate of another optimizer than the classifier's, so it takes no effect"
        )
        warnings.warn(message, stacklevel=5)


def classifier_view(classifier: PyTorchClassifier) -> ModelView:
    """Return the classifier's network behind its preprocessing, as a module on raw images."""
    return ModelView(classifier.model, lambda images: preprocessed(classifier, images))


def preprocessed(classifier: PyTorchClassifier, images: Tensor) -> Tensor:
    """Return what the classifier's network gets of raw images (N, C, H, W)."""
    inputs: Tensor = classifier._apply_preprocessing(images, y=None, fit=False, no_grad=False)[0]
    return inputs


def preprocessed_to_fit(classifier: PyTorchClassifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the classifier's network is trained on, of raw images (N, C, H, W) and labels.

    Defences that are for training alone, such as Mixup or Cutout, take part, as in `PyTorchClassifier.fit`, and may
    make soft labels of hard ones.

    :param classifier: The classifier.
    :param images: Raw images.
    :param labels: Class indices (N,) or probabilities (N, K).
    """
    given = one_hot(labels, classifier.nb_classes)
    inputs, targets = classifier._apply_preprocessing(images, y=given, fit=True, no_grad=True)
    return inputs, labels if targets is given else targets.to(inputs.dtype)


def one_hot(labels: Tensor, nb_classes: int) -> Tensor:
    """Return labels in the form that ART wants, float32 (N, K).

    :param labels: Class indices (N,) or probabilities (N, K).
    :param nb_classes: K.
    """
    return labels if labels.dim() == 2 else F.one_hot(labels, nb_classes).float()


def classifier_criterion(classifier: PyTorchClassifier) -> Criterion:
    """Return the classifier's own loss as a function of logits (N, K) and labels, class indices or probabilities."""

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        if labels.dim() == 2 or not (classifier._reduce_labels and classifier._int_labels):
            labels = classifier.reduce_labels(one_hot(labels, classifier.nb_classes).to(logits.dtype))
        loss: Tensor = classifier.loss(logits, labels)
        return loss

    return criterion


def classifier_clip(classifier: PyTorchClassifier, clip: Any = None) -> Clip:
    """Return the range of the images as tensors on the classifier's device: its clip_values, or else `clip`."""
    low, high = (
        torch.as_tensor(np.asarray(value, ART_NUMPY_DTYPE), device=classifier.device)
        for value in (clip if classifier.clip_values is None else classifier.clip_values)
    )
    return low, high


def same_range(one: Any, other: Any) -> bool:
    """Return whether two ranges of images have the same bounds.

    :param one, other: Smallest and largest pixel value, numbers or arrays.
    """
    return all(np.array_equal(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(one, other, strict=True))
