"""What is evaluated: whether any accuracy can be true of a model, and a card that tells it from all others."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_class_range
from ..mismatch import are_probabilities
from ..network.view import logits_of
from .attack_result import AttackResult
from .common import digest, fingerprint


def examine(model: nn.Module, images: Tensor, y: Tensor, strict: bool) -> list[str]:
    """Look for what makes every accuracy meaningless; refuse such a model, or return what is wrong with it.

    Args:
        model: in eval mode.
        images: the first few, (N, C, H, W), on the model's device.
        y: all labels, class indices.
        strict: whether to refuse it.

    Raises:
        ValueError: such a model, labels without a logit, logits that are not finite.
    """
    logits, repeated = twice(model, images)
    with torch.no_grad():
        alone = logits_of(model, images[:1])
    check_class_range(y, logits.shape[1])
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite on the first images")
    wrong = []
    if differ(logits, repeated):
        wrong.append("the model's logits change from call to call, as in a randomised defence")
    elif differ(logits[:1], alone, logits):
        wrong.append("the model's logits of an image depend on the other images of the batch")
    if are_probabilities(logits):
        wrong.append("the model's output is a probability distribution; attacks need the logits")
    if wrong and strict:
        raise ValueError(f"{wrong[0]} (strict=False evaluates it all the same)")
    return wrong


def guessing(model: nn.Module, images: Tensor, natural: AttackResult | None) -> list[str]:
    """Return a warning if the accuracy on natural images is not told from that of guesses.

    Args:
        model: in eval mode.
        images: a few, (N, C, H, W), on the model's device.
        natural: the result, if there is one.
    """
    if natural is None or natural.interval[0] > 1 / 2:  # of two classes
        return []
    with torch.no_grad():
        classes = logits_of(model, images).shape[1]
    if natural.interval[0] > 1 / classes:
        return []
    return [
        f"the natural accuracy of {natural.accuracy:.1%} on {len(natural.correct)} images is not told from guessing "
        f"among {classes} classes; the network may be made for images of another normalisation (mean, std) or size, or "
        "for classes in another order"
    ]


def card_of(
    model: nn.Module, x: Tensor, y: Tensor, names: list[str], eps: float, seed: int, batch_size: int
) -> dict[str, Any]:
    """Return what was evaluated, as plain data that tells it from everything else.

    `model`, `x`, `y`, `eps`, `seed` and `batch_size` are those of `evaluate`, `names` those of the attacks.
    """
    return {
        "weights": fingerprint(model),
        "data": digest([x, y]),
        "n": len(x),
        "eps": eps,
        "norm": "Linf",
        "seed": seed,
        "batch_size": batch_size,
        "attacks": names,
        "versions": versions(),
    }


def twice(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (N, K) that a `model` has of `images`, and those that it has the next time."""
    with torch.no_grad():
        return logits_of(model, images), logits_of(model, images)


def differ(logits: Tensor, others: Tensor, scale: Tensor | None = None) -> bool:
    """Return whether logits differ by more than by rounding.

    Args:
        logits: (N, K).
        others: likewise.
        scale: logits whose size tells what is rounding. (Default: `logits`)
    """
    size = float((logits if scale is None else scale).abs().max())
    return bool((logits - others).abs().max() > 1e-3 * (1 + size))


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that a result depends on, None for those that are not installed."""
    packages = ("part_plugin", "torch", "pyautoattack", "torchattacks", "adversarial-robustness-toolbox")
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
