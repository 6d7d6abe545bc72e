"""Map -> radius: full eps where a class activation map is high, eps_low elsewhere; `make_budget` for all adapters."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, nn

from .budget import AdoptedBudget, Budget
from .cam import map_and_logits
from .checks import check_choice, class_indices, shown
from .deferred import check_values, moved
from .map_sources import Cam, cam_name, check_cam
from .network.view import without_wrappers
from .radii import uniform
from .radius import check_eps_pair
from .rules import Rule, Threshold, check_rule, weights_of
from .target_layers import ReshapeTransform, TargetLayers, layer_names, resolve_target_layers

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

WARN_ABOVE = 0.05
"""Share of maps without signal that is warned of."""
LOW_RATIO = 7 / 8
"""eps_low / eps where eps_low is not given: the paper's 7/255 and 8/255."""


class BudgetOptions(TypedDict, total=False):
    """What `PixelBudget` takes besides its two radii, and so every attack and trainer here, by keyword."""

    cam: Cam
    target_layers: TargetLayers
    reshape_transform: ReshapeTransform | None
    rule: Rule
    target: str


SCHEDULE = ("burn_in", "mask_every")
"""Arguments of those that know epochs."""


class PixelBudget(Budget):
    """Full eps on the pixels that a class activation map calls important, eps_low elsewhere.

    With L the map resized to (H, W), the weight is w = (L - mean(L)) / std(L) per image, a pixel is
    important where w > 1, and eps_i = eps there and eps_low elsewhere (PART, section 3.2). Another `rule`
    makes other weights of the map.
    A map without signal, or on which the rule marks no pixel, says nothing about its image, so that image keeps eps
    everywhere; `images` and `no_signal` count the maps and how many of them were of that kind. Where they are more
    than 5 %, that is warned of once.

    Args:
        eps: largest perturbation of important pixels, in the images' units. (Default: 8/255)
        eps_low: largest perturbation of the others; eps_low == eps needs no map. (Default: None, 7/8 of eps, the
            paper's ratio, also when eps is changed later)
        cam, target_layers, reshape_transform: see `class_activation_map`.
        rule: what makes weights of maps, see `part_plugin.rules`. (Default: Threshold(1.0), the paper's)
        target: class to map, "predicted" or "true". (Default: "predicted")

    Raises:
        TypeError: a radius that is no number, a `cam` or `rule` that cannot be called.
        ValueError: eps < 0, eps_low < 0, eps_low > eps, an unknown `cam` or `target`.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        eps_low: float | None = None,
        *,
        cam: Cam = "gradcam",
        target_layers: TargetLayers = None,
        reshape_transform: ReshapeTransform | None = None,
        rule: Rule | None = None,
        target: str = "predicted",
    ):
        check_eps_pair(eps, eps_low)
        check_cam(cam, target_layers, reshape_transform)
        self._eps, self._eps_low = eps, eps_low
        self.cam = cam
        self.target_layers = target_layers
        self.reshape_transform = reshape_transform
        self.rule = Threshold() if rule is None else check_rule(rule)
        self.target = check_choice("target", target, ("predicted", "true"))
        self.images = 0
        self._look_at: float = 1
        self._no_signal = torch.zeros((), dtype=torch.long)  # a tensor: counting must not wait for a GPU

    @property
    def eps(self) -> float:
        """Largest radius, that of important pixels."""
        return self._eps

    @eps.setter
    def eps(self, value: float) -> None:
        check_eps_pair(value, self._eps_low)
        self._eps = value

    @property
    def eps_low(self) -> float:
        """Smallest radius, that of unimportant pixels."""
        return LOW_RATIO * self._eps if self._eps_low is None else self._eps_low

    @eps_low.setter
    def eps_low(self, value: float | None) -> None:
        check_eps_pair(self._eps, value)
        self._eps_low = value

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the radius of every pixel, (N, 1, H, W), for images (N, C, H, W) and labels (N,)."""
        if self.eps_low == self.eps:
            return uniform(images, self.eps)
        return self.radii_of(self.weights(model, images, labels)[0], images)

    def weights(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the weight of every pixel, (N, 1, H, W), and the logits (N, K) that were computed on the way.

        Weights are bool, or numbers in [0, 1]; those of a map without signal are all 1.

        Raises:
            TypeError: `images` that are no floating-point tensor.
            ValueError: no labels for target="true", labels, maps or weights that are not allowed.
        """
        classes = None
        if self.target == "true":
            if labels is None:
                raise ValueError("labels=None does not go with target='true'; pass labels or target='predicted'")
            classes = class_indices(labels, len(images))
        maps, logits = map_and_logits(model, images, classes, self.cam, self.target_layers, self.reshape_transform)
        weights, silent = weights_of(self.rule, maps)
        self.images += len(images)
        self._no_signal = moved(self._no_signal, maps) + silent.sum()
        if self.images >= self._look_at:  # at ever longer intervals
            self._look_at = 2 * self.images
            check_values(self._no_signal, partial(self._look, self.images, self._source(model, images)))
        return weights, logits

    def _look(self, images: int, source: str, no_signal: int) -> None:
        """Warn, once, where maps say nothing of many images."""
        share = no_signal / images
        if share > WARN_ABOVE and self._look_at < math.inf:
            self._look_at = math.inf
            logger.warning(
                "%.0f%% of the maps had no signal (%d of %d, %s); those images keep the full eps everywhere",
                100 * share,
                no_signal,
                images,
                source,
            )

    def _source(self, model: nn.Module, images: Tensor) -> str:
        """Return where the maps come from, for a message."""
        if not isinstance(self.cam, str) or self.cam == "FullGrad":
            return f"cam={cam_name(self.cam)}"
        layers = resolve_target_layers(without_wrappers(model), self.target_layers, images)
        return f"cam={self.cam} at {' and '.join(map(repr, layers))}"

    def radii_of(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return eps_low + weight * (eps - eps_low), in the dtype of `images`; for bool weights one or the other.

        Args:
            weights: bool or in [0, 1], (N, 1, H, W) or (N, C, H, W).
            images: (N, C, H, W).
        """
        eps, eps_low = uniform(images, self.eps), uniform(images, self.eps_low)
        if weights.dtype == torch.bool:
            return torch.where(weights, eps, eps_low)
        return torch.lerp(eps_low, eps, weights.to(images.dtype))

    @property
    def has_weights(self) -> bool:
        """Whether the radii come from weights; not those of a subclass with a call of its own."""
        return type(self).__call__ is PixelBudget.__call__

    @property
    def is_checked(self) -> bool:
        """Whether weights, and so radii, have been checked; not those of a subclass."""
        return type(self) is PixelBudget

    @property
    def no_signal(self) -> int:
        """How many maps had no signal since the last `reset_counts`."""
        return int(self._no_signal)

    def reset_counts(self) -> None:
        """Count `images` and `no_signal` from zero again."""
        self.images = 0
        self._no_signal = torch.zeros_like(self._no_signal)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(eps={self.eps}, eps_low={self.eps_low}, cam={cam_name(self.cam)}, "
            f"target_layers={layer_names(self.target_layers)}, rule={self.rule}, target={self.target})"
        )


def make_budget(
    eps: float, eps_low: float | None = None, budget: Any = None, **options: Unpack[BudgetOptions]
) -> Budget:
    """Return the budget that the arguments of an attack or trainer ask for.

    Args:
        eps: largest radius, of important pixels, in the images' units; a `budget` goes before it.
        eps_low: radius of the other pixels. (Default: 7/8 of eps, the paper's ratio, also when eps is changed later)
        budget: a `Budget`, or any object with `eps` and a call (model, images, labels) -> radii.
        **options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

    Raises:
        TypeError: a `budget` that is none, an unknown option.
        ValueError: radii or options that are not allowed, or that are given beside a budget, which has its own.
    """
    for name, value in options.items():
        if name in SCHEDULE:
            raise TypeError(
                f"{name}={shown(value)} is not for attacks, which count no epochs; PART and PARTTrainer take it"
            )
        if name not in BudgetOptions.__annotations__:
            known = ", ".join(BudgetOptions.__annotations__)
            raise TypeError(f"{name}={shown(value)} is no argument here and no option of a budget, which are {known}")
    if budget is None:
        return PixelBudget(eps, eps_low, **options)
    for name, value in {"eps_low": eps_low, **options}.items():
        if value is not None:
            raise ValueError(f"{name}={value} does not go with budget={budget!r}, which has its own")
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, type) or not callable(budget) or not hasattr(budget, "eps"):
        raise TypeError(
            f"budget={shown(budget)} is a {type(budget).__name__}; a Budget or an object with eps and a call "
            "(model, images, labels) -> radii is needed (for one radius everywhere: FixedBudget)"
        )
    return AdoptedBudget(budget)
