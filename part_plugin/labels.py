"""Labels that are class indices, or the probabilities of all classes, as Mixup, CutMix and smoothing give them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .checks import check_class_range, class_indices
from .deferred import check_values, holds


def labels_of(labels: Any, n: int, num_classes: int | None = None) -> Tensor:
    """Return labels as class indices (N,), int64, or, where they are none, as probabilities (N, K), float32.

    Args:
        labels: class indices (N,) or (N, 1), one-hot (N, K) or probabilities (N, K).
        n: how many there must be.
        num_classes: K, if that is known.

    Raises:
        TypeError: nothing that can be labels.
        ValueError: another shape, a class out of range, rows that are no probabilities.
    """
    try:
        given: Tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return class_indices(labels, n, num_classes)
    shape = tuple(given.shape)
    if labels is None or len(shape) != 2 or shape[1] == 1 or shape[0] != n:
        return class_indices(labels, n, num_classes)
    if num_classes is not None:
        check_columns(given, num_classes)
    rows = given.detach().double()
    probable = ((rows >= 0) & (rows <= 1)).all() & ((rows.sum(1) - 1).abs() < 1e-3).all()
    message = f"labels of shape {shape} are neither one-hot nor probabilities; each row must sum to 1"
    check_values(probable, holds(message))
    one_hot = not given.is_floating_point() or bool((rows == rows.round()).all())  # on a GPU this waits
    return rows.argmax(1) if one_hot else rows.float()


def classes_of(labels: Tensor) -> Tensor:
    """Return class indices (N,) of `labels` that are those already, or the likeliest of probabilities (N, K)."""
    return labels if labels.dim() == 1 else labels.argmax(1)


def labels_within(labels: Tensor, num_classes: int) -> Tensor:
    """Return `labels`, class indices (N,) or probabilities (N, K), if a network with `num_classes` has those classes.

    Raises:
        ValueError: it has not; see `check_class_range` for when.
    """
    check_columns(labels, num_classes)
    return labels if labels.dim() == 2 else check_class_range(labels, num_classes)


def check_columns(labels: Tensor, num_classes: int) -> None:
    """Raise unless `labels` (N, K) have a column for each of `num_classes`; class indices (N,) pass.

    Raises:
        ValueError: they do not.
    """
    if labels.dim() == 2 and labels.shape[1] != num_classes:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; the model has {num_classes} classes")
