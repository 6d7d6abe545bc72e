"""PART under Lightning: `PARTModule`, which is one, and `PARTCallback` for a LightningModule of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from ..budget import FixedBudget
from ..objectives import Outputs
from ..part import PART

Batch = tuple[Tensor, ...] | list[Tensor]


class PARTCallback(Callback):
    """Tells a `PART` which epoch and step of a Lightning training it is in, and keeps its state in the checkpoints.

    The LightningModule calls `part.loss` or `part.perturb` in its `training_step`; the callback does the rest. Steps
    are counted by the training alone, so that what validation attacks moves no random start, and a `seed` of the PART
    gives other starts on every rank. A training that goes on after an epoch ends with the weights of one that was not
    stopped; after a checkpoint in the middle of one Lightning begins the epoch's batches again, and warns of it.

    Args:
        part: the PART that the module's `training_step` uses.
        dataset: for mask_every > 1: the training samples (image, class, ...) by number, not augmented. Masks are made
            of all of them when they are due, the work shared between ranks. The batches then hold (x, y, index).
        batch_size: of those passes over `dataset`.
        workers: processes that load them.

    Raises:
        ValueError: mask_every > 1 without a dataset.
    """

    def __init__(self, part: PART, dataset: Dataset[Any] | None = None, batch_size: int = 128, workers: int = 0):
        if part.schedule.mask_every > 1 and dataset is None:
            raise ValueError(
                f"dataset=None does not go with mask_every={part.schedule.mask_every}, whose masks are made of all of "
                "it; pass the training samples, not augmented"
            )
        self.part = part
        self.dataset = dataset
        self.batch_size = batch_size
        self.workers = workers

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin a step: of which epoch, and the how many-th; `trainer` knows (`batch` and `batch_idx` are not asked).

        Not at the start of an epoch, which Lightning does not announce where a training goes on in the middle of one.
        """
        self.part.set_epoch(trainer.current_epoch)
        self.part.step = trainer.fit_loop.epoch_loop.total_batch_idx
        if self.part.schedule.mask_every > 1 and self.part.masks_due():
            self._remember(getattr(pl_module, "network", pl_module), trainer, pl_module.device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what was noted in the last steps; `trainer` and `pl_module` are not asked."""
        self.part.deferred.make()

    def _remember(self, network: nn.Module, trainer: Trainer, device: torch.device) -> None:
        """Make the masks of this rank's share of the samples, and give them to all ranks."""
        samples, world = len(self.dataset), trainer.world_size  # type: ignore[arg-type]
        shares = -(-samples // world) * world  # equal ones: under FSDP a rank that has none would be waited for
        for x, y, index in self.batches([n % samples for n in range(trainer.global_rank, shares, world)]):
            self.part.remember(network, x.to(device), y.to(device), index)
        if world > 1:
            states: list[Any] = [None] * world
            torch.distributed.all_gather_object(states, self.part.masks.state_dict())
            some = [state for state in states if len(state["masks"])]
            shared = {name: torch.cat([state[name] for state in some]) for name in ("mask_keys", "masks")}
            self.part.masks.load_state_dict(some[0] | shared)

    def batches(self, numbers: list[int]) -> Iterable[Any]:
        """Return batches (x, y, index) of the samples of these `numbers`; override it for others than `dataset`'s."""
        return DataLoader(_Numbered(self.dataset), self.batch_size, sampler=numbers, num_workers=self.workers)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the PART, for a checkpoint."""
        return self.part.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, what `state_dict()` returned."""
        self.part.load_state_dict(state_dict)


class _Numbered(Dataset[Any]):
    """Image, class and number of each sample."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        image, label = self.dataset[index][:2]
        return image, label, index


class PARTModule(LightningModule):
    """A network that is trained by PART, for `Trainer.fit`.

    >>> part = PART("trades", beta=6.0, eps=8/255, burn_in=20, seed=0)
    >>> sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=2e-4)
    >>> module = PARTModule(network, part, sgd, lambda optimizer: MultiStepLR(optimizer, [60]))
    >>> Trainer(max_epochs=80).fit(module, train_loader, validation_loader)

    Batches are (x, y), or (x, y, index) for mask_every > 1, images inside `part.clip`. It logs `loss` and
    `adv_accuracy` of the training and, where there is a validation loader, `val_natural` and `val_pgd10`, accuracies on
    the images and under PGD-10 of radius eps everywhere.

    Args:
        network: returns logits (N, K).
        part: the loss.
        optimizer: parameters -> optimizer.
        schedule: optimizer -> scheduler of the learning rate, stepped after every epoch. (Default: none)
        dataset: see `PARTCallback`.

    Raises:
        ValueError: see `PARTCallback`.
    """

    def __init__(
        self,
        network: nn.Module,
        part: PART,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[Optimizer], Any] | None = None,
        dataset: Dataset[Any] | None = None,
    ):
        super().__init__()
        self.network = network
        self.part = part
        self.optimizer, self.schedule = optimizer, schedule
        self.callback = PARTCallback(part, dataset)

    def forward(self, x: Tensor) -> Any:
        """Return the logits (N, K) of images x (N, C, H, W)."""
        return self.network(x)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback that tells the PART where it is."""
        return [self.callback]

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule."""
        optimizer = self.optimizer(self.network.parameters())
        return optimizer if self.schedule is None else ([optimizer], [self.schedule(optimizer)])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return a `batch` on the `device`, but for the numbers of samples, which are waited for there.

        `dataloader_idx` is Lightning's to know.
        """
        x, y, *more = batch
        moved = super().transfer_batch_to_device((x, y, *more[1:]), device, dataloader_idx)
        return *moved[:2], *more[:1], *moved[2:]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a `batch`, the `batch_idx`-th of its epoch."""
        outputs, right = self.outputs(*batch)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(right), "prog_bar": True}
        self.log("loss", outputs.loss.detach(), **options)
        self.log("adv_accuracy", right.mean(), **options)
        return outputs.loss

    def outputs(self, x: Tensor, y: Tensor, *more: Tensor | None) -> tuple[Outputs, Tensor]:
        """Return loss and logits of a step, and of which samples the adversarial example is right, 0 or 1, (N,).

        The arguments `x`, `y` and `more`, what else a batch holds, are those of `PART.loss` in its order.
        """
        adv = self.part.perturb(self.network, x, y, *more)
        outputs = self.part.training_pass(self.network, x, adv, y)
        return outputs, (outputs.adv_logits.argmax(1) == _classes(y, len(x))).float()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log natural and PGD-10 accuracy of a `batch`; its random start is that of its number `batch_idx`."""
        x, y, *_ = batch
        everywhere = FixedBudget(self.part.budget.eps)
        attack = PART(budget=everywhere, alpha=self.part.alpha, burn_in=0, clip=self.part.clip, seed=0)
        attack.step = batch_idx
        for name, images in (("val_natural", x), ("val_pgd10", attack.perturb(self.network, x, y))):
            right = (self.network(images).argmax(1) == _classes(y, len(x))).float().mean()
            self.log(name, right, batch_size=len(x), prog_bar=True, sync_dist=True)


def _classes(labels: Tensor, n: int) -> Tensor:
    """Return class indices (n,) of labels that were checked; to check them again would be to wait for them."""
    return labels.flatten() if labels.numel() == n else labels.argmax(1)
