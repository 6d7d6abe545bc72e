"""What a training keeps: the files from which it goes on, its log, its best checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from ..files import StrPath, write_tensors, write_text
from .destination import Destination
from .records import Records
from .resume import FORMAT

BEST = "val_pgd10"
"""What the best epoch has most of."""


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

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write a resume file after every so many steps, counted by `batch_idx`; the rest is not asked."""
        done = batch_idx + 1
        self.at = trainer.current_epoch, done
        whole_step = done % trainer.accumulate_grad_batches == 0
        if done % self.every == 0 and whole_step and done < trainer.num_training_batches:
            self._keep(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
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

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Return what was found; `path`, `map_location` and `weights_only` are not asked.

        Raises:
            FileNotFoundError: nothing was found.
        """
        if self.found is None:
            raise FileNotFoundError(f"{path} was not read")
        return self.found

    def remove_checkpoint(self, path: Any) -> None:
        """Leave `path` where it is."""
