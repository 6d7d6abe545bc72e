"""What a training runs on: devices, machines, precision, loggers; and the Lightning `Trainer` that has them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checks import check_choice, check_count

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
LOGGERS = ("csv", "tensorboard", "wandb")
_RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


@dataclass(frozen=True)
class Engine:
    """What a training runs on.

    Attributes:
        devices: number of devices, or of processes on a CPU, of each machine.
        nodes: number of machines; the same command is given on each, by torchrun, SLURM or with NODE_RANK and
            MASTER_ADDR set.
        strategy: Lightning's, one that keeps a whole network on each device.
        precision: Lightning's; "bf16-mixed" and "16-mixed" make attack and training pass under autocast.
        accumulate: number of parts in which a batch is computed, one after the other, where memory is short.
        logger: "tensorboard" or "wandb" beside the log that is always written, or "csv", that alone.

    The batches of the settings are those of a step of the optimizer: they are divided among devices and parts.
    """

    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate: int = 1
    logger: str = "csv"

    def check(self, batch_size: int) -> None:
        """Raise unless all of it is allowed, with batches of `batch_size`.

        Raises:
            TypeError: a count that is no integer.
            ValueError: something that is not known, or batches that cannot be divided.
            ImportError: the logger is not installed.
        """
        for name in ("devices", "nodes", "accumulate"):
            check_count(name, getattr(self, name))
        for name, known in (("precision", PRECISIONS), ("strategy", STRATEGIES), ("logger", LOGGERS)):
            check_choice(name, getattr(self, name), known)
        parts = self.world * self.accumulate
        if batch_size % parts:
            shares = f"devices={self.devices}, nodes={self.nodes} and accumulate={self.accumulate}"
            raise ValueError(f"batch_size={batch_size} cannot be divided into {parts} equal parts, for {shares}")
        modules = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}.get(self.logger, ())
        if modules and not any(importlib.util.find_spec(module) for module in modules):
            raise ImportError(f"logger={self.logger!r} is not installed: pip install {self.logger}")

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    def trainer(
        self, device: torch.device, epochs: int, folder: Path, callbacks: Sequence[Callback], plugin: Any
    ) -> Trainer:
        """Return the trainer.

        Args:
            device: of which kind, and if it has an index, which one.
            epochs: number of them.
            folder: where loggers write.
            callbacks: what accompanies the training.
            plugin: what writes checkpoints.
        """
        from lightning.pytorch import Trainer

        return Trainer(
            accelerator=device.type,
            devices=self.devices if device.index is None else [device.index],
            num_nodes=self.nodes,
            strategy=self.strategy,
            precision=self.precision,  # type: ignore[arg-type]
            accumulate_grad_batches=self.accumulate,
            max_epochs=epochs,
            logger=self._logger(folder),
            callbacks=list(callbacks),
            plugins=[plugin],
            default_root_dir=folder,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def _logger(self, folder: Path) -> Any:
        if self.logger == "tensorboard":
            from lightning.pytorch.loggers import TensorBoardLogger

            return TensorBoardLogger(folder, name="", version="tensorboard")
        if self.logger == "wandb":
            from lightning.pytorch.loggers import WandbLogger

            return WandbLogger(save_dir=folder, name=folder.stem)
        return False


def is_first() -> bool:
    """Return whether this process is the one of its training that writes files."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)
