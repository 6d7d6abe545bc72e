"""A training under Lightning: its module, and what accompanies it, records, files and a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..adapters.lightning import PARTCallback, PARTModule
from ..attacks.projection import seeded_generator
from ..files import StrPath, write_tensors, write_text
from .augmentation import Moves
from .destination import Destination
from .loader import ResumableBatches, ResumableLoader
from .samples import Batch, InMemory, Numbered, numbers_of, whole

FORMAT = 2
BEST = "val_pgd10"
"""What the best epoch has most of."""
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
        pinned = torch.cuda.is_available()
        return {"num_workers": self.workers, "persistent_workers": self.workers > 0, "pin_memory": pinned}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss of a `batch`, the `batch_idx`-th of its epoch, and what `Records` adds up."""
        images, labels, index = batch
        images, masks = numbers_of(images), None
        if self.part.schedule.mask_every > 1:
            masks = self.part.masks_of(index, images.shape[2:]).to(images.device)
        if self.moves is not None:
            generator = seeded_generator(images.device, self.part.seed, self.part.step, _MOVES)
            images, masks = self.moves(images, masks, generator)
        outputs, right = self.outputs(images, labels, index, masks)
        sums = torch.stack([outputs.loss.detach() * len(images), right.sum(), torch.ones_like(right).sum()])
        return {"loss": outputs.loss, "sums": sums}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log accuracies of a `batch`, the `batch_idx`-th of them."""
        images, labels, _ = batch
        super().validation_step((numbers_of(images), labels), batch_idx)


class Records(Callback):
    """A record of each epoch: loss, accuracies, learning rate, seconds; and the seeds of what draws without one.

    Args:
        seed: of the training.
        validate: called with the network, in eval mode, after each epoch; returns more numbers for its record.

    Attributes:
        history: the records.
    """

    def __init__(self, seed: int, validate: Callable[[nn.Module], dict[str, float]] | None = None):
        self.seed, self.validate = seed, validate
        self.history: list[dict[str, float]] = []
        self.sums, self.lr = torch.zeros(3, dtype=torch.float64), 0.0
        self.seconds, self._began = 0.0, time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin to count seconds; what was counted before is the first rank's, which `trainer` tells."""
        self._began = time.perf_counter()
        kind = torch.float32 if pl_module.device.type == "mps" else torch.float64
        self.sums = self.sums.to(pl_module.device, kind) * trainer.is_global_zero

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Seed torch by seed, rank and step, which `trainer` knows; `pl_module`, `batch` and `batch_idx` are not asked."""
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        key = np.random.SeedSequence((self.seed, trainer.global_rank, step, 2))
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add up `outputs`, what the training step returned; `pl_module`, `batch` and `batch_idx` are not asked."""
        self.sums = self.sums + outputs["sums"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Run) -> None:
        """Add the record of an epoch of `trainer`, which trained the module `pl_module`."""
        loss, right, seen = trainer.strategy.reduce(self.sums, reduce_op="sum").tolist()
        record = {"epoch": trainer.current_epoch + 1, "loss": loss / seen, "adv_accuracy": right / seen}
        record["lr"] = self.lr
        record |= {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        if self.validate is not None:
            training = pl_module.network.training
            record |= {name: float(value) for name, value in self.validate(pl_module.network.eval()).items()}
            pl_module.network.train(training)
        record["seconds"] = self._elapsed()
        for logger in trainer.loggers:
            logger.log_metrics(record, step=trainer.current_epoch + 1)
        self.history.append(record)
        self.sums, self.seconds, self._began = torch.zeros_like(self.sums), 0.0, time.perf_counter()

    def gather(self, trainer: Trainer) -> None:
        """Give what the ranks of `trainer` added up to the first, whose state is kept."""
        self.sums = trainer.strategy.reduce(self.sums, reduce_op="sum") * trainer.is_global_zero

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        """Return the records, and what there is of the next."""
        return {"history": self.history, "sums": self.sums.tolist(), "seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, what `state_dict()` returned."""
        self.history, self.seconds = list(state_dict["history"]), state_dict["seconds"]
        self.sums = torch.tensor(state_dict["sums"], dtype=torch.float64)


class Keeper(Callback):
    """Writes the files of a training: log and resume file after each epoch and in between, the best checkpoint.

    Args:
        files: where.
        records: what was recorded.
        save: writes a checkpoint; called with its path, which it is, and its epoch.
        every: number of batches between two resume files, of an epoch that has more.
        patience: number of epochs without a better one after which the training ends. (Default: none)

    Attributes:
        at: epoch and batch of it that are done.
        kept: those from which a training can go on.
        stopped: what ended it before its time.
    """

    def __init__(
        self, files: Destination, records: Records, save: Callable[..., None], every: int, patience: int | None = None
    ):
        self.files, self.records, self.save, self.every, self.patience = files, records, save, every, patience
        self.at = self.kept = (0, 0)
        self.stopped: BaseException | None = None

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Note the `exception`; of what `trainer` and `pl_module` is known."""
        self.stopped = exception

    def on_train_batch_end(self, trainer: Trainer, pl_module: Run, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write a resume file after every so many steps, counted by `batch_idx`; the rest is not asked."""
        done = batch_idx + 1
        self.at = trainer.current_epoch, done
        whole_step = done % trainer.accumulate_grad_batches == 0
        if done % self.every == 0 and whole_step and done < trainer.num_training_batches:
            self._keep(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Run) -> None:
        """Write the files of an epoch of `trainer`, which trained the module `pl_module`."""
        history = self.records.history
        best = max(history, key=lambda one: one.get(BEST, 0.0))["epoch"]  # the first of several
        if trainer.is_global_zero:
            if BEST in history[-1] and best == len(history):
                self.save(self.files.best, "best", len(history))
            # the log first: a run that is killed between the two does this epoch again, and writes its line again
            write_text("log file", self.files.log, log_of(history))
        self.at = trainer.current_epoch + 1, 0
        self._keep(trainer)
        trainer.should_stop = self.patience is not None and len(history) - best >= self.patience

    def _keep(self, trainer: Trainer) -> None:
        self.records.gather(trainer)
        trainer.save_checkpoint(self.files.resume)
        self.kept = self.at


def log_of(history: list[dict[str, float]]) -> str:
    """Return the log file of a training of this `history`."""
    import pandas as pd

    return pd.DataFrame(history).to_csv(index=False, lineterminator="\n")


class ResumeFiles(CheckpointIO):
    """Writes Lightning's checkpoints as files of ours, in one step that cannot be half done, and reads the given one.

    Args:
        told: settings that a run that goes on must agree in.
        batches: number of batches of an epoch.
        found: the checkpoint that it goes on from, which was read and checked. (Default: none)
    """

    def __init__(self, told: dict[str, Any], batches: int, found: dict[str, Any] | None = None):
        self.told, self.batches, self.found = told, batches, found

    def save_checkpoint(self, checkpoint: dict[str, Any], path: StrPath, storage_options: Any = None) -> None:
        """Write a `checkpoint` to `path`; there are no `storage_options`."""
        done = divmod(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"], self.batches)
        write_tensors("resume file", path, {"format": FORMAT, "settings": self.told, "done": list(done), **checkpoint})

    def load_checkpoint(self, path: Any, map_location: Any = None, **options: Any) -> dict[str, Any]:
        """Return what was found; `path`, `map_location` and other `options` are not asked.

        Raises:
            FileNotFoundError: nothing was found.
        """
        if self.found is None:
            raise FileNotFoundError(f"{path} was not read")
        return self.found

    def remove_checkpoint(self, path: Any) -> None:
        """Leave `path` where it is."""


class Bar(Callback):
    """A progress bar over all batches of all epochs, so that it tells the end of the training from the first on.

    Args:
        name: what to call it.
        records: what is recorded.
        verbose: show it where there is a terminal.
    """

    def __init__(self, name: str, records: Records, verbose: bool):
        self.name, self.records, self.disable = name, records, None if verbose else True
        self.bar: tqdm[Any] | None = None
        self._shown = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Show where `trainer` begins; `pl_module` is not asked."""
        epochs, batches = trainer.max_epochs or 0, int(trainer.num_training_batches)
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        disable = self.disable if trainer.is_global_zero else True
        self.bar = tqdm(total=epochs * batches, initial=done, desc=self.name, unit="batch", disable=disable)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a batch of `trainer`, and once a second look at what the records say; the rest is not asked."""
        assert self.bar is not None
        self.bar.update()
        last = batch_idx + 1 == trainer.num_training_batches
        if not self.bar.disable and (last or time.perf_counter() - self._shown > 1):
            loss, right, seen = self.records.sums.tolist()
            told = {"loss": f"{loss / max(seen, 1):.3f}", "adv": f"{right / max(seen, 1):.1%}"}
            self.bar.set_postfix(epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}", **told)
            self._shown = time.perf_counter()

    def close(self) -> None:
        """Leave the line as it is."""
        if self.bar is not None:
            self.bar.close()
