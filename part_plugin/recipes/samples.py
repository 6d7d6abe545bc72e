"""The samples of a training: in memory as bytes where they fit, else loaded by workers; in batches, by their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..checks import check_images, class_indices
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
        ValueError: images of several sizes, or outside [0, 1]; a class that the network does not have.
    """
    if len(dataset) * dataset[0][0].numel() > _MEMORY:
        return Numbered(dataset)
    images: list[Tensor] = []
    labels: list[Tensor] = []
    exact = True
    for x, y, _ in DataLoader(Numbered(dataset), 256, num_workers=workers):
        check_images(x)
        y = class_indices(y, len(y), num_classes)
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
