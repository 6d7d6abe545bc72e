"""Training as in the paper, from a `Preset` to a checkpoint; a run that was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..adapters.robustbench import build_model
from ..budget import Budget
from ..checks import check_count
from ..files import StrPath, write_tensors, write_text
from ..part import PART
from ..stopping import telling_where
from .augmentation import MovedMasks, Moves, Numbered
from .checkpoints import load_checkpoint, save_checkpoint
from .common import Samples, usable_device
from .destination import Destination
from .presets import Preset
from .resume import FORMAT, Expected, read_resume


def train(
    settings: Preset,
    dataset: Samples,
    path: StrPath,
    device: str | torch.device = "cpu",
    workers: int = 0,
    verbose: bool = True,
    transform: Moves | None = None,
    budget: Budget | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> nn.Module:
    """Train a network and write its checkpoint.

    After each epoch PATH.resume holds everything that is needed to go on, and a line with the loss,
    the accuracy on the adversarial examples, the learning rate and the seconds is added to
    PATH.jsonl. The same call again goes on from there and ends, on the same device, with the same
    weights as a run that was never stopped.

    Args:
        settings: see `preset`.
        dataset: training samples (image, class), images in [0, 1], not augmented; see `load_dataset`.
        path: checkpoint to write, for `load_checkpoint`.
        device: where to train.
        workers: processes that load images.
        verbose: show a progress bar where there is a terminal.
        transform: joint transform of images and remembered masks, see `augmentation`. (Default: none)
        budget: budget to train with instead of the settings' own; its `repr` is kept with the settings.
        validate: called with the network, in eval mode, after each epoch; what it returns joins the line in PATH.jsonl.

    Returns:
        The trained network, in eval mode.

    Raises:
        BlockingIOError: the same call is running.
        FileExistsError: PATH is there already.
        OSError: PATH, PATH.resume or PATH.jsonl cannot be written; this is tried before the work.
        TypeError: `settings` that are no `Preset`.
        ValueError: a class that the network does not have, no samples, no such device, or PATH.resume is damaged or
            belongs to other settings.
    """
    if not isinstance(settings, Preset):
        raise TypeError(f"settings={settings!r} is a {type(settings).__name__}; a Preset is needed, see preset()")
    check_count("workers", workers, 0)
    device = usable_device("device", device)
    if len(dataset) == 0:
        raise ValueError("dataset is empty; at least one sample is needed")
    files = Destination(path)
    with files.reserved():
        plain = dataclasses.asdict(settings) | {"samples": len(dataset), "image_shape": list(dataset[0][0].shape)}
        plain |= {} if budget is None else {"budget": repr(budget)}
        told = plain | {"augmented": transform is not None}  # what a run that goes on must agree in
        with _everything_seeded(settings.seed):
            run = _Run(settings, dataset, device, workers, transform, budget)
        if files.resume.exists():
            run.load_state(read_resume(files.resume, run.expected(told)))
        if not _is_written(files, run):
            _train_epochs(run, files, told, verbose, validate)
            arguments = dict(settings.arguments)
            save_checkpoint(path, run.model, settings.architecture, settings.num_classes, arguments, training=plain)
        files.resume.unlink()
    return run.model.eval()


def _is_written(files: Destination, run: _Run) -> bool:
    """Return whether the checkpoint of a run is there, as after a kill in the moment before PATH.resume is removed.

    Raises:
        FileExistsError: there is another.
    """
    if not files.checkpoint.exists():
        return False
    stored, weights = load_checkpoint(files.checkpoint)[0].state_dict(), run.model.state_dict()
    same = stored.keys() == weights.keys() and all(torch.equal(stored[name], weights[name].cpu()) for name in stored)
    if not same or run.epoch < run.settings.epochs:
        files.refuse_a_checkpoint()
    return True


def _train_epochs(
    run: _Run,
    files: Destination,
    told: dict[str, Any],
    verbose: bool,
    validate: Callable[[nn.Module], dict[str, float]] | None,
) -> None:
    """Train until the last epoch; after each, everything that is needed to go on is in a file."""
    epochs, kept, disable = run.settings.epochs, run.epoch, None if verbose else True  # None: if there is a terminal

    def where() -> str:
        onwards = f"to go on after epoch {kept}" if kept else "to begin again"
        return f"stopped in epoch {min(kept + 1, epochs)} of {epochs}; train again with the same settings {onwards}"

    name = files.checkpoint.stem
    with (
        telling_where(where),
        tqdm(total=epochs, initial=run.epoch, desc=name, unit="epoch", disable=disable) as bar,
    ):
        while run.epoch < epochs:
            record = run.train_epoch(bar)
            if validate is not None:
                record |= {name: float(value) for name, value in validate(run.model.eval()).items()}
            # the log first: a run that is killed between the two does this epoch again, and writes its line again
            write_text("log", files.log, "".join(json.dumps(line) + "\n" for line in run.history))
            write_tensors("resume file", files.resume, {"format": FORMAT, "settings": told, **run.state()})
            kept = run.epoch
            bar.set_postfix(loss=f"{record['loss']:.3f}", adv=f"{record['adv_accuracy']:.1%}")
            bar.update()


class _Run:
    """A network on its way: what changes from epoch to epoch, and how."""

    def __init__(
        self,
        settings: Preset,
        dataset: Samples,
        device: torch.device,
        workers: int,
        transform: Moves | None,
        budget: Budget | None,
    ):
        self.settings, self.device, self.workers = settings, device, workers
        self.model = build_model(settings.architecture, dict(settings.arguments)).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, list(settings.milestones))
        names = ["alpha", "steps", "attack", "fast", "burn_in", "mask_every", "seed"]
        names += ["eps", "eps_low", "cam"] if budget is None else []  # a budget has its own
        names += [] if settings.objective == "at" else ["beta"]
        self.part = PART(settings.objective, budget=budget, **{name: getattr(settings, name) for name in names})
        self.plain = Numbered(dataset)
        self.moved = MovedMasks(dataset, self.part, transform)
        self.epoch = 0
        self.history: list[dict[str, float]] = []

    def train_epoch(self, bar: tqdm[Any]) -> dict[str, float]:
        began, lr = time.perf_counter(), self.optimizer.param_groups[0]["lr"]
        self.part.set_epoch(self.epoch)
        losses, right, seen = 0.0, 0, 0
        with _everything_seeded(self.settings.seed, self.epoch):
            remembers = self.settings.mask_every > 1
            if remembers and self.part.masks_due():
                for x, y, index in self.loader(self.plain):
                    self.part.remember(self.model, x.to(self.device), y, index)
            loader = self.loader(self.moved, shuffle=True)
            for number, (x, y, index, mask) in enumerate(loader, 1):
                x, y = x.to(self.device), y.to(self.device)
                adv = self.part.perturb(self.model, x, y, index, mask if remembers else None)
                outputs = self.part.training_pass(self.model.train(), x, adv, y)
                self.optimizer.zero_grad()
                outputs.loss.backward()
                self.optimizer.step()
                losses += outputs.loss.item() * len(x)
                right += int((outputs.adv_logits.argmax(1) == y).sum())
                seen += len(x)
                bar.set_postfix(batch=f"{number}/{len(loader)}", loss=f"{losses / seen:.3f}", adv=f"{right / seen:.1%}")
        self.schedule.step()
        self.epoch += 1
        record = {
            "epoch": self.epoch,
            "loss": losses / seen,
            "adv_accuracy": right / seen,
            "lr": lr,
            "seconds": time.perf_counter() - began,
        }
        self.history.append(record)
        return record

    def loader(self, dataset: Numbered | MovedMasks, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(dataset, self.settings.batch_size, shuffle, num_workers=self.workers)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "part": self.part.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
        }

    def expected(self, settings: dict[str, Any]) -> Expected:
        burn_in, mask_every = self.settings.burn_in, self.settings.mask_every
        return Expected(
            settings,
            fresh=self.state(),
            parameters=list(self.model.parameters()),
            epochs=self.settings.epochs,
            batches=len(self.loader(self.plain)),
            samples=len(self.plain),
            size=settings["image_shape"][1:],
            renewal=lambda epoch: None if mask_every == 1 or epoch <= burn_in else (epoch - 1 - burn_in) // mask_every,
        )

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.part.load_state_dict(state["part"])
        self.epoch, self.history = state["epoch"], state["history"]


@contextmanager
def _everything_seeded(*numbers: int) -> Iterator[None]:
    """Seed torch's global generators from numbers, and put them back as they were."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))
        yield
