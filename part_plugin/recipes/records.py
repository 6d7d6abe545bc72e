"""What a training tells: a record of each epoch, and a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from tqdm.auto import tqdm

from ..attacks.projection import seed_of


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
        """Seed torch by seed, rank and step, which `trainer` knows; the rest is not asked."""
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(seed_of(self.seed, trainer.global_rank, step, 2))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add up `outputs`, what the training step returned; `pl_module`, `batch` and `batch_idx` are not asked."""
        self.sums = self.sums + outputs["sums"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
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
            epoch, seen = f"{trainer.current_epoch + 1}/{trainer.max_epochs}", max(seen, 1)
            self.bar.set_postfix(epoch=epoch, loss=f"{loss / seen:.3f}", adv=f"{right / seen:.1%}")
            self._shown = time.perf_counter()

    def close(self) -> None:
        """Leave the line as it is."""
        if self.bar is not None:
            self.bar.close()
