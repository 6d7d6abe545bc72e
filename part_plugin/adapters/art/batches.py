"""The batches of an epoch: of arrays, shuffled as in ART, or of a DataGenerator."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from art.data_generators import DataGenerator
from torch import Tensor

from ...checks import check_count

Batch = tuple[Tensor, Tensor, Tensor | None]
"""Images, labels, and the number of each sample where samples have one."""


class ArrayBatches:
    """The batches of data in memory, in a new order in every epoch.

    :param images: (N, C, H, W).
    :param labels: Class indices (N,) or probabilities (N, K).
    :param batch_size: Size of a batch.
    :param drop_last: Whether a last, incomplete batch is left out.
    :param device: Of the network, where the data are kept if they fit.

    Raises:
        TypeError, ValueError: A size that is not allowed, or that leaves no batch.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, drop_last: bool, device: torch.device) -> None:
        check_count("batch_size", batch_size)
        self.size = batch_size
        self.number = len(images) // batch_size if drop_last else -(-len(images) // batch_size)
        if self.number == 0:
            raise ValueError(f"batch_size={batch_size} and drop_last=True leave no batch of {len(images)} samples")
        self.order = np.arange(len(images))
        self.fingerprint = zlib.crc32(labels.contiguous().numpy().data, zlib.crc32(images.contiguous().numpy().data))
        self.images, self.labels = (where_it_fits(tensor, device) for tensor in (images, labels))

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Batch]:
        np.random.shuffle(self.order)  # what the last epoch left, as in ART: the same batches from the same seed
        for batch in range(self.number):
            index = torch.from_numpy(self.order[batch * self.size : (batch + 1) * self.size])
            rows = index.to(self.images.device)
            yield self.images[rows], self.labels[rows], index


class GeneratorBatches:
    """The batches of a DataGenerator, as they come.

    :param generator: Data generator with a known size.
    :param checked: Makes tensors of its images and labels.
    :param draws: Whether to draw an order for each epoch, of no use here, so that the same seed gives what it gives in
                  ART's `AdversarialTrainer`.

    Raises:
        TypeError: No DataGenerator.
        ValueError: One that does not know its size.
    """

    def __init__(self, generator: Any, checked: Callable[[Any, Any], tuple[Tensor, Tensor]], draws: bool) -> None:
        if not isinstance(generator, DataGenerator):
            raise TypeError(
                f"generator is a {type(generator).__name__}; an ART DataGenerator is needed, "
                "e.g. PyTorchDataGenerator(loader, size, batch_size)"
            )
        if generator.size is None:
            raise ValueError("generator.size=None is not allowed; the size of the data set is needed")
        self.generator = generator
        self.checked = checked
        self.draws = draws

    def __len__(self) -> int:
        return -(-int(self.generator.size) // int(self.generator.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        if self.draws:
            np.random.shuffle(np.arange(self.generator.size))
        for _ in range(len(self)):
            batch = self.generator.get_batch()
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                found = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}"
                raise ValueError(f"generator.get_batch() returned {found}; a pair (images, labels) is needed")
            yield (*self.checked(*batch), None)


def where_it_fits(data: Tensor, device: torch.device) -> Tensor:
    """Return the data on the device if it takes less than a quarter of the memory that is free there."""
    if device.type != "cuda" or data.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
        return data
    return data.to(device)
