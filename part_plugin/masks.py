"""Weights remembered per sample between two renewals: a bit per pixel, or 8 where a rule gives more than yes and no."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LEVELS = 255
"""Steps between a weight of 0 and one of 1, where weights are numbers."""


class MaskMemory:
    """How important which pixel of which sample was, since the masks were last renewed.

    Attributes:
        since: number of the renewal that the masks are of; None before the first.
        size: (H, W) of the images; None while nothing is remembered.
        soft: whether weights are numbers, remembered in 255 steps, rather than bool.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.size: tuple[int, int] | None = None
        self.soft = False
        self._bits: dict[int, npt.NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._bits)

    def __contains__(self, index: int) -> bool:
        return index in self._bits

    def renew(self, since: int | None) -> None:
        """Forget everything if the renewal with the number `since` is another than that of the masks."""
        if since != self.since:
            self._bits, self.size, self.soft, self.since = {}, None, False, since

    def put(self, indices: Iterable[int], masks: Tensor) -> None:
        """Remember the weights of some samples.

        Args:
            indices: numbers of the samples.
            masks: bool (N, 1, H, W), or numbers in [0, 1], in their order.

        Raises:
            ValueError: numbers where bool is remembered or the other way round, or images of another size than those
                before.
        """
        soft = masks.is_floating_point()
        if self._bits and soft != self.soft:
            before = "numbers" if self.soft else "bool"
            raise ValueError(f"the rule gives {masks.dtype} weights, and {before} before; it must give one kind")
        self._check_size(masks.shape[2:])
        self.soft = soft
        kept = (masks.double() * LEVELS).round().to(torch.uint8) if soft else masks
        for index, mask in zip(indices, kept.cpu().numpy(), strict=True):
            self._bits[index] = mask.reshape(-1) if soft else np.packbits(mask)

    def get(self, index: int, size: Sequence[int]) -> Tensor:
        """Return the weights of one sample, bool or float32 (1, H, W); all 1 where none are remembered.

        Args:
            index: number of the sample.
            size: (H, W) of its image.

        Raises:
            ValueError: masks are remembered of images of another size.
        """
        if index not in self._bits:
            return torch.ones(1, *size, dtype=torch.float32 if self.soft else torch.bool)
        self._check_size(size)
        if self.soft:
            return torch.from_numpy(self._bits[index].reshape(1, *size)).float() / LEVELS
        bits = np.unpackbits(self._bits[index], count=int(np.prod(size)))
        return torch.from_numpy(bits.reshape(1, *size).astype(bool))

    def _check_size(self, size: Sequence[int]) -> None:
        size = (size[0], size[1])
        if self.size is None:
            self.size = size
        if size != self.size:
            raise ValueError(f"masks are remembered of images of {self.size}, and these are {size}; sizes must agree")

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain data."""
        bits = np.stack(list(self._bits.values())) if self._bits else np.empty((0, 0), np.uint8)
        return {
            "masks_since": self.since,
            "mask_size": self.size,
            "mask_keys": torch.tensor(list(self._bits), dtype=torch.long),
            "masks": torch.from_numpy(bits),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, what `state_dict` returned."""
        self.since, size = state["masks_since"], state.get("mask_size")
        self.size = None if size is None else (size[0], size[1])
        masks = state["masks"].cpu().numpy()
        self._bits = dict(zip(state["mask_keys"].tolist(), masks, strict=True))
        self.soft = self.size is not None and masks.shape[1] == self.size[0] * self.size[1]
