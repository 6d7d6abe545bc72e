"""The radii of a batch in its epoch: eps everywhere while burning in, then by masks given, remembered or made anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .budget import Budget, set_radius, uniform
from .masks import MaskMemory
from .network.batching import in_parts
from .schedule import Radius, Schedule


class ScheduledBudget:
    """A budget, when it is in force, and the masks that are remembered between two renewals.

    Args:
        budget: the radii after the burn-in.
        burn_in: see `Schedule`.
        mask_every: see `Schedule`.
        radii: see `Schedule`.

    Raises:
        TypeError: a count that is no integer.
        ValueError: counts that are not allowed, or masks to renew of a budget that has none.
    """

    def __init__(self, budget: Budget, burn_in: int, mask_every: int, **radii: Radius | None):
        self.budget = budget
        self.schedule = Schedule(burn_in, mask_every, **radii)
        self.masks = MaskMemory()
        if mask_every > 1 and not budget.has_weights:
            raise ValueError(f"mask_every={mask_every} needs a PixelBudget; {budget!r} has no masks to renew")

    def set_epoch(self, epoch: int) -> None:
        """Begin an `epoch`, counted from 0, with its radii.

        Raises:
            TypeError, ValueError: an epoch or a radius that is not allowed.
        """
        radii = self.schedule.set_epoch(epoch)
        if len(radii) == 2:  # which fit each other, and need not fit those before
            set_radius(self.budget, "eps_low", None)
        for name in sorted(radii):
            set_radius(self.budget, name, radii[name])

    def radii(
        self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None = None, important: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the radii of a batch, and the natural logits (N, K) if a map has computed them.

        Args:
            model: the network in eval mode.
            x: images (N, C, H, W).
            y: class indices (N,).
            index: number of each sample, (N,), where masks are remembered.
            important: weights (N, 1, H, W) instead of those made here; see `Budget.radii`.
        """
        if self.schedule.burning_in:
            return uniform(x, self.budget.eps), None
        if not self.budget.has_weights or self.budget.eps_low == self.budget.eps:
            return self.budget.radii(model, x, y), None
        if important is not None:
            return self.budget.radii(model, x, y, important), None
        if self.schedule.mask_every > 1:
            return self._radii_of(self.remembered(model, x, y, index), x), None
        weights, natural_logits = self._weights(model, x, y)
        return self._radii_of(weights, x), natural_logits

    def _radii_of(self, weights: Tensor, x: Tensor) -> Tensor:
        return self.budget.checked(self.budget.radii_of(weights, x), x)

    def remembered(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None) -> Tensor:
        """Return the masks of the samples numbered `index`, making those not seen since the renewal.

        The arguments `model`, `x` and `y` are those of `radii`.

        Raises:
            ValueError: no number for each sample, masks that do not fit.
        """
        numbers = None if index is None else torch.as_tensor(index)
        if numbers is None or numbers.shape != (len(x),):
            raise ValueError(
                f"mask_every={self.schedule.mask_every} remembers masks per sample; pass index of shape ({len(x)},)"
            )
        self.masks_due()
        keys = numbers.tolist()
        new = [row for row, key in enumerate(keys) if key not in self.masks]
        if new:
            self.masks.put([keys[row] for row in new], self._weights(model, x[new], y[new])[0])
        return torch.stack([self.masks.get(key, x.shape[2:]) for key in keys]).to(x.device)

    def masks_due(self) -> bool:
        """Forget the masks if this epoch renews them, and return whether there are none yet."""
        renewal = self.schedule.renewal
        self.masks.renew(renewal)
        return renewal is not None and not self.masks

    def _weights(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = in_parts(lambda rows: self.budget.weights(model, x[rows], y[rows]), model, x)
        weights, logits = (torch.cat(each) for each in zip(*parts, strict=True))
        return weights, logits
