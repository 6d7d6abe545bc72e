"""The samples of a training: in memory as bytes where they fit, else loaded by workers; in batches, by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..checks import check_class_range, check_images, class_indices
from .common import Samples

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (N, C, H, W), bytes or numbers in [0, 1]; classes (N,); numbers of the samples (N,)."""

_MEMORY = 4 * 2**30
"""Bytes of images that are kept in memory; CIFAR-10 has 0.15 of 2**30, TinyImageNet 1.2, ImageNet 180."""


class Numbered(Dataset[tuple[Tensor, int, int]]):
    """Samples (image, class, number) one by one, for workers.

    Args:
        dataset: samples (image, class).
    """

    def __init__(self, dataset: Samples):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return *self.dataset[index], index


class InMemory(Dataset[Batch]):
    """All samples in two tensors, in batches; a `DataLoader` with `collate_fn=whole` hands them on as they are.

    Args:
        images: (N, C, H, W), bytes or numbers in [0, 1].
        labels: (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.images[index], self.labels[index], torch.tensor(index)

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """Return a batch, the samples with these `numbers`."""
        rows = torch.tensor(numbers)
        return self.images[rows], self.labels[rows], rows


def collated(batch: Sequence[tuple[Any, Any, int]]) -> Batch:
    """Return samples (image, class, number) as a batch, for a `DataLoader`.

    Args:
        batch: the samples.

    Raises:
        TypeError: images that are not tensors, classes that are not numbers.
        ValueError: images of several sizes, or outside [0, 1]; classes that are not whole numbers >= 0.
    """
    images, labels, numbers = zip(*batch, strict=True)
    first = images[0]
    for image, number in zip(images, numbers, strict=True):
        if not isinstance(image, Tensor):
            raise TypeError(f"the dataset's images are {type(image).__name__}; tensors are needed (ToTensor)")
        if image.shape != first.shape:
            sizes = ["x".join(map(str, one.shape)) for one in (first, image)]
            raise ValueError(f"images {numbers[0]} and {number} have sizes {sizes[0]} and {sizes[1]}; one is needed")
    classes = torch.empty(len(labels), dtype=torch.float64)
    for row, label in enumerate(labels):
        try:
            classes[row] = label
        except (TypeError, RuntimeError):
            raise TypeError(f"the dataset's classes are {label!r} and the like; class indices are needed") from None
    x = torch.stack(images)
    check_images(x)
    return x, class_indices(classes, len(x)), torch.tensor(numbers)


def whole(batch: Any) -> Any:
    """Return a `batch` as it is."""
    return batch


def in_memory(dataset: Samples, num_classes: int, workers: int = 0) -> InMemory | Numbered:
    """Return the samples in memory, as bytes where that loses nothing, or one by one where they are too large for it.

    Args:
        dataset: samples (image, class), images in [0, 1].
        num_classes: of the network.
        workers: processes that load them.

    Raises:
        TypeError: see `collated`.
        ValueError: likewise; or a class that the network does not have.
    """
    if len(dataset) * dataset[0][0].numel() > _MEMORY:
        return Numbered(dataset)
    images: list[Tensor] = []
    labels: list[Tensor] = []
    exact = True
    for x, y, _ in DataLoader(Numbered(dataset), 256, num_workers=workers, collate_fn=collated):
        check_class_range(y, num_classes)
        if images and x.shape[1:] != images[0].shape[1:]:
            sizes = ["x".join(map(str, one.shape[1:])) for one in (images[0], x)]
            raise ValueError(f"the dataset has images of sizes {sizes[0]} and {sizes[1]}; one is needed")
        bytes_of = (255 * x).round().to(torch.uint8)
        exact = exact and torch.equal(numbers_of(bytes_of), x)
        images.append(bytes_of if exact else x)
        labels.append(y)
    if not exact:
        images = [numbers_of(one) for one in images]
    return InMemory(torch.cat(images), torch.cat(labels))


def numbers_of(images: Tensor) -> Tensor:
    """Return `images` as numbers in [0, 1], where they are bytes."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
