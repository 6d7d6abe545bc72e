"""The module of a training: batches of bytes, crops and flips where the network is, masks that move with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..adapters.lightning import PARTCallback, PARTModule
from ..attacks.projection import seeded_generator
from ..deferred import moved
from .augmentation import Moves
from .loader import ResumableBatches, ResumableLoader
from .samples import Batch, InMemory, Numbered, collated, numbers_of, whole

_MOVES = 1
"""Tells the random numbers of crops and flips from those of attacks."""


class MasksOf(PARTCallback):
    """`PARTCallback` for samples that come in batches.

    Args:
        run: the module.
    """

    def __init__(self, run: Run):
        super().__init__(run.part, run.samples)
        self.run = run

    def batches(self, numbers: list[int]) -> Iterator[Batch]:
        """Yield the samples of these `numbers`, images as numbers in [0, 1]."""
        for images, labels, index in self.run.loader(numbers):
            yield numbers_of(images), labels, index


class Run(PARTModule):
    """The module: batches of bytes, crops and flips where the network is, masks that move with them.

    Args:
        network: returns logits (N, K).
        part: the loss.
        optimizer: parameters -> optimizer.
        schedule: optimizer -> scheduler of the learning rate, stepped after every epoch.
        samples: to train on.
        batches: numbers of the samples of each batch; how they are dealt out is filled in here.
        held_out: samples for validation. (Default: none)
        moves: of images and masks; see `augmentation`. (Default: none)
        workers: processes that load samples which are not in memory.
    """

    def __init__(
        self,
        network: nn.Module,
        part: Any,
        optimizer: Callable[..., Any],
        schedule: Callable[..., Any],
        samples: InMemory | Numbered,
        batches: Callable[[int, int], ResumableBatches],
        held_out: InMemory | Numbered | None = None,
        moves: Moves | None = None,
        workers: int = 0,
    ):
        super().__init__(network, part, optimizer, schedule, samples)
        self.samples, self.held_out, self.moves, self.workers = samples, held_out, moves, workers
        self.batches = batches
        self.callback = MasksOf(self)

    def train_dataloader(self) -> ResumableLoader:
        """Return the batches of this rank."""
        batches = self.batches(self.global_rank, self.trainer.world_size)
        return ResumableLoader(self.samples, batches, **self._options(self.samples))

    def val_dataloader(self) -> Any:
        """Return the samples held out that are this rank's."""
        if self.held_out is None:
            return []
        return self.loader(list(range(self.global_rank, len(self.held_out), self.trainer.world_size)), self.held_out)

    def loader(self, numbers: list[int], samples: InMemory | Numbered | None = None) -> DataLoader[Any]:
        """Return a loader of the samples of these `numbers`, of those to train on, or of other `samples`."""
        chosen = self.samples if samples is None else samples
        return DataLoader(chosen, 128, sampler=numbers, **self._options(chosen))

    def _options(self, samples: InMemory | Numbered) -> dict[str, Any]:
        if isinstance(samples, InMemory):
            return {"collate_fn": whole}
        options = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return {"collate_fn": collated, "pin_memory": torch.cuda.is_available()} | options

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss of a `batch`, the `batch_idx`-th of its epoch, and what `Records` adds up."""
        images, labels, index = batch
        masks = None
        if self.part.schedule.mask_every > 1:
            masks = moved(self.part.masks_of(index, images.shape[2:]), images)
        if self.moves is not None:
            generator = seeded_generator(images.device, self.part.seed or 0, self.part.step, _MOVES)
            images, masks = self.moves(images, masks, generator)
        outputs, right = self.outputs(numbers_of(images), labels, index, masks)
        sums = torch.stack([outputs.loss.detach() * len(images), right.sum(), torch.ones_like(right).sum()])
        return {"loss": outputs.loss, "sums": sums}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log accuracies of a `batch`, the `batch_idx`-th of them."""
        images, labels, _ = batch
        super().validation_step((numbers_of(images), labels), batch_idx)
