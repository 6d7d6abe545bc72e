"""What a budget per pixel needs to know of ART's PyTorchClassifier: its network on raw images, loss and range."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from art.config import ART_NUMPY_DTYPE
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import Tensor

from ...checks import Clip
from ...network.view import ModelView
from ...objectives import Criterion


def check_classifier(classifier: Any) -> None:
    """Raise unless `classifier` is one that a budget per pixel can be worked out and kept for.

    Raises:
        TypeError: It is no PyTorchClassifier.
        ValueError: It has no clip_values, channels that come last, mixed precision or a preprocessing defence.
    """
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
    return ModelView(classifier.model, lambda images: preprocessed(classifier, images))


def preprocessed(classifier: PyTorchClassifier, images: Tensor) -> Tensor:
    """Return what the classifier's network gets of raw images (N, C, H, W)."""
    inputs: Tensor = classifier._apply_preprocessing(images, y=None, fit=False, no_grad=False)[0]
    return inputs


def classifier_criterion(classifier: PyTorchClassifier) -> Criterion:
    """Return the classifier's own loss as a function of logits (N, K) and class indices (N,)."""

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        if not (classifier._reduce_labels and classifier._int_labels):
            labels = classifier.reduce_labels(F.one_hot(labels, classifier.nb_classes).to(logits.dtype))
        loss: Tensor = classifier.loss(logits, labels)
        return loss

    return criterion


def classifier_clip(classifier: PyTorchClassifier) -> Clip:
    """Return the classifier's clip_values as tensors on its device."""
    low, high = (
        torch.as_tensor(np.asarray(value, ART_NUMPY_DTYPE), device=classifier.device)
        for value in classifier.clip_values
    )
    return low, high
