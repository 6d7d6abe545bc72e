"""A loader that knows how far it came, so that a training goes on in the middle of an epoch with the next batch.

torch's own begins an epoch anew; torchdata's repeats or skips one where Lightning restores it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from ..attacks.projection import seed_of


class ResumableBatches(Sampler[list[int]]):
    """Numbers of the samples of each batch of an epoch, in an order that seed and epoch alone decide.

    All ranks together have the batches of one process: each batch is dealt out among them. The last one is filled up
    with the first samples of the epoch until it can be.

    Args:
        samples: how many there are.
        batch_size: of all ranks, and all parts of a step, together.
        seed: of the order.
        rank: of this process.
        parts: number of processes, times the parts of a batch whose gradients are accumulated.
        accumulate: number of those parts.

    Attributes:
        epoch: which comes next.
        start: number of the batch with which it begins.
        sampler: itself, as Lightning looks there for `set_epoch`.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, rank: int = 0, parts: int = 1, accumulate: int = 1):
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.rank, self.parts, self.accumulate = rank, parts, accumulate
        self.epoch = self.start = 0
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Tell which `epoch` comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:  # a generator, so that the epoch is that of the first batch
        start, self.start = self.start, 0
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = torch.randperm(self.samples, generator=generator)
        order = torch.cat([order, order.repeat(self.parts)[: -self.samples % self.parts]])
        world = self.parts // self.accumulate
        for number in range(start, len(self)):
            step, part = divmod(number, self.accumulate)
            whole = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield whole[part * world + self.rank :: self.parts].tolist()


class ResumableLoader(DataLoader[Any]):
    """Loads the batches of a `ResumableBatches`, and counts those that it handed out, not those that workers prepared.

    Args:
        dataset: samples by their numbers.
        batches: numbers of the samples of each batch.
        **options: those of `DataLoader`.
    """

    def __init__(self, dataset: Any, batches: ResumableBatches, **options: Any):
        super().__init__(dataset, batch_sampler=batches, **options)
        self.batches, self.given = batches, 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # a generator, see ResumableBatches
        self.given = self.batches.start
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that were handed out; of all, where the next begins."""
        whole = self.given >= len(self.batches)
        return {"epoch": self.batches.epoch + whole, "given": 0 if whole else self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state`, what `state_dict` returned."""
        self.batches.epoch, self.batches.start = state["epoch"], state["given"]
        self.given = state["given"]
