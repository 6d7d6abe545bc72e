"""Arrays as ART's users have them, made tensors or refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from art.config import ART_NUMPY_DTYPE
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from ...checks import Clip, check_images, class_indices
from ...network.isolation import isolated
from ...network.view import logits_of
from .classifier import classifier_view


def images_of(x: Any, classifier: PyTorchClassifier, clip: Clip) -> Tensor:
    """Return images as a float32 tensor (N, C, H, W) on the CPU, as ART converts them.

    :param x: Array or tensor of numbers of shape (N, C, H, W).
    :param classifier: What they are for.
    :param clip: Range of pixel values.

    Raises:
        TypeError: No array, or none of numbers.
        ValueError: Another shape, values that are not finite or out of range, channels the network does not take.
    """
    images = torch.from_numpy(numbers_of("x", x, "images of shape (N, C, H, W)"))
    expected = tuple(classifier.input_shape)
    if images.dim() == 4 and images.shape[1] != expected[0] and len(expected) == 3:
        _check_channels(images, classifier, expected)
    low, high = clip
    hint = ""
    if np.asarray(x).dtype == np.uint8 and float(high.max()) <= 1:
        hint = "; divide bytes by 255"
    check_images(images, (low.cpu(), high.cpu()), hint=hint)
    return images


def numbers_of(name: str, values: Any, needed: str) -> npt.NDArray[np.float32]:
    """Return a float32 array of an array or tensor of numbers.

    :param name: What the message calls it.
    :param values: What was given.
    :param needed: What the message says is needed.

    Raises:
        TypeError: No array or tensor, or none of numbers.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray):
        given = "None" if values is None else f"a {type(values).__name__}"
        raise TypeError(f"{name} is {given}; an array of {needed} is needed")
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} is an array of {values.dtype}; one of numbers is needed")
    return values.astype(ART_NUMPY_DTYPE)


def labels_of(y: Any, n: int, nb_classes: int) -> Tensor:
    """Return labels as class indices (N,), int64, or as probabilities (N, K), float32.

    :param y: Class indices (N,) or (N, 1), one-hot labels or probabilities (N, K).
    :param n: How many there must be.
    :param nb_classes: Number of classes.

    Raises:
        TypeError: Nothing that can be labels.
        ValueError: Another shape, a class out of range, rows that are no probabilities.
    """
    if y is None:
        raise TypeError("y=None is not allowed; class indices, one-hot labels or probabilities are needed")
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        return class_indices(y, n, nb_classes)
    if labels.dim() != 2 or labels.shape[1] == 1 or len(labels) != n:
        if labels.dtype == torch.bool:
            raise TypeError("labels are boolean; class indices are needed, e.g. y.astype(int)")
        return class_indices(labels, n, nb_classes)
    if labels.shape[1] != nb_classes:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; the classifier has {nb_classes} classes")
    rows = labels.double()
    if not bool(((rows >= 0) & (rows <= 1)).all() and ((rows.sum(1) - 1).abs() < 1e-3).all()):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} are neither one-hot nor probabilities; each row must sum to 1"
        )
    return rows.argmax(1) if bool((rows == rows.round()).all()) else rows.float()


def classes_of(labels: Tensor) -> Tensor:
    """Return class indices (N,) of labels that are those already, or probabilities (N, K)."""
    return labels if labels.dim() == 1 else labels.argmax(1)


def _check_channels(images: Tensor, classifier: PyTorchClassifier, expected: tuple[int, ...]) -> None:
    """Raise if the network does not take images of so many channels.

    Raises:
        ValueError: It does not.
    """
    shape = tuple(images.shape)
    if shape[3] == expected[0]:
        raise ValueError(
            f"x has shape {shape}, its channels last; (N, {expected[0]}, H, W) is needed: x.transpose(0, 3, 1, 2)"
        )
    first = images[:1].to(classifier.device)
    try:  # an input_shape that is wrong harms nobody in ART
        with isolated(classifier_view(classifier), first) as view, torch.no_grad():
            logits_of(view, first)
    except RuntimeError as error:
        raise ValueError(f"x has shape {shape}; the classifier's input_shape is {expected}") from error
