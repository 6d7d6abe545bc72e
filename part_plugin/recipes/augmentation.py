"""Random crops and flips, and the masks that move with their images."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..part import PART
from .common import Samples, import_torchvision

Moves = Callable[..., Any]
"""A transform of torchvision's second version: of an image, or of an image and its mask alike."""


def augmentation(name: str, size: Sequence[int]) -> Moves:
    """Return the moves of `load_dataset(name, augment=True)`: crops padded by an eighth of each side, and flips.

    Args:
        name: of the dataset; "svhn" has no flips, as digits have a direction.
        size: (H, W) of its images.

    Returns:
        A transform of torchvision's second version, which moves an image and its mask alike.
    """
    import_torchvision()
    transforms = importlib.import_module("torchvision.transforms.v2")
    height, width = size
    crop = transforms.RandomCrop((height, width), padding=(width // 8, height // 8))
    moves: Moves = transforms.Compose([crop] if name == "svhn" else [crop, transforms.RandomHorizontalFlip()])
    return moves


class Numbered(Dataset[tuple[Tensor, int, int]]):
    """Samples (image, class, number) as they are, for `PART.remember`.

    Args:
        dataset: samples (image, class).
    """

    def __init__(self, dataset: Samples):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return *self.dataset[index], index


class MovedMasks(Dataset[tuple[Tensor, int, int, Tensor]]):
    """Samples (image, class, number, mask): augmented images with the remembered masks that moved with them.

    Masks belong to the images as they are, and are moved by the very crop and flip of their image. Load with a new
    iterator for each epoch, as `DataLoader` does by default, so that its workers know the masks of that epoch. They are
    all True while burning in; afterwards one that is missing is an error, as full eps in its place would be plain AT.

    Args:
        dataset: samples (image, class) that are not augmented, images (C, H, W).
        part: the `PART` that remembers the masks; see `PART.remember`.
        transform: joint transform of image and mask, such as `augmentation`; None leaves both as they are.
    """

    def __init__(self, dataset: Samples, part: PART, transform: Moves | None = None):
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
