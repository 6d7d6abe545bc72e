"""Training as in the paper, from a `Preset` to checkpoints, on Lightning; a run that was stopped goes on."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from ..attacks.projection import seed_of
from ..budget import Budget
from ..checks import check_count, check_number
from ..files import StrPath, write_text
from ..part import PART
from ..plots import plot_curves
from .architectures import build_network
from .augmentation import Moves
from .checkpoints import load_checkpoint, save_checkpoint
from .common import Samples, class_names, import_lightning, usable_device
from .destination import Destination
from .engine import Engine, is_first
from .loader import ResumableBatches
from .plain import plain
from .presets import Preset
from .reports import write_figure
from .resume import Expected, read_resume
from .samples import in_memory
from .stops import quiet, stopping


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
    *,
    held_out: float = 0.0,
    patience: int | None = None,
    keep_every: int = 200,
    engine: Engine | None = None,
) -> nn.Module:
    """Train a network and write its checkpoint.

    PATH gets the weights of the last epoch. In the folder PATH.run are the settings, a log with a line for each epoch,
    its curves as a figure, and everything that is needed to go on. The same call again goes on with a training that was
    stopped, in the middle of an epoch too, and ends, on the same device, with the same weights as one that was not; on
    a training that has ended it is refused unless `settings` have more epochs, which are then trained.

    Args:
        settings: see `preset`.
        dataset: training samples (image, class), images in [0, 1], not augmented; see `load_dataset`.
        path: checkpoint to write, for `load_checkpoint`.
        device: where to train.
        workers: processes that load images, while they are read into memory, or in every epoch if they are too many.
        verbose: show a progress bar where there is a terminal.
        transform: moves images (bytes, if that is what they are) and remembered masks of a batch alike, see
            `augmentation`. (Default: none)
        budget: budget to train with instead of the settings' own; its `repr` is kept with the settings.
        validate: called with the network, in eval mode, after each epoch; what it returns joins the record of it.
        held_out: share of `dataset`, drawn at random, that is not trained on but used after each epoch to measure
            natural accuracy and that under PGD-10 of radius eps; PATH with ".best" before its ending then gets the
            weights of the epoch with the best of the latter.
        patience: end after so many epochs without a better one; needs `held_out`. (Default: all epochs are trained)
        keep_every: number of batches after which what is needed to go on is written also within an epoch.
        engine: several devices or machines, precision, loggers; see `Engine`. (Default: one device, float32)

    Returns:
        The trained network, in eval mode.

    Raises:
        BlockingIOError: the same call is running.
        FileExistsError: PATH is there already, of a training that has ended or of another.
        OSError: a file cannot be written, which is tried before the work; or another rank died (ConnectionError).
        TypeError: `settings` that are no `Preset`.
        ValueError: a class that the network does not have, no samples, no such device, or what is needed to go on is
            damaged or belongs to other settings.
        ImportError: lightning is not installed.
    """
    if not isinstance(settings, Preset):
        raise TypeError(f"settings={settings!r} is a {type(settings).__name__}; a Preset is needed, see preset()")
    check_count("workers", workers, 0)
    check_count("keep_every", keep_every)
    if patience is not None and not (check_count("patience", patience) and held_out):
        raise ValueError(f"patience={patience} needs samples held_out, on which an epoch can be better")
    engine = Engine() if engine is None else engine
    engine.check(settings.batch_size)
    usable = usable_device("device", device)
    if len(dataset) == 0:
        raise ValueError("dataset is empty; at least one sample is needed")
    kept, held = _divided(dataset, held_out, settings.seed)
    import_lightning()
    with reserved(Destination(path)) as files, _everything_seeded(settings.seed):
        training = _Training(settings, files, usable, engine, kept, transform, budget, held_out)
        found = training.found()
        training.fit(found, held, workers, verbose, validate, patience, keep_every)
    return training.network.cpu().to(usable).eval()


class _Training:
    """A training on its way."""

    def __init__(
        self,
        settings: Preset,
        files: Destination,
        device: torch.device,
        engine: Engine,
        dataset: Samples,
        transform: Moves | None,
        budget: Budget | None,
        held_out: float,
    ):
        self.settings, self.files, self.device, self.engine = settings, files, device, engine
        self.dataset, self.transform = dataset, transform
        self.about: dict[str, Any] = plain(dataclasses.asdict(settings))
        self.about |= {"samples": len(dataset), "image_shape": list(dataset[0][0].shape)}
        names = class_names(dataset)
        self.about |= {} if names is None else {"class_names": names}
        self.about |= {} if budget is None else {"budget": repr(budget)}
        self.about |= {"held_out": held_out} if held_out else {}
        self.network = build_network(settings.architecture, dict(settings.arguments), settings.num_classes).to(device)
        used = ["alpha", "steps", "attack", "fast", "burn_in", "mask_every", "seed"]
        used += ["eps", "eps_low", "cam"] if budget is None else []  # a budget has its own
        used += [] if settings.objective == "at" else ["beta"]
        self.part = PART(settings.objective, budget=budget, **{name: getattr(settings, name) for name in used})

    @property
    def told(self) -> dict[str, Any]:
        """What a run that goes on must agree in."""
        return self.about | {"augmented": self.transform is not None, "accumulate": self.engine.accumulate}

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        of = self.settings
        return torch.optim.SGD(parameters, of.lr, of.momentum, weight_decay=of.weight_decay)

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.MultiStepLR:
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, list(self.settings.milestones))

    def batches(self, rank: int = 0, world: int = 1) -> ResumableBatches:
        of, accumulate = self.settings, self.engine.accumulate
        return ResumableBatches(len(self.dataset), of.batch_size, of.seed, rank, world * accumulate, accumulate)

    def found(self) -> dict[str, Any] | None:
        """Return what there is to go on from, None if the training begins.

        Raises:
            FileExistsError: the training has ended, or there is a checkpoint of another.
            ValueError: it is damaged, or belongs to another training.
        """
        if not self.files.resume.exists():
            return None
        optimizer = self.optimizer(self.network.parameters())
        masks, burn_in = self.settings.mask_every, self.settings.burn_in
        expected = Expected(
            self.told,
            model=self.network.state_dict(),
            optimizer=optimizer.state_dict(),
            schedule=self.schedule(optimizer).state_dict(),
            parameters=list(self.network.parameters()),
            batches=len(self.batches()),
            samples=len(self.dataset),
            size=self.about["image_shape"][1:],
            renewal=lambda epoch: None if masks == 1 or epoch <= burn_in else (epoch - 1 - burn_in) // masks,
        )
        found: dict[str, Any] = read_resume(self.files.resume, expected)
        if is_first() and self.files.checkpoint.exists():
            self._refuse(found["done"][0])
        return found

    def _refuse(self, done: int) -> None:
        """Raise if there is nothing to do for a checkpoint that is there, of a training of which epochs are `done`.

        It is written at the end, so that one of as many epochs as are asked for has ended, by its patience perhaps.

        Raises:
            FileExistsError: it has ended, or it is another's.
        """
        theirs, epochs = load_checkpoint(self.files.checkpoint)[1]["training"], self.settings.epochs
        if any(theirs.get(name) != value for name, value in self.about.items() if name != "epochs"):
            self.files.refuse_a_checkpoint()
        if done >= epochs or theirs["epochs"] == epochs:
            self.files.refuse_a_checkpoint(
                f"its training with epochs={epochs} has ended: set more to go on, or choose another name or remove it"
            )

    def fit(
        self,
        found: dict[str, Any] | None,
        held: Samples | None,
        workers: int,
        verbose: bool,
        validate: Callable[[nn.Module], dict[str, float]] | None,
        patience: int | None,
        keep_every: int,
    ) -> None:
        """Train until the last epoch, and write the checkpoints.

        Args:
            found: what to go on from.
            held: samples held out.
            workers: see `train`, also `verbose`, `validate`, `patience` and `keep_every`.
            verbose: likewise.
            validate: likewise.
            patience: likewise.
            keep_every: likewise.

        Raises:
            KeyboardInterrupt: stopped; the text says where, and how to go on.
            ConnectionError: another rank died.
        """
        from .keeping import Keeper, ResumeFiles
        from .records import Bar, Records
        from .run import Run

        samples = in_memory(self.dataset, self.settings.num_classes, workers)
        held_samples = None if held is None else in_memory(held, self.settings.num_classes, workers)
        sgd, moves = (self.optimizer, self.schedule), self.transform
        run = Run(self.network, self.part, *sgd, samples, self.batches, held_samples, moves, workers)
        records = Records(self.settings.seed, validate)
        keeper = Keeper(self.files, records, self.save, keep_every, patience)
        bar = Bar(self.files.checkpoint.stem, records, verbose)
        written, epochs = ResumeFiles(self.told, len(self.batches()), found), self.settings.epochs
        if is_first():
            write_text("settings file", self.files.settings, f"{self.settings}\n")
        if found is not None:
            keeper.at = keeper.kept = (found["done"][0], found["done"][1])
        try:
            with stopping(keeper, epochs), quiet():
                trainer = self.engine.trainer(self.device, epochs, self.files.folder, [records, keeper, bar], written)
                trainer.fit(run, ckpt_path=None if found is None else self.files.resume)
        finally:
            bar.close()
            if records.history and is_first():
                write_figure(self.files.curves, plot_curves(records.history))
        if is_first():
            self.save(self.files.checkpoint, "last", len(records.history))

    def save(self, path: Path, which: str, epoch: int) -> None:
        """Write a checkpoint to `path` that says `which` of the training it is, and of what `epoch`."""
        of = self.settings
        about = self.about | {"which": which, "epoch": epoch}
        save_checkpoint(path, self.network, of.architecture, of.num_classes, dict(of.arguments), training=about)


def _divided(dataset: Samples, held_out: float, seed: int) -> tuple[Samples, Samples | None]:
    """Return the samples to train on, and those held out.

    Raises:
        TypeError: a share that is no number.
        ValueError: a share that leaves none for one of the two.
    """
    check_number("held_out", held_out)
    if not held_out:
        return dataset, None
    count = round(held_out * len(dataset)) if held_out < 1 else len(dataset)
    if not 0 < count < len(dataset):
        raise ValueError(
            f"held_out={held_out} of {len(dataset)} samples leaves none to train on, or none to validate on"
        )
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    whole: Any = dataset
    return Subset(whole, sorted(order[count:])), Subset(whole, sorted(order[:count]))


@contextmanager
def reserved(files: Destination) -> Iterator[Destination]:
    """Keep the files of a training from others, in the first of its processes, which writes them."""
    if is_first():
        with files.reserved():
            yield files
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first ends the others
    yield files


@contextmanager
def _everything_seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators from a number, and put them back as they were."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed_of(seed))
        yield
