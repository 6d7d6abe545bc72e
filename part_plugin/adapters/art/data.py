"""Arrays as ART's users have them, made tensors or refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from art.config import ART_NUMPY_DTYPE
from torch import Tensor

from ...checks import Clip, check_images


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
