"""PART as ART trainers: `PARTTrainer` for AT, and one each for TRADES and MART."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.config import ART_NUMPY_DTYPE
from art.data_generators import DataGenerator
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..budget import Budget, FixedBudget
from ..checks import check_count, check_images, check_number, class_indices
from ..files import append_line
from ..objectives import AT, MART, TRADES, Objective
from ..part import PART, Outputs
from ..surrogate import check_fast, logits_of
from .art import (
    PixelEvasionAttack,
    _PixelEvasion,
    check_classifier,
    classifier_clip,
    classifier_criterion,
    classifier_view,
    lift,
)

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor | None]


class _LiftedPART(PART):
    """PART whose adversarial examples come from an ART attack where the objective leaves it the choice."""

    def __init__(self, lifted: _PixelEvasion, objective: Objective, **schedule: Any):
        self.lifted = lifted
        self.crafts = isinstance(lifted, PixelEvasionAttack)
        if not self.crafts:
            schedule |= {"alpha": lifted.eps_step, "steps": lifted.max_iter}
            schedule["random_start"] = lifted.num_random_init > 0
            self.crafts = lifted.num_random_init > 1 and objective.start == "uniform"
        clip = classifier_clip(lifted.estimator)
        super().__init__(objective, budget=lifted.budget, clip=clip, **schedule)

    def attack(
        self, model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, natural_logits: Tensor | None = None
    ) -> Tensor:
        if self.crafts:
            return self.lifted.craft(model, x, y, radii)
        return super().attack(model, x, y, radii, natural_logits)


class PARTTrainer(Trainer):
    """
    Class performing pixel-reweighted adversarial training (PART): adversarial training with full `eps` on the pixels
    that a class activation map calls important and `eps_low` elsewhere. Takes the place of `AdversarialTrainer`.

    After `fit`, `history` holds a dictionary for every epoch: loss, accuracies, learning rate, seconds, the share of
    maps without signal and that of samples without gradient.

    | Paper link: https://arxiv.org/abs/2406.00685
    """

    _name = "PART"

    def __init__(
        self,
        classifier: PyTorchClassifier,
        attacks: EvasionAttack | list[EvasionAttack],
        ratio: float = 1.0,
        eps_low: float | None = None,
        burn_in: int | None = None,
        mask_every: int = 1,
        cam: str | type = "gradcam",
        target_layers: Any = None,
        budget: Budget | None = None,
        fast: str | Sequence[str] = (),
        log_path: str | os.PathLike | None = None,
        **budget_options: Any,
    ) -> None:
        """
        Create a :class:`.PARTTrainer` instance.

        :param classifier: Model to train adversarially, a `PyTorchClassifier` with optimizer and `clip_values`.
        :param attacks: Attacks on it, rotated for each batch. A plain PGD is lifted to its Pixel-AG form, with its eps,
                        eps_step, max_iter and num_random_init; another l_inf attack goes through a change of variable;
                        an attack that has a budget per pixel keeps it.
        :param ratio: The proportion of samples in each batch to be replaced with their adversarial counterparts.
        :param eps_low: Maximum perturbation of unimportant pixels, in the units of `clip_values`; default 7/8 of the
                        attack's eps, the paper's ratio.
        :param burn_in: Number of first epochs of a `fit` with eps everywhere; default a quarter, as in the paper.
        :param mask_every: Renew the masks every so many epochs (`fit` only; the images must not be augmented).
        :param cam, target_layers, budget, budget_options: See `PixelBudget`.
        :param fast: Options that make a PGD cheaper and its gradients approximate; see `part_plugin.surrogate.FAST`.
        :param log_path: File to which the record of each epoch is appended as a line of JSON.
        """
        check_classifier(classifier)
        if not 0 < check_number("ratio", ratio) <= 1:
            raise ValueError(f"ratio={ratio} is not allowed; it must be > 0 and <= 1")
        if burn_in is not None:
            check_count("burn_in", burn_in, 0)
        super().__init__(classifier)
        options = {"cam": cam, "target_layers": target_layers, "budget": budget, **budget_options}
        listed = attacks if isinstance(attacks, list) else [attacks]
        if not listed:
            raise ValueError("attacks is empty; at least one attack is needed")
        self.attacks = [self._lifted(attack, eps_low, options) for attack in listed]
        self.ratio = ratio
        self.burn_in = burn_in
        self.log_path = log_path
        self.mask_every = check_count("mask_every", mask_every)
        self.fast = check_fast(fast)
        self.history: list[dict[str, float]] = []

    def _lifted(self, attack: Any, eps_low: float | None, options: dict[str, Any]) -> _PixelEvasion:
        lifted = lift(attack, eps_low=eps_low, **options)
        if lifted.targeted:
            raise NotImplementedError(f"{type(attack).__name__} is targeted; training needs an untargeted attack")
        if lifted.estimator.model is not self._classifier.model:
            raise ValueError(f"{type(attack).__name__} attacks another model than the classifier that is trained")
        return lifted

    def _objective(self) -> Objective:
        return AT(classifier_criterion(self._classifier))

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int = 128,
        nb_epochs: int = 20,
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        scheduler: Any = None,
        drop_last: bool = False,
        verbose: bool = True,
    ) -> None:
        """
        Train the model. See class documentation for more information.

        :param x: Training set of shape `(nb_samples, channels, height, width)`, inside `clip_values`.
        :param y: Class indices or one-hot labels.
        :param batch_size: Size of batches.
        :param nb_epochs: Number of epochs to use for training.
        :param validation_data: Tuple `(x_val, y_val)`; natural accuracy and that under PGD at full eps are reported.
        :param scheduler: Learning rate scheduler, stepped at the end of every epoch; `ReduceLROnPlateau` gets the loss.
        :param drop_last: Leave out a last, incomplete batch.
        :param verbose: Show a progress bar with loss and accuracies.
        """
        check_count("batch_size", batch_size)
        images, labels = self._checked(x, y)
        nb_batches = len(images) // batch_size if drop_last else -(-len(images) // batch_size)
        check_count("number of batches", nb_batches)
        images, labels = (_where_it_fits(tensor, self._classifier.device) for tensor in (images, labels))

        def epoch() -> Iterator[Batch]:
            order = np.arange(len(images))
            np.random.shuffle(order)  # as ART does
            for batch in range(nb_batches):
                index = torch.from_numpy(order[batch * batch_size : (batch + 1) * batch_size])
                rows = index.to(images.device)
                yield images[rows], labels[rows], index

        self._train(epoch, nb_batches, nb_epochs, self.mask_every, validation_data, scheduler, verbose)

    def fit_generator(
        self,
        generator: DataGenerator,
        nb_epochs: int = 20,
        scheduler: Any = None,
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        verbose: bool = True,
    ) -> None:
        """
        Train the model using a data generator, whose images may be augmented.

        :param generator: Data generator with a known size.
        :param nb_epochs, scheduler, validation_data, verbose: As in `fit`.
        """
        if generator.size is None:
            raise ValueError("generator.size=None is not allowed; the size of the data set is needed")
        if self.mask_every > 1:
            raise ValueError(f"mask_every={self.mask_every} needs to know which sample is which; use fit")
        nb_batches = -(-generator.size // generator.batch_size)

        def epoch() -> Iterator[Batch]:
            for _ in range(nb_batches):
                yield (*self._checked(*generator.get_batch()), None)

        self._train(epoch, nb_batches, nb_epochs, 1, validation_data, scheduler, verbose)

    def predict(self, x: np.ndarray, **kwargs) -> np.ndarray:
        """
        Perform prediction using the adversarially trained classifier.

        :param x: Input samples.
        :param kwargs: Other parameters to be passed on to the `predict` function of the classifier.
        :return: Predictions for test set.
        """
        return self._classifier.predict(x, **kwargs)

    def _checked(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        images = torch.as_tensor(np.asarray(x, dtype=ART_NUMPY_DTYPE))
        low, high = classifier_clip(self._classifier)
        check_images(images, (low.cpu(), high.cpu()))
        return images, class_indices(y, len(images), self._classifier.nb_classes)

    def _parts(self, nb_epochs: int, mask_every: int) -> list[_LiftedPART]:
        burn_in = nb_epochs // 4 if self.burn_in is None else self.burn_in
        if burn_in >= nb_epochs:
            raise ValueError(f"burn_in={burn_in} leaves none of nb_epochs={nb_epochs} for PART; it must be smaller")
        schedule = {"burn_in": burn_in, "mask_every": mask_every, "fast": self.fast}
        return [_LiftedPART(attack, self._objective(), **schedule) for attack in self.attacks]

    def _train(
        self,
        epoch_batches: Callable[[], Iterable[Batch]],
        nb_batches: int,
        nb_epochs: int,
        mask_every: int,
        validation_data: tuple[np.ndarray, np.ndarray] | None,
        scheduler: Any,
        verbose: bool,
    ) -> None:
        check_count("nb_epochs", nb_epochs)
        if self._classifier.optimizer is None:
            raise ValueError("optimizer=None leaves nothing to train with; give one to PyTorchClassifier")
        if scheduler is not None and not callable(getattr(scheduler, "step", None)):
            raise TypeError(f"scheduler is a {type(scheduler).__name__}; an object with a method step is needed")
        validation = None if validation_data is None else self._checked(*validation_data)
        parts = self._parts(nb_epochs, mask_every)
        rotation = itertools.cycle(parts)
        self.history = []
        with tqdm(total=nb_epochs * nb_batches, desc=self._name, disable=not verbose) as bar:
            for epoch in range(nb_epochs):
                record = self._train_epoch(epoch, epoch_batches(), parts, rotation, bar)
                if validation is not None:
                    record |= self._validate(*validation, parts[0])
                self._finish_epoch(record, scheduler, bar)
        self._classifier._model.train(False)

    def _train_epoch(
        self,
        epoch: int,
        batches: Iterable[Batch],
        parts: Sequence[_LiftedPART],
        rotation: Iterator[_LiftedPART],
        bar: tqdm,
    ) -> dict[str, float]:
        classifier = self._classifier
        view = classifier_view(classifier)
        tally = _Tally(parts)
        for part in parts:
            part.set_epoch(epoch)
        classifier._model.train(True)
        bar.set_description(f"{self._name}{' burn-in' if parts[0].burning_in else ''} epoch {epoch + 1}")
        for (x, y, index), part in zip(batches, rotation, strict=False):
            x, y = x.to(classifier.device), y.to(classifier.device)
            outputs = part.training_pass(view, x, self._attacked(part, view, x, y, index), y)
            classifier.optimizer.zero_grad()
            outputs.loss.backward()
            classifier.optimizer.step()
            tally.add(outputs, y)
            if not bar.disable and bar.n % 10 == 0:  # to read the numbers a GPU must be waited for
                bar.set_postfix(_shown(self.history) | tally.shown())
            bar.update()
        return {"epoch": epoch, "lr": classifier.optimizer.param_groups[0]["lr"]} | tally.record()

    def _attacked(self, part: PART, view: nn.Module, x: Tensor, y: Tensor, index: Tensor | None) -> Tensor:
        if self.ratio == 1:
            return part.perturb(view, x, y, index)
        chosen = torch.from_numpy(np.random.choice(len(x), int(np.ceil(self.ratio * len(x))), replace=False))
        mixed = x.clone()
        mixed[chosen] = part.perturb(view, x[chosen], y[chosen], None if index is None else index[chosen])
        return mixed

    def _validate(self, x: Tensor, y: Tensor, part: _LiftedPART) -> dict[str, float]:
        """Return natural accuracy and that under PGD at full eps, which is stronger than Pixel-AG."""
        view = classifier_view(self._classifier)
        pgd = PART(
            AT(classifier_criterion(self._classifier)),
            budget=FixedBudget(part.budget.eps),
            alpha=part.budget.eps / 4,
            burn_in=0,
            clip=part.clip,
            seed=0,
        )
        hits = {"val_natural": 0.0, "val_pgd10": 0.0}
        self._classifier._model.eval()
        for rows in torch.arange(len(x)).split(256):
            images, labels = x[rows].to(self._classifier.device), y[rows].to(self._classifier.device)
            with torch.no_grad():
                hits["val_natural"] += _hits(logits_of(view, images), labels)
            adv = pgd.perturb(view, images, labels)
            with torch.no_grad():
                hits["val_pgd10"] += _hits(logits_of(view, adv), labels)
        return {name: count / len(x) for name, count in hits.items()}

    def _finish_epoch(self, record: dict[str, float], scheduler: Any, bar: tqdm) -> None:
        self.history.append(record)
        bar.set_postfix(_shown(self.history))
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


class _TwoTermTrainer(PARTTrainer):
    """What PART-T and PART-M share: the call shape of ART's TRADES trainer."""

    def __init__(self, classifier: PyTorchClassifier, attack: EvasionAttack, beta: float = 6.0, **options: Any) -> None:
        """
        Create the trainer.

        :param classifier: Model to train adversarially, a `PyTorchClassifier` with optimizer and `clip_values`.
        :param attack: Attack on it. Of a plain PGD eps, eps_step and max_iter are used, with the loss and the start of
                       the objective's paper; another l_inf attack is used as it is.
        :param beta: The scaling factor controlling tradeoff between clean loss and adversarial loss.
        :param options: eps_low, burn_in, mask_every, cam, target_layers, budget; see `PARTTrainer`.
        """
        self.beta = check_number("beta", beta)
        super().__init__(classifier, [attack], 1.0, **options)

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: Any = None,
        drop_last: bool = False,
        verbose: bool = True,
    ) -> None:
        """Train the model; the arguments are those of `PARTTrainer.fit` in the order of ART's TRADES trainer."""
        super().fit(x, y, batch_size, nb_epochs, validation_data, scheduler, drop_last, verbose)


