"""Arrays as ART's users have them, made tensors or refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from art.config import ART_NUMPY_DTYPE
from torch import Tensor

from ...checks import Clip, check_images, class_indices


def images_of(x: Any, clip: Clip) -> Tensor:
    """Return images as a float32 tensor (N, C, H, W) on the CPU, as ART converts them.

    :param x: Array or tensor of numbers of shape (N, C, H, W).
    :param clip: Range of pixel values.

    Raises:
        TypeError: No array, or none of numbers.
        ValueError: Another shape, values that are not finite or out of range.
    """
    images = torch.from_numpy(numbers_of("x", x, "images of shape (N, C, H, W)"))
    low, high = clip
    check_images(images, (low.cpu(), high.cpu()))
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
    return values.astype(ART_NUMPY_DTYPE, order="C")


def labels_of(y: Any, n: int, nb_classes: int) -> Tensor:
    """Return labels as class indices (N,), int64, or as probabilities (N, K), float32.

    :param y: Class indices (N,) or (N, 1), one-hot labels or probabilities (N, K).
    :param n: How many there must be.
    :param nb_classes: Number of classes.

    Raises:
        TypeError: Nothing that can be labels.
        ValueError: Another shape, a class out of range, rows that are no probabilities.
    """
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        return class_indices(y, n, nb_classes)
    if labels.dim() != 2 or labels.shape[1] == 1 or len(labels) != n:
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
