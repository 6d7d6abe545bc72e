"""Map -> weight: how much of the radius between eps_low and eps a pixel gets.

A rule is any function of maps (N, 1, H, W) in [0, 1] that returns weights (N, 1, H, W), bool or in [0, 1]; the radius
of a pixel is eps_low + weight * (eps - eps_low).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .checks import check_number, shown
from .deferred import check_values

Rule = Callable[[Tensor], Tensor]


class Threshold:
    """The paper's rule: 1 where the standardised map (L - mean(L)) / std(L) is above a threshold, else 0 (section 3.2).

    Args:
        threshold: in standard deviations of the map. (Default: 1.0, the paper's)

    Raises:
        TypeError: no number.
        ValueError: not finite.
    """

    def __init__(self, threshold: float = 1.0):
        self.threshold = check_number("threshold", threshold, low=None)

    def __call__(self, maps: Tensor) -> Tensor:
        """Return where maps (N, 1, H, W) are high, bool."""
        deviation, mean = torch.std_mean(maps, dim=(1, 2, 3), keepdim=True, correction=0)
        return (maps - mean) > self.threshold * deviation

    def __repr__(self) -> str:
        return f"Threshold({self.threshold:g})"


class TopShare:
    """1 on the given share of the pixels, those with the highest map, else 0; as many pixels in every image.

    Args:
        share: of the pixels, in (0, 1].

    Raises:
        TypeError: no number.
        ValueError: not in (0, 1].
    """

    def __init__(self, share: float):
        self.share = check_number("share", share, above=True, high=1.0)

    def __call__(self, maps: Tensor) -> Tensor:
        """Return where maps (N, 1, H, W) are highest, bool."""
        flat = maps.flatten(1)
        chosen = flat.topk(max(1, round(self.share * flat.shape[1])), dim=1).indices
        return torch.zeros_like(flat, dtype=torch.bool).scatter(1, chosen, True).view_as(maps)

    def __repr__(self) -> str:
        return f"TopShare({self.share:g})"


class Soft:
    """The map itself, scaled to [0, 1]: the radius grows with it."""

    def __call__(self, maps: Tensor) -> Tensor:
        """Return maps (N, 1, H, W) as they are."""
        return maps

    def __repr__(self) -> str:
        return "Soft()"


def check_rule(rule: Any) -> Rule:
    """Return `rule` if it can be called on maps.

    Raises:
        TypeError: it cannot.
    """
    if isinstance(rule, type) or not callable(rule):
        raise TypeError(
            f"rule={rule!r} is a {type(rule).__name__}; a function of maps is needed, such as Threshold(1.0)"
        )
    checked: Rule = rule
    return checked


def check_weights(name: str, weights: Any, images: Tensor) -> Tensor:
    """Return `weights` if they are of the images; clamped where it is found out later whether they lie in [0, 1].

    Args:
        name: of the argument.
        weights: bool, or numbers in [0, 1], (N, 1, H, W).
        images: (N, C, H, W).

    Raises:
        TypeError: no tensor.
        ValueError: another dtype or shape, or numbers outside [0, 1].
    """
    needed = (len(images), 1, *images.shape[2:])
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name} is a {type(weights).__name__}; a tensor {needed}, bool or in [0, 1], is needed")
    if weights.shape != needed or not (weights.dtype == torch.bool or weights.is_floating_point()):
        raise ValueError(f"{name} is {weights.dtype} {tuple(weights.shape)}; {needed}, bool or in [0, 1], is needed")
    if weights.dtype != torch.bool and weights.numel():
        return _in_range(f"{name} has", weights)
    return weights


def _in_range(found: str, weights: Tensor) -> Tensor:
    at_once = check_values(torch.stack(torch.aminmax(weights.detach())), partial(_check_range, found))
    return weights if at_once else weights.clamp(0, 1)


def _check_range(found: str, lowest: float, highest: float) -> None:
    if not 0 <= lowest <= highest <= 1:  # false for NaN
        raise ValueError(f"{found} weights from {lowest:g} to {highest:g}; they must be in [0, 1]")


def weights_of(rule: Rule, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights that a rule makes of maps, and which images it says nothing of, bool (N, 1, 1, 1).

    Those have a map without signal, or no pixel with a weight; their weights are 1 everywhere.

    Args:
        rule: maps -> weights.
        maps: (N, 1, H, W) in [0, 1], zeros without signal.

    Raises:
        ValueError: weights of another shape, outside [0, 1] or not finite.
    """
    weights = rule(maps)
    if not isinstance(weights, Tensor) or weights.shape != maps.shape:
        shape = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(f"rule={shown(rule)} returned {shape}; weights of shape {tuple(maps.shape)} are needed")
    weights = torch.where(without_signal(maps), torch.ones_like(weights), weights.detach())
    if weights.dtype != torch.bool and type(rule) is not Soft:  # which need no look, for which a GPU must be waited for
        weights = _in_range(f"rule={shown(rule)} returned", weights)
    silent = without_signal(maps) | (weights.amax((1, 2, 3), keepdim=True) == 0)
    return torch.where(silent, torch.ones_like(weights), weights), silent


def without_signal(maps: Tensor) -> Tensor:
    """Return which of the `maps` (N, 1, H, W) say nothing of their image, bool (N, 1, 1, 1)."""
    return maps.amax((1, 2, 3), keepdim=True) == 0
