"""Random crops and flips of whole batches, and the masks that move with their images."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from ..part import PART
from .common import Samples

Moves = Callable[[Tensor, Tensor | None, torch.Generator | None], tuple[Tensor, Tensor | None]]
"""Images (N, C, H, W), bytes or numbers, their masks (N, 1, H, W) or None, a random source -> both, moved."""


class CropsAndFlips:
    """Random crops of padded images and random mirror images, of a whole batch at once, where it is.

    As torchvision's RandomCrop(size, padding) and RandomHorizontalFlip, for each image on its own; torchvision's would
    move all images of a batch alike, and one image at a time takes 25 times as long.

    Args:
        padding: rows of zeros above and below, columns of zeros left and right.
        flip: whether half of the images, at random, are mirrored.
    """

    def __init__(self, padding: tuple[int, int], flip: bool = True):
        self.padding = padding
        self.flip = flip

    def __call__(
        self, images: Tensor, masks: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return images and masks, each mask moved as its image.

        Args:
            images: (N, C, H, W), or a single one (C, H, W).
            masks: (N, 1, H, W), or a single one (1, H, W). (Default: none)
            generator: of the images' device; default: torch's global one.
        """
        if images.dim() == 3:
            moved, moved_masks = self(images[None], None if masks is None else masks[None], generator)
            return moved[0], None if moved_masks is None else moved_masks[0]
        places = self._places(images, generator)
        return self._taken(images, places), None if masks is None else self._taken(masks, places)

    def of_image(self, image: Tensor) -> Tensor:
        """Return a single image (C, H, W), moved, for a transform of a dataset."""
        return self(image)[0]

    def _places(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return from where in the padded image each pixel of a moved one comes, (N, 1, H * W)."""
        (n, _, height, width), device = images.shape, images.device
        (down, right), one = self.padding, torch.ones((), dtype=torch.int64, device=device)

        def drawn(below: int) -> Tensor:
            return torch.randint(below, (n, 1), generator=generator, device=device)

        rows = torch.arange(height, device=device) + drawn(2 * down + 1)
        columns, offset = torch.arange(width, device=device), drawn(2 * right + 1)
        if self.flip:
            columns = torch.where(drawn(2) == one, width - 1 - columns, columns)
        columns = columns + offset
        return (rows[:, :, None] * (width + 2 * right) + columns[:, None, :]).view(n, 1, -1)

    def _taken(self, images: Tensor, places: Tensor) -> Tensor:
        down, right = self.padding
        padded = pad(images, (right, right, down, down)).flatten(2)
        return padded.gather(2, places.expand(-1, images.shape[1], -1)).view(images.shape)


def augmentation(name: str, size: Sequence[int]) -> CropsAndFlips:
    """Return the moves of `load_dataset(name, augment=True)`: crops padded by an eighth of each side, and flips.

    Args:
        name: of the dataset; "svhn" has no flips, as digits have a direction.
        size: (H, W) of its images.
    """
    height, width = size
    return CropsAndFlips((height // 8, width // 8), flip=name != "svhn")


class MovedMasks(Dataset[tuple[Tensor, int, int, Tensor]]):
    """Samples (image, class, number, mask): augmented images with the remembered masks that moved with them.

    Masks belong to the images as they are, and are moved by the very crop and flip of their image. Load with a new
    iterator for each epoch, as `DataLoader` does by default, so that its workers know the masks of that epoch. They are
    all True while burning in; afterwards one that is missing is an error, as full eps in its place would be plain AT.

    Args:
        dataset: samples (image, class) that are not augmented, images (C, H, W).
        part: the `PART` that remembers the masks; see `PART.remember`.
        transform: joint transform of image and mask, `augmentation` or one of torchvision's second version; None leaves
            both as they are.
    """

    def __init__(self, dataset: Samples, part: PART, transform: Callable[..., Any] | None = None):
        self.dataset = dataset
        self.part = part
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, Tensor]:
        image, label = self.dataset[index]
        mask = self.part.masks_of(torch.tensor([index]), image.shape[1:])[0]
        if self.transform is not None:
            tv_tensors = importlib.import_module("torchvision.tv_tensors")
            moved = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
            image, mask = (tensor.as_subclass(Tensor) for tensor in moved)
        return image, label, index, mask
