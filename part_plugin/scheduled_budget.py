"""The radii of a batch in its epoch: eps everywhere while burning in, then by masks given, remembered or made anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .budget import Budget, set_radius
from .deferred import moved
from .masks import MaskMemory
from .network.batching import in_parts
from .network.sharding import is_sharded, on_any_rank
from .radii import uniform
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
            important: weights (N, 1, H, W) instead of those made here, checked; see `Budget.check_important`.
        """
        if self.schedule.burning_in:
            return uniform(x, self.budget.eps), None
        if not self.budget.has_weights or self.budget.eps_low == self.budget.eps:
            return self.budget.radii(model, x, y), None
        if important is not None:
            return self._radii_of(moved(important, x), x), None
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
        numbers = torch.as_tensor([0.5] if index is None else index).cpu()
        if numbers.shape != (len(x),) or numbers.is_floating_point():
            raise ValueError(
                f"mask_every={self.schedule.mask_every} remembers masks per sample; pass index of shape ({len(x)},)"
            )
        self.masks_due()
        numbers = numbers.long()
        new = (~self.masks.knows(numbers)).nonzero()[:, 0]
        if on_any_rank(model, len(new) > 0, x):
            rows, sharded = moved(new, x), is_sharded(model)  # all of whose ranks must run it alike
            weights = self._weights(model, x, y)[0][rows] if sharded else self._weights(model, x[rows], y[rows])[0]
            self.masks.put(numbers[new], weights)
        return moved(self.masks.get(numbers, x.shape[2:]), x)

    def masks_of(self, index: Tensor, size: Sequence[int]) -> Tensor:
        """Return the weights (N, 1, H, W) of the samples numbered `index` of `size` (H, W) in this epoch.

        They are all 1 while burning in, and where masks are made anew for every batch.

        Raises:
            RuntimeError: a sample of which nothing is remembered, or an epoch that is not known.
        """
        if self.schedule.mask_every == 1 or self.schedule.burning_in:
            return torch.ones(len(index), 1, *size, dtype=torch.bool)
        self.masks_due()
        missing = index[~self.masks.knows(index)]
        if len(missing):
            raise RuntimeError(
                f"no mask is remembered of sample {int(missing[0])} in epoch {self.schedule.epoch}: call remember for "
                "all samples after set_epoch, and only then begin to load (workers know what was known when they began)"
            )
        return self.masks.get(index, size)

    def masks_due(self) -> bool:
        """Forget the masks if this epoch renews them, and return whether there are none yet."""
        renewal = self.schedule.renewal
        self.masks.renew(renewal)
        return renewal is not None and not self.masks

    def _weights(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = in_parts(lambda rows: self.budget.weights(model, x[rows], y[rows]), model, x)
        weights, logits = (torch.cat(each) for each in zip(*parts, strict=True))
        return weights, logits
