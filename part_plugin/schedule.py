"""What PART does in which epoch: no masks while it burns in, then new ones every so often (section 3.4); radii."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .checks import check_count, shown
from .radius import check_eps_pair

Radius = float | Callable[[int], float]
"""A radius, or a function of the number of the epoch, counted from 0."""


Fixed = TypeVar("Fixed", float, float | None)


def at_first(radius: Callable[[int], float] | Fixed) -> float | Fixed:
    """Return the `radius` of epoch 0."""
    return radius(0) if callable(radius) else radius


class Schedule:
    """Burn-in and renewal of masks, and radii that change, counted in epochs.

    Args:
        burn_in: number of first epochs with eps everywhere.
        mask_every: masks are renewed every so many epochs after that (the paper's s).
        radii: eps, eps_low or both; those that are functions of the epoch change with it.

    Attributes:
        epoch: number of the running epoch, counted from 0; None before `set_epoch`.

    Raises:
        TypeError: a count that is no integer.
        ValueError: burn_in < 0, mask_every < 1.
    """

    def __init__(self, burn_in: int, mask_every: int, **radii: Radius | None):
        self.burn_in = check_count("burn_in", burn_in, 0)
        self.mask_every = check_count("mask_every", mask_every)
        self.functions = {name: radius for name, radius in radii.items() if callable(radius)}
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> dict[str, float]:
        """Begin an `epoch`, counted from 0, and return the radii that change with it, by name.

        Raises:
            TypeError, ValueError: an epoch or a radius that is not allowed.
        """
        check_count("epoch", epoch, 0)
        radii = {name: function(epoch) for name, function in self.functions.items()}
        if len(radii) == 2:
            check_eps_pair(**radii)
        self.epoch = epoch
        return radii

    @property
    def burning_in(self) -> bool:
        """Whether this epoch still uses eps everywhere."""
        if self.burn_in == 0 and self.mask_every == 1 and not self.functions:
            return False  # nothing counts epochs
        return self._known_epoch() < self.burn_in

    @property
    def renewal(self) -> int | None:
        """Number of the renewal that this epoch's masks are of; None while burning in."""
        epoch = self._known_epoch()
        return None if epoch < self.burn_in else (epoch - self.burn_in) // self.mask_every

    def _known_epoch(self) -> int:
        if self.epoch is None:
            numbers = f"burn_in={self.burn_in} and mask_every={self.mask_every}"
            named = ", ".join([numbers, *(f"{name}={shown(radius)}" for name, radius in self.functions.items())])
            fixed = " and numbers for radii" if self.functions else ""
            raise RuntimeError(
                f"{named} count epochs: call set_epoch(epoch) at the start of each, or pass burn_in=0 and "
                f"mask_every=1{fixed}"
            )
        return self.epoch
