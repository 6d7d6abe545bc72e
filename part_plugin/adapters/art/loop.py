"""The epochs of an ART trainer: attack, update, validation, records."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...budget import FixedBudget
from ...files import append_line
from ...labels import classes_of
from ...network.isolation import gradients_kept
from ...network.view import logits_of
from ...objectives import AT, Outputs
from ...part import PART
from .batches import ArrayBatches, Batch, GeneratorBatches
from .classifier import classifier_criterion, classifier_view, preprocessed_to_fit
from .lifted import LiftedPART
from .progress import Progress
from .tally import Tally

logger = logging.getLogger(__name__)


@dataclass
class TrainingLoop:
    """The epochs of one `fit`.

    Attributes:
        classifier: what is trained.
        name: of the method, for the progress bar.
        progress: what was trained so far, and the losses that take turns, batch by batch.
        ratio: share of each batch that is attacked, chosen anew for each; None: all of it, as it is.
        log_path: file to which the record of each epoch is appended as a line of JSON.
        training_mode: whether the network is trained in training mode.
    """

    classifier: PyTorchClassifier
    name: str
    progress: Progress
    ratio: float | None
    log_path: str | os.PathLike[str] | None
    training_mode: bool

    def run(
        self,
        batches: ArrayBatches | GeneratorBatches,
        validation: tuple[Tensor, Tensor] | None,
        scheduler: Any,
        save: Callable[[], None],
        verbose: bool,
    ) -> None:
        """Train until this fit is done.

        Args:
            batches: iterated once per epoch.
            validation: images and classes.
            scheduler: of the learning rate.
            save: called at the end of each epoch.
            verbose: show a progress bar.
        """
        progress = self.progress
        epochs = range(progress.epoch, progress.stop)
        rotation = itertools.cycle(progress.parts)
        for _ in range((progress.epoch - progress.began) * len(batches) % len(progress.parts)):
            next(rotation)
        with (
            gradients_kept(self.classifier._model),
            tqdm(total=len(epochs) * len(batches), desc=self.name, disable=None if verbose else True) as bar,
        ):
            for epoch in epochs:
                record = self._train_epoch(epoch, batches, rotation, bar)
                if validation is not None:
                    record |= self._validate(*validation, progress.parts[0])
                progress.history.append(record)
                self._finish_epoch(record, scheduler, bar)
                save()
            self.classifier._model.train(False)

    def _train_epoch(
        self,
        epoch: int,
        batches: Iterable[Batch],
        rotation: Iterator[LiftedPART],
        bar: tqdm[Any],
    ) -> dict[str, float]:
        classifier = self.classifier
        view = classifier_view(classifier)
        tally = Tally(self.progress.parts)
        for part in self.progress.parts:
            part.set_epoch(epoch)
        classifier._model.train(self.training_mode)
        bar.set_description(f"{self.name}{' burn-in' if self.progress.parts[0].burning_in else ''} epoch {epoch + 1}")
        for (x, y, index), part in zip(batches, rotation, strict=False):
            part.refresh()
            x, y = x.to(classifier.device), y.to(classifier.device)
            outputs = self._outputs(part, x, self._attacked(part, view, x, y, index), y)
            classifier.optimizer.zero_grad()
            outputs.loss.backward()
            classifier.optimizer.step()
            tally.add(outputs, classes_of(y))
            if not bar.disable and bar.n % 10 == 0:  # to read the numbers a GPU must be waited for
                bar.set_postfix(shown(self.progress.history) | tally.shown())
            bar.update()
        for part in self.progress.parts:
            part.deferred.make()  # the record waits for the device anyway
        return {"epoch": epoch, "lr": classifier.optimizer.param_groups[0]["lr"]} | tally.record()

    def _attacked(self, part: PART, view: nn.Module, x: Tensor, y: Tensor, index: Tensor | None) -> Tensor:
        if self.ratio is None:
            return part.perturb(view, x, y, index)
        if self.ratio == 1:
            rows = np.arange(len(x))
            np.random.shuffle(rows)  # as in ART, so that the same seed gives the same starts
        else:
            rows = np.random.choice(len(x), int(np.ceil(self.ratio * len(x))), replace=False)
        chosen = torch.from_numpy(rows)
        mixed = x.clone()
        mixed[chosen] = part.perturb(view, x[chosen], y[chosen], None if index is None else index[chosen])
        return mixed

    def _outputs(self, part: LiftedPART, x: Tensor, adv: Tensor, y: Tensor) -> Outputs:
        """Return the training pass, behind whatever preprocessing the classifier trains with."""
        natural, targets = x, None
        if part.objective.needs_natural:
            natural, targets = preprocessed_to_fit(self.classifier, x, y)
        inputs, targets_of_adv = preprocessed_to_fit(self.classifier, adv, y)
        return part.training_pass(
            self.classifier.model, natural, inputs, targets_of_adv if targets is None else targets
        )

    def _validate(self, x: Tensor, y: Tensor, part: LiftedPART) -> dict[str, float]:
        """Return natural accuracy and that under PGD at full eps, which is stronger than Pixel-AG."""
        view = classifier_view(self.classifier)
        pgd = PART(
            AT(classifier_criterion(self.classifier)),
            budget=FixedBudget(part.budget.eps),
            alpha=part.budget.eps / 4 or 1e-6,  # within a radius of 0 any step will do
            burn_in=0,
            clip=part.clip,
            seed=0,
        )
        hits = {"val_natural": 0.0, "val_pgd10": 0.0}
        self.classifier._model.eval()
        for rows in torch.arange(len(x)).split(256):
            images, labels = x[rows].to(self.classifier.device), y[rows].to(self.classifier.device)
            with torch.no_grad():
                hits["val_natural"] += hits_of(logits_of(view, images), labels)
            adv = pgd.perturb(view, images, labels)
            with torch.no_grad():
                hits["val_pgd10"] += hits_of(logits_of(view, adv), labels)
        return {name: count / len(x) for name, count in hits.items()}

    def _finish_epoch(self, record: dict[str, float], scheduler: Any, bar: tqdm[Any]) -> None:
        bar.set_postfix(shown(self.progress.history))
        logger.info(" ".join(f"{k}: {v:.4g}" for k, v in record.items()))
        if self.log_path is not None and not self.progress.logged(self.log_path, record):
            append_line("log", self.log_path, record)
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(record["loss"])
        elif scheduler is not None:
            scheduler.step()


@contextmanager
def modes_kept_in_trouble(model: nn.Module) -> Iterator[None]:
    """Put every submodule of `model` back in the mode that it was in if an exception passes."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, training in modes:
            module.training = training
        raise


def hits_of(logits: Tensor, labels: Tensor) -> int:
    """Return how many rows of logits (N, K) are highest at their class, given as labels (N,)."""
    return int((logits.argmax(1) == labels).sum())


def shown(history: list[dict[str, float]]) -> dict[str, str]:
    """Return the validation accuracies at the end of `history` as the progress bar shows them."""
    return {name: f"{value:.1%}" for name, value in history[-1].items() if name.startswith("val_")} if history else {}
