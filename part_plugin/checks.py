"""Input checks: each raises one sentence that names the argument, its value and what is allowed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .deferred import check_values, holds

Clip = tuple[Any, Any]
"""Smallest and largest allowed pixel value: two numbers, or two tensors that broadcast to an image."""


def shown(value: Any) -> str:
    """Return `value` as a message shows it: as Python does, or by its type where that is long or says where it lies."""
    text = repr(value)
    long = len(text) > 60 or "\n" in text or " at 0x" in text
    return f"<{getattr(value, '__name__', type(value).__name__)}>" if long else text


def check_flag(name: str, value: Any) -> bool:
    """Return `value`, an argument called `name`, if it is True or False, so that no radius is taken for it.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; True or False is needed")


def check_number(
    name: str, value: float, low: float | None = 0.0, *, above: bool = False, high: float | None = None
) -> float:
    """Return `value` as a float if it is a finite number >= `low` (> `low` if `above`) and <= `high`.

    Raises:
        TypeError: no number; the message calls it `name`.
        ValueError: another number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; a number is needed")
    too_low = low is not None and (value < low or (above and value == low))
    if not math.isfinite(value) or too_low or (high is not None and value > high):
        bounds = ["finite"] if low is None or math.isinf(value) else []
        bounds += [] if low is None else [f"{'>' if above else '>='} {low:g}"]
        bounds += [] if high is None else [f"<= {high:g}"]
        raise ValueError(f"{name}={value} is not allowed; it must be {' and '.join(bounds)}")
    return float(value)


def check_count(name: str, value: int, low: int = 1) -> int:
    """Return `value` if it is an integer >= `low`.

    Raises:
        TypeError: no integer; the message calls it `name`.
        ValueError: a smaller one.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={shown(value)} is a {type(value).__name__}; an integer is needed")
    if value < low:
        raise ValueError(f"{name}={value} is not allowed; it must be >= {low}")
    return int(value)


def check_seed(name: str, value: int) -> int:
    """Return `value` if it is an integer that torch's generators take: >= 0 and < 2**64.

    Raises:
        TypeError: no integer; the message calls it `name`.
        ValueError: another one.
    """
    seed = check_count(name, value, 0)
    if seed >= 2**64:  # not printed, as it may have any length
        raise ValueError(f"{name} of {seed.bit_length()} bits is not allowed; it must be < 2**64")
    return seed


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """Return `value` if it is one of `choices`.

    Raises:
        ValueError: it is not; the message calls it `name`.
    """
    if value not in choices:
        raise ValueError(f"{name}={shown(value)} is not known; choose from {', '.join(map(repr, choices))}")
    return value


def check_clip(clip: Any) -> Clip:
    """Return `clip` if it is two finite bounds, numbers or tensors, the first below the second.

    Raises:
        TypeError: no pair.
        ValueError: bounds that are not finite or in the wrong order.
    """
    try:
        low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in clip)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"clip={shown(clip)} is not a pair; (smallest, largest) pixel value is needed, e.g. (0, 1)"
        ) from None
    if not bool((low.isfinite() & high.isfinite() & (low < high)).all()):
        raise ValueError(f"clip={shown(clip)} is not allowed; two finite bounds are needed, the first below the second")
    if low.dim() in (1, 2) or high.dim() in (1, 2):
        shapes = f"{tuple(low.shape)} and {tuple(high.shape)}"
        raise ValueError(
            f"clip has bounds of shape {shapes}; numbers or tensors that fit images, (C, 1, 1), are needed"
        )
    first, second = (
        bound if isinstance(bound, (Tensor, numbers.Real)) else torch.as_tensor(bound, dtype=torch.get_default_dtype())
        for bound in clip
    )
    return first, second


def check_within(name: str, radius: float, clip: Clip) -> float:
    """Return a radius or step unless it is larger than the range of pixel values, as 8 is where 8/255 was meant.

    Args:
        name: what the message calls it.
        radius: in the images' units.
        clip: smallest and largest pixel value.

    Raises:
        ValueError: it is larger.
    """
    low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in clip)
    span = float((high - low).max())
    if radius > span * (1 + 1e-6):
        meant = f"; did you mean {radius:g}/255?" if span <= 1 else ""
        raise ValueError(f"{name}={radius:g} is larger than the range of the images, {span:g}{meant}")
    return radius


