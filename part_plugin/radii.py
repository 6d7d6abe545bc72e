"""Radii as tensors: one for each pixel of a batch, checked where they come from a user."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .deferred import check_values, moved


def checked_radii(radii: Any, eps: float, images: Tensor) -> Tensor:
    """Return radii that came from a user as (N, 1, H, W) or (N, C, H, W), if images can be attacked within them.

    Args:
        radii: what a budget returned, broadcastable to the images.
        eps: its largest radius.
        images: (N, C, H, W).

    Raises:
        TypeError: no floating-point tensor.
        ValueError: not finite, not in [0, eps] but for rounding, or of another shape.
    """
    if not isinstance(radii, Tensor) or not radii.is_floating_point():
        kind = radii.dtype if isinstance(radii, Tensor) else type(radii).__name__
        raise TypeError(f"budget returned {kind}; a floating-point tensor of radii is needed")
    radii = radii.detach()
    if radii.numel():
        check_values(torch.stack(torch.aminmax(radii)), partial(_check_range, eps))
    return expanded(radii, images).clamp(0, eps)


def _check_range(eps: float, lowest: float, highest: float) -> None:
    if not (lowest >= 0 and highest <= eps * (1 + 1e-6)):  # false for NaN
        raise ValueError(f"budget returned radii from {lowest:g} to {highest:g}; they must be in [0, eps={eps:g}]")


def expanded(radii: Tensor, images: Tensor) -> Tensor:
    """Return `radii` as (N, 1, H, W) or (N, C, H, W), in the dtype and on the device of the `images` (N, C, H, W).

    Raises:
        ValueError: radii that do not broadcast to the images.
    """
    channels = images.shape[1] if radii.dim() >= 3 and radii.shape[-3] != 1 else 1
    try:
        return moved(radii, images).to(images.dtype).expand(len(images), channels, *images.shape[2:])
    except RuntimeError:
        raise ValueError(
            f"radii of shape {tuple(radii.shape)} do not fit images of shape {tuple(images.shape)}"
        ) from None


def uniform(images: Tensor, eps: float) -> Tensor:
    """Return the radius `eps` for every pixel of `images` (N, C, H, W), as (N, 1, H, W)."""
    return images.new_full((len(images), 1, *images.shape[2:]), eps)
