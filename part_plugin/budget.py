"""How far each pixel may move: the one idea that every attack and trainer here shares.

A budget is called with a model and a batch and answers with a tensor of l_inf radii, (N, 1, H, W)
or (N, C, H, W), in the units of the images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_choice, check_number
from .deferred import moved
from .network.isolation import callers_own
from .radii import checked_radii, expanded
from .radius import check_eps_pair
from .rules import check_weights


class Budget(ABC):
    """How far each pixel may move; subclass it for a budget of your own, or pass any object with `eps` and a call.

    Attributes:
        eps: largest radius, in the images' units.
        eps_low: smallest radius; the same unless a subclass says otherwise.
    """

    @property
    @abstractmethod
    def eps(self) -> float:
        """Largest radius."""

    @property
    def eps_low(self) -> float:
        """Smallest radius."""
        return self.eps

    @property
    def has_weights(self) -> bool:
        """Whether the radii come from a weight per pixel, as a map gives it, that can be given or remembered."""
        return False

    @property
    def is_checked(self) -> bool:
        """Whether what a call returns is known to be allowed, as of the budgets here, but not of a user's own."""
        return False

    @abstractmethod
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the radius of every pixel.

        Args:
            model: network that returns logits (N, K).
            images: (N, C, H, W), in the units of the radii.
            labels: class indices (N,), where there are any.

        Returns:
            Radii in [0, eps] that broadcast to the images.
        """

    def weights(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the weight of every pixel and the logits (N, K); only where `has_weights`.

        It takes `model`, `images` and `labels` as a call does.

        Raises:
            NotImplementedError: this budget has none.
        """
        raise NotImplementedError(f"{self!r} has no weights")

    def radii_of(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return the radii of `images` that belong to `weights`; only where `has_weights`.

        Raises:
            NotImplementedError: this budget has none.
        """
        raise NotImplementedError(f"{self!r} has no weights")

    def radii(
        self, model: nn.Module, images: Tensor, labels: Tensor | None = None, important: Tensor | None = None
    ) -> Tensor:
        """Return what a call does, checked, in dtype and place of the images.

        Args:
            model: network that returns logits (N, K).
            images: (N, C, H, W), in the units of the radii.
            labels: class indices (N,), where there are any.
            important: weight of every pixel to use instead of asking the model, bool or in [0, 1], (N, 1, H, W).

        Raises:
            TypeError: something else than a floating-point tensor.
            ValueError: radii that are not finite, not in [0, eps], or do not broadcast to the images; `important` for
                a budget without weights.
        """
        if important is not None:
            important = self.check_important(important, images)
            return self.checked(self.radii_of(moved(important, images), images), images)
        if self.is_checked:
            return self(model, images, labels)
        with callers_own(model) as own:  # which a budget of the user's may hold as well
            return self.checked(self(own, images, labels), images)

    def checked(self, radii: Any, images: Tensor) -> Tensor:
        """Return `radii` that this budget made for `images`, looked at if need be; see `checked_radii`."""
        return radii if self.is_checked else checked_radii(radii, self.eps, images)

    def check_important(self, important: Any, images: Tensor) -> Tensor:
        """Return `important` if it may take the place of this budget's weights for `images` (N, C, H, W).

        Raises:
            TypeError: no tensor.
            ValueError: another dtype or shape, numbers outside [0, 1], or a budget without weights.
        """
        if not self.has_weights:
            raise ValueError(f"important does not go with {self!r}, which has a radius for every pixel already")
        return check_weights("important", important, images)


class FixedBudget(Budget):
    """A budget that asks no model: one radius for all pixels, or a given radius for each.

    Args:
        eps: a number, or a tensor that broadcasts to (N, C, H, W), in the images' units.

    Raises:
        TypeError: neither a number nor a tensor.
        ValueError: a negative or non-finite radius, or none at all.
    """

    def __init__(self, eps: float | Tensor):
        try:
            self._radii = torch.as_tensor(eps, dtype=torch.float64).detach().clone()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"eps={eps!r} is a {type(eps).__name__}; a number or a tensor of radii is needed") from None
        if self._radii.numel() == 0:
            raise ValueError(f"eps has shape {tuple(self._radii.shape)}; at least one radius is needed")
        self._eps_low, self._eps = (float(value) for value in torch.aminmax(self._radii))
        if not 0 <= self._eps_low <= self._eps < torch.inf:  # false for NaN
            found = f"{self._eps_low:g}" if self._radii.numel() == 1 else f"{self._eps_low:g} to {self._eps:g}"
            raise ValueError(f"eps={found} is not allowed; every radius must be finite and >= 0")

    @property
    def eps(self) -> float:
        """Largest radius."""
        return self._eps

    @property
    def eps_low(self) -> float:
        """Smallest radius."""
        return self._eps_low

    @classmethod
    def quadrant(cls, name: str, eps: float, eps_low: float, size: tuple[int, int]) -> FixedBudget:
        """Return full eps in one quarter of an image and eps_low in the rest (PART, Figure 1).

        Args:
            name: "top-left", "top-right", "bottom-left" or "bottom-right".
            eps: radius of that quarter, in the images' units.
            eps_low: radius of the rest.
            size: (H, W) of the images.

        Raises:
            ValueError: an unknown name, eps_low > eps, a negative radius.
        """
        check_eps_pair(eps, eps_low)
        check_choice("name", name, ("top-left", "top-right", "bottom-left", "bottom-right"))
        height, width = size
        rows = slice(None, height // 2) if name.startswith("top") else slice(height // 2, None)
        columns = slice(None, width // 2) if name.endswith("left") else slice(width // 2, None)
        radii = torch.full((height, width), eps_low, dtype=torch.float64)
        radii[rows, columns] = eps
        return cls(radii)

    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the radius of every pixel, (N, 1, H, W) or (N, C, H, W)."""
        return expanded(self._radii, images)

    @property
    def is_checked(self) -> bool:
        """Whether the radii are those that were checked when this budget was made."""
        return type(self) is FixedBudget

    def __repr__(self) -> str:
        same = self.eps_low == self.eps
        return f"FixedBudget(eps={self.eps})" if same else f"FixedBudget({self.eps_low} to {self.eps})"


class AdoptedBudget(Budget):
    """A user's object with `eps` and a call, as a budget.

    Args:
        inner: that object; its `eps_low` is taken if it has one.

    Raises:
        TypeError: an `eps` that is no number.
        ValueError: a negative or non-finite `eps`.
    """

    def __init__(self, inner: Any):
        check_number("budget.eps", inner.eps)
        self.inner = inner

    @property
    def eps(self) -> float:
        """Largest radius."""
        return float(self.inner.eps)

    @property
    def eps_low(self) -> float:
        """Smallest radius, if the object tells it."""
        eps_low = getattr(self.inner, "eps_low", None)
        return self.eps if eps_low is None else float(eps_low)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return what the object returns."""
        radii: Tensor = self.inner(model, images, labels)
        return radii

    def __repr__(self) -> str:
        return repr(self.inner)


def set_radius(budget: Budget, name: str, value: float | None) -> None:
    """Set a radius of a budget on behalf of an attack.

    Args:
        budget: whose radius it is.
        name: "eps" or "eps_low".
        value: the new radius, in the images' units.

    Raises:
        TypeError: the value is no number.
        ValueError: the budget cannot be changed, or not to this value.
    """
    try:
        setattr(budget, name, value)
    except AttributeError:
        raise ValueError(f"{name}={value} cannot be set: {budget!r} keeps its radii; make a new attack") from None