class PARTTrainerTRADES(_TwoTermTrainer):
    """
    Class performing PART-T: TRADES with a radius per pixel. Takes the place of `AdversarialTrainerTRADESPyTorch`.

    | Paper link: https://arxiv.org/abs/2406.00685 (PART), https://arxiv.org/abs/1901.08573 (TRADES)
    """

    _name = "PART-T"

    def _objective(self) -> Objective:
        return TRADES(self.beta, classifier_criterion(self._classifier))


class PARTTrainerMART(_TwoTermTrainer):
    """
    Class performing PART-M: MART with a radius per pixel, in the call shape of ART's TRADES trainer.

    | Paper link: https://arxiv.org/abs/2406.00685 (PART), https://openreview.net/forum?id=rklOg6EFwS (MART)
    """

    _name = "PART-M"

    def _objective(self) -> Objective:
        return MART(self.beta)


class _Tally:
    """Sums over one epoch, and what the parts counted meanwhile."""

    def __init__(self, parts: Sequence[_LiftedPART]):
        self.parts = parts
        self.began = time.perf_counter()
        self.before = self._counts()
        self.seen = 0
        self.sums = torch.zeros(3, dtype=torch.float64)  # of loss, adversarial and natural hits, where the model is

    def add(self, outputs: Outputs, labels: Tensor) -> None:
        logits = (outputs.adv_logits, outputs.natural_logits)
        hits = [torch.zeros_like(outputs.loss) if z is None else (z.argmax(1) == labels).sum() for z in logits]
        new = torch.stack([outputs.loss.detach() * len(labels), *hits])
        self.sums = self.sums.to(new.device) + new.double().detach()
        self.seen += len(labels)

    def shown(self) -> dict[str, str]:
        loss, adv, _ = self.means()
        return {"loss": f"{loss:.3f}", "adv": f"{adv:.1%}"}

    def means(self) -> list[float]:
        return (self.sums / self.seen).tolist()

    def record(self) -> dict[str, float]:
        maps, no_signal, attacked, zero_gradients = self._counts() - self.before
        loss, adv_accuracy, natural_accuracy = self.means()
        record = {"loss": loss, "adv_accuracy": adv_accuracy}
        if self.parts[0].objective.needs_natural:
            record["natural_accuracy"] = natural_accuracy
        record["no_signal"] = float(no_signal / max(maps, 1))
        record["zero_gradient"] = float(zero_gradients / max(attacked, 1))
        record["seconds"] = time.perf_counter() - self.began
        return record

    def _counts(self) -> np.ndarray:
        budgets = {id(part.budget): part.budget for part in self.parts}.values()
        made = [[getattr(budget, name, 0) for name in ("images", "no_signal")] for budget in budgets]
        attacked = [[part.attacked, part.zero_gradients] for part in self.parts]
        return np.concatenate([np.sum(made, axis=0), np.sum(attacked, axis=0)])


def _where_it_fits(data: Tensor, device: torch.device) -> Tensor:
    """Return the data on the device if it takes less than a quarter of the memory that is free there."""
    if device.type != "cuda" or data.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
        return data
    return data.to(device)


def _hits(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())


def _shown(history: list[dict[str, float]]) -> dict[str, str]:
    """Return the latest validation accuracies as the progress bar shows them."""
    return {name: f"{value:.1%}" for name, value in history[-1].items() if name.startswith("val_")} if history else {}