def check_images(images: Tensor, clip: Clip = (0.0, 1.0), *, hint: str = "") -> None:
    """Raise unless `images` is a finite floating-point tensor (N, C, H, W) inside `clip`.

    A rounding error of 1e-4 of the range is forgiven, as undoing a normalisation makes one.

    Args:
        images: to be looked at.
        clip: smallest and largest pixel value.
        hint: what the message adds for images outside of it that are no bytes.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another shape, values that are not finite or not in `clip`.
    """
    check_batch(images)
    check_values(torch.stack(torch.aminmax(images.detach())), partial(_check_span, clip, images.dtype, hint))


def _check_span(clip: Clip, dtype: torch.dtype, hint: str, lowest: float, highest: float) -> None:
    # compared in the type of the images, in which a bound may be another number: 1.3 is 1.296875 in bfloat16
    low, high = (torch.as_tensor(bound).to(dtype).double() for bound in clip)
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError("images contain NaN or infinite values; they must be finite")
    slack = 1e-4 * float((high - low).max())
    if lowest < float(low.min()) - slack or highest > float(high.max()) + slack:
        of_bytes = lowest >= 0 and 2 < highest <= 255 and float(high.max()) <= 1
        raise ValueError(
            f"images span [{lowest:.4g}, {highest:.4g}]; allowed is [{float(low.min()):g}, {float(high.max()):g}]"
            f"{'; divide them by 255' if of_bytes else hint}"
        )


def check_batch(images: Tensor) -> None:
    """Raise unless `images` is a floating-point tensor (N, C, H, W).

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another shape, no images.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else f"a {type(images).__name__}"
        remedy = "uint8 / 255 for pictures"
        if isinstance(images, (list, tuple)):
            remedy = "torch.stack makes one of a list"
        elif isinstance(images, np.ndarray):
            remedy = "torch.from_numpy(x).float() makes one"
        raise TypeError(f"images are {kind}; a floating-point tensor is needed ({remedy})")
    if images.layout != torch.strided:
        raise TypeError(f"images are {images.layout}; a dense tensor is needed: images.to_dense()")
    if images.dim() != 4 or images.numel() == 0:
        remedy = ": images[None] for one image, images[:, None] for grey ones" if images.dim() == 3 else ""
        raise ValueError(f"images have shape {tuple(images.shape)}; (N, C, H, W) with N >= 1 is needed{remedy}")


def class_indices(labels: Any, n: int, num_classes: int | None = None) -> Tensor:
    """Return labels given as (N,), (N, 1) or one-hot (N, K) as class indices (N,), int64.

    Args:
        labels: array or tensor.
        n: how many there must be.
        num_classes: how many classes there are, if that is known.

    Raises:
        TypeError: nothing that can be a tensor, flags.
        ValueError: another shape, values that are not whole, soft labels, or a class out of range.
    """
    if labels is None:
        raise TypeError("labels=None is not allowed here; a tensor of class indices is needed")
    try:
        indices: Tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"labels are a {type(labels).__name__}; a tensor of class indices is needed") from None
    shape = tuple(indices.shape)
    if shape != (n,) and (len(shape) != 2 or shape[0] != n):
        raise ValueError(f"labels have shape {shape}; expected ({n},), ({n}, 1) or ({n}, K)")
    if len(shape) == 2 and shape[1] > 1:
        one_hot = ((indices == 0) | (indices == 1)).all() & (indices.sum(1) == 1).all()
        check_values(one_hot, holds(f"labels of shape {shape} are not one-hot; each row needs a single 1"))
        indices = indices.int().argmax(1)
    elif indices.dtype == torch.bool:
        raise TypeError("labels are torch.bool; class indices are needed (labels.long() for classes 0 and 1)")
    elif indices.is_floating_point():
        whole = (indices == indices.round()).all()
        check_values(whole, holds("labels are not whole numbers; class indices are needed"))
    return check_class_range(indices.reshape(n).long(), num_classes if num_classes is not None else math.inf)


def check_class_range(labels: Tensor, num_classes: float) -> Tensor:
    """Return class indices `labels` if all of them lie in [0, num_classes); clamped where that is found out later.

    Raises:
        ValueError: one does not.
    """
    if check_values(torch.stack(torch.aminmax(labels)), partial(_check_classes, num_classes)):
        return labels
    return labels.clamp(0, num_classes - 1 if math.isfinite(num_classes) else None)


def _check_classes(num_classes: float, lowest: int, highest: int) -> None:
    if lowest < 0 or highest >= num_classes:
        wrong = lowest if lowest < 0 else highest
        allowed = f"0 to {num_classes - 1}" if math.isfinite(num_classes) else "0 and above"
        raise ValueError(f"labels contain class {wrong}; allowed is {allowed}")
