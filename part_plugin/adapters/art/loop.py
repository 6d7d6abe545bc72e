"""The epochs of an ART trainer: attack, update, validation, records."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...budget import FixedBudget
from ...files import append_line
from ...network.view import logits_of
from ...objectives import AT
from ...part import PART
from .classifier import classifier_criterion, classifier_view
from .lifted import LiftedPART
from .tally import Tally

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor | None]


@dataclass
class TrainingLoop:
    """One `fit`.

    Attributes:
        classifier: what is trained.
        name: of the method, for the progress bar.
        parts: losses that take turns, batch by batch.
        ratio: share of each batch that is attacked.
        log_path: file to which the record of each epoch is appended as a line of JSON.
        history: record of every epoch.
    """

    classifier: PyTorchClassifier
    name: str
    parts: Sequence[LiftedPART]
    ratio: float
    log_path: str | os.PathLike[str] | None
    history: list[dict[str, float]] = field(default_factory=list)

    def run(
        self,
        epoch_batches: Callable[[], Iterable[Batch]],
        nb_batches: int,
        nb_epochs: int,
        validation: tuple[Tensor, Tensor] | None,
        scheduler: Any,
        verbose: bool,
    ) -> None:
        """Train for some epochs.

        Args:
            epoch_batches: makes the batches of an epoch: images, labels, numbers of the samples.
            nb_batches: how many they are.
            nb_epochs: number of epochs.
            validation: images and labels.
            scheduler: of the learning rate.
            verbose: show a progress bar.
        """
        rotation = itertools.cycle(self.parts)
        with tqdm(total=nb_epochs * nb_batches, desc=self.name, disable=None if verbose else True) as bar:
            for epoch in range(nb_epochs):
                record = self._train_epoch(epoch, epoch_batches(), rotation, bar)
                if validation is not None:
                    record |= self._validate(*validation, self.parts[0])
                self._finish_epoch(record, scheduler, bar)
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
        tally = Tally(self.parts)
        for part in self.parts:
            part.set_epoch(epoch)
        classifier._model.train(True)
        bar.set_description(f"{self.name}{' burn-in' if self.parts[0].burning_in else ''} epoch {epoch + 1}")
        for (x, y, index), part in zip(batches, rotation, strict=False):
            x, y = x.to(classifier.device), y.to(classifier.device)
            outputs = part.training_pass(view, x, self._attacked(part, view, x, y, index), y)
            classifier.optimizer.zero_grad()
            outputs.loss.backward()
            classifier.optimizer.step()
            tally.add(outputs, y)
            if not bar.disable and bar.n % 10 == 0:  # to read the numbers a GPU must be waited for
                bar.set_postfix(shown(self.history) | tally.shown())
            bar.update()
        return {"epoch": epoch, "lr": classifier.optimizer.param_groups[0]["lr"]} | tally.record()

    def _attacked(self, part: PART, view: nn.Module, x: Tensor, y: Tensor, index: Tensor | None) -> Tensor:
        if self.ratio == 1:
            return part.perturb(view, x, y, index)
        chosen = torch.from_numpy(np.random.choice(len(x), int(np.ceil(self.ratio * len(x))), replace=False))
        mixed = x.clone()
        mixed[chosen] = part.perturb(view, x[chosen], y[chosen], None if index is None else index[chosen])
        return mixed

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
        self.history.append(record)
        bar.set_postfix(shown(self.history))
        logger.info(" ".join(f"{k}: {v:.4g}" for k, v in record.items()))
        if record["no_signal"] > 0.05:
            logger.warning(
                "%.0f%% of the maps had no signal; those samples kept the full eps", 100 * record["no_signal"]
            )
        if record["zero_gradient"] > 0.01:
            logger.warning("%.0f%% of the samples gave the attack no gradient", 100 * record["zero_gradient"])
        if self.log_path is not None:
            append_line("log", self.log_path, record)
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(record["loss"])
        elif scheduler is not None:
            scheduler.step()


def hits_of(logits: Tensor, labels: Tensor) -> int:
    """Return how many rows of logits (N, K) are highest at their class, given as labels (N,)."""
    return int((logits.argmax(1) == labels).sum())


def shown(history: list[dict[str, float]]) -> dict[str, str]:
    """Return the validation accuracies at the end of `history` as the progress bar shows them."""
    return {name: f"{value:.1%}" for name, value in history[-1].items() if name.startswith("val_")} if history else {}
