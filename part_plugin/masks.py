"""Weights remembered per sample between two renewals: a bit per pixel, or 8 where a rule gives more than yes and no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LEVELS = 255
"""Steps between a weight of 0 and one of 1, where weights are numbers."""


class MaskMemory:
    """How important which pixel of which sample was, since the masks were last renewed: one array, a row per sample.

    Attributes:
        since: number of the renewal that the masks are of; None before the first.
        size: (H, W) of the images; None while nothing is remembered.
        soft: whether weights are numbers, remembered in 255 steps, rather than bool.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self._forget()

    def _forget(self) -> None:
        self.size: tuple[int, int] | None = None
        self.soft = False
        self._rows: npt.NDArray[np.uint8] = np.empty((0, 0), np.uint8)
        self._known: npt.NDArray[np.bool_] = np.empty(0, bool)

    def __len__(self) -> int:
        return int(self._known.sum())

    def knows(self, indices: Tensor) -> Tensor:
        """Return of which of the samples numbered `indices` (N,) weights are remembered, bool (N,)."""
        numbers = indices.cpu().numpy()
        inside = (numbers >= 0) & (numbers < len(self._known))
        inside[inside] = self._known[numbers[inside]]
        return torch.from_numpy(inside)

    def renew(self, since: int | None) -> None:
        """Forget everything if the renewal with the number `since` is another than that of the masks."""
        if since != self.since:
            self._forget()
            self.since = since

    def put(self, indices: Tensor, masks: Tensor) -> None:
        """Remember the weights of some samples.

        Args:
            indices: numbers of the samples, (N,), from 0 on; as much memory is taken as the largest asks for.
            masks: bool (N, 1, H, W), or numbers in [0, 1], in their order.

        Raises:
            ValueError: too few or negative numbers of samples, weights that are numbers where bool is remembered or the
                other way round, images of another size than those before.
        """
        if len(indices) == 0:
            return
        numbers, soft = indices.cpu().numpy(), masks.is_floating_point()
        if len(numbers) != len(masks):
            raise ValueError(f"masks of {len(masks)} samples do not fit the numbers of {len(numbers)}")
        if numbers.min() < 0:
            raise ValueError(f"index has {numbers.min()}; samples are numbered from 0")
        if len(self) and soft != self.soft:
            before = "numbers" if self.soft else "bool"
            raise ValueError(f"the rule gives {masks.dtype} weights, and {before} before; it must give one kind")
        self._check_size(masks.shape[2:])
        self.soft = soft
        rows = (masks.double() * LEVELS).round().to(torch.uint8) if soft else masks
        flat = rows.flatten(1).cpu().numpy()
        packed = flat if soft else np.packbits(flat, axis=1)
        self._make_room(int(numbers.max()) + 1, packed.shape[1])
        self._rows[numbers], self._known[numbers] = packed, True

    def get(self, indices: Tensor, size: Sequence[int]) -> Tensor:
        """Return the weights of some samples, bool or float32 (N, 1, H, W).

        Args:
            indices: numbers of the samples, (N,).
            size: (H, W) of their images.

        Raises:
            KeyError: nothing is remembered of one of them.
            ValueError: masks are remembered of images of another size.
        """
        missing = indices[~self.knows(indices)]
        if len(missing):
            raise KeyError(f"no mask is remembered of sample {int(missing[0])}")
        self._check_size(size)
        rows = self._rows[indices.cpu().numpy()]
        if self.soft:
            return torch.from_numpy(rows).view(-1, 1, *size).float() / LEVELS
        bits = np.unpackbits(rows, axis=1, count=int(np.prod(size)))
        return torch.from_numpy(bits.view(bool)).view(-1, 1, *size)

    def _make_room(self, samples: int, width: int) -> None:
        if samples <= len(self._known):
            return
        more = max(samples, 2 * len(self._known)) if len(self._known) else samples
        rows, known = np.zeros((more, width), np.uint8), np.zeros(more, bool)
        rows[: len(self._known)], known[: len(self._known)] = self._rows.reshape(-1, width), self._known
        self._rows, self._known = rows, known

    def _check_size(self, size: Sequence[int]) -> None:
        size = (size[0], size[1])
        if self.size is None:
            self.size = size
        if size != self.size:
            raise ValueError(f"masks are remembered of images of {self.size}, and these are {size}; sizes must agree")

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain data."""
        return {
            "masks_since": self.since,
            "mask_size": self.size,
            "mask_keys": torch.from_numpy(np.flatnonzero(self._known)),
            "masks": torch.from_numpy(self._rows[: len(self._known)][self._known]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, what `state_dict` returned.

        Raises:
            ValueError: not as many numbers as masks.
        """
        self._forget()
        self.since, size = state["masks_since"], state.get("mask_size")
        self.size = None if size is None else (size[0], size[1])
        numbers, rows = state["mask_keys"].numpy(), state["masks"].cpu().numpy()
        if len(numbers) != len(rows):
            raise ValueError(f"masks of {len(rows)} samples do not fit the numbers of {len(numbers)}")
        if len(numbers):
            self._make_room(int(numbers.max()) + 1, rows.shape[1])
            self._rows[numbers], self._known[numbers] = rows, True
        self.soft = self.size is not None and rows.shape[1] == self.size[0] * self.size[1]
