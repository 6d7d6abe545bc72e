"""Masks remembered per sample between two renewals, a bit per pixel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class MaskMemory:
    """Which pixels of which sample were important, since the masks were last renewed.

    Attributes:
        since: number of the renewal that the masks are of; None before the first.
        size: (H, W) of the images; None while nothing is remembered.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.size: tuple[int, int] | None = None
        self._bits: dict[int, npt.NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._bits)

    def __contains__(self, index: int) -> bool:
        return index in self._bits

    def renew(self, since: int | None) -> None:
        """Forget everything if the renewal with the number `since` is another than that of the masks."""
        if since != self.since:
            self._bits, self.size, self.since = {}, None, since

    def put(self, indices: Iterable[int], masks: Tensor) -> None:
        """Remember the masks of some samples.

        Args:
            indices: numbers of the samples.
            masks: bool (N, 1, H, W), in their order.

        Raises:
            ValueError: weights that are not bool, or images of another size than those before.
        """
        if masks.dtype != torch.bool:
            raise ValueError(
                f"mask_every > 1 remembers a bit per pixel, and the rule gives {masks.dtype} weights; "
                "choose a rule with bool weights, such as Threshold, or mask_every=1"
            )
        self._check_size(masks.shape[2:])
        for index, mask in zip(indices, masks.cpu().numpy(), strict=True):
            self._bits[index] = np.packbits(mask)

    def get(self, index: int, size: Sequence[int]) -> Tensor:
        """Return the mask of one sample, bool (1, H, W); all True where none is remembered.

        Args:
            index: number of the sample.
            size: (H, W) of its image.

        Raises:
            ValueError: masks are remembered of images of another size.
        """
        if index not in self._bits:
            return torch.ones(1, *size, dtype=torch.bool)
        self._check_size(size)
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
        self._bits = dict(zip(state["mask_keys"].tolist(), state["masks"].cpu().numpy(), strict=True))
