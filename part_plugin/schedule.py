"""When PART uses which masks: none while it burns in, then new ones every so many epochs (PART, section 3.4)."""

from __future__ import annotations

from .checks import check_count


class Schedule:
    """Burn-in and renewal of masks, counted in epochs.

    Args:
        burn_in: number of first epochs with eps everywhere.
        mask_every: masks are renewed every so many epochs after that (the paper's s).

    Attributes:
        epoch: number of the running epoch, counted from 0; None before `set_epoch`.

    Raises:
        TypeError: a count that is no integer.
        ValueError: burn_in < 0, mask_every < 1.
    """

    def __init__(self, burn_in: int, mask_every: int):
        self.burn_in = check_count("burn_in", burn_in, 0)
        self.mask_every = check_count("mask_every", mask_every)
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, counted from 0."""
        self.epoch = check_count("epoch", epoch, 0)

    @property
    def burning_in(self) -> bool:
        """Whether this epoch still uses eps everywhere."""
        if self.burn_in == 0 and self.mask_every == 1:
            return False  # nothing counts epochs
        return self._known_epoch() < self.burn_in

    @property
    def renewal(self) -> int | None:
        """Number of the renewal that this epoch's masks are of; None while burning in."""
        epoch = self._known_epoch()
        return None if epoch < self.burn_in else (epoch - self.burn_in) // self.mask_every

    def _known_epoch(self) -> int:
        if self.epoch is None:
            raise RuntimeError(
                f"burn_in={self.burn_in} and mask_every={self.mask_every} count epochs: call set_epoch(epoch) at the "
                "start of each, or pass burn_in=0 and mask_every=1"
            )
        return self.epoch
