"""What the ART trainers here share: attacks made Pixel-AG, checked data, epochs that are counted on, checkpoints."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy.typing as npt
from art.attacks.attack import EvasionAttack
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from ...checks import Clip, check_count, check_number
from ...files import StrPath, check_appendable
from ...labels import classes_of, labels_of
from ...network.fast import check_fast
from ...objectives import Objective
from ...pixel_budget import BudgetOptions
from .base import PixelEvasionBase
from .batches import ArrayBatches, GeneratorBatches
from .classifier import check_classifier, check_training, classifier_clip, same_range
from .data import images_of
from .lifted import LiftedPART
from .lifting import lift
from .loop import TrainingLoop, modes_kept_in_trouble
from .progress import Progress
from .wrapper import PixelEvasionAttack

if TYPE_CHECKING:
    from typing_extensions import Unpack

Validation = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class TrainerOptions(BudgetOptions, total=False):
    """What every trainer here takes by keyword, besides the arguments of its host."""

    eps_low: float | None
    budget: Any
    clip: Any
    burn_in: int | None
    mask_every: int
    fast: str | Sequence[str]
    log_path: str | os.PathLike[str] | None


class Fit(TypedDict):
    """What `fit` and `fit_generator` take alike."""

    nb_epochs: int
    validation_data: Validation | None
    scheduler: Any
    training_mode: bool
    verbose: bool
    ignored: dict[str, Any]


class PARTTrainerBase(Trainer):
    """
    Base class of the PART trainers, which differ in their objective and in the call shape of their host; see
    :class:`.PARTTrainer`.
    """

    _name: str

    def __init__(
        self,
        classifier: PyTorchClassifier,
        attacks: EvasionAttack | list[EvasionAttack],
        ratio: float = 0.5,
        *,
        eps_low: float | None = None,
        budget: Any = None,
        clip: Any = None,
        burn_in: int | None = None,
        mask_every: int = 1,
        fast: str | Sequence[str] = (),
        log_path: str | os.PathLike[str] | None = None,
        **options: Unpack[BudgetOptions],
    ) -> None:
        """
        Create the trainer.

        :param classifier: Model to train adversarially, a `PyTorchClassifier` with optimizer and `clip_values`.
        :param attacks: Attacks, rotated for each batch. A plain PGD is lifted to its Pixel-AG form, with its eps,
                        eps_step, max_iter and num_random_init, also where they are changed between batches; another
                        l_inf attack goes through a change of variable; an attack that has a budget per pixel keeps it.
                        One on another classifier gives the gradients, and the trained one the radii.
        :param ratio: The proportion of samples in each batch to be replaced with their adversarial counterparts, as
                      in ART; the paper's is 1.0.
        :param eps_low: Maximum perturbation of unimportant pixels, in the units of `clip_values`; default 7/8 of the
                        attack's eps, the paper's ratio.
        :param budget: A budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
        :param clip: Smallest and largest pixel value, for a classifier without `clip_values`.
        :param burn_in: Number of the trainer's first epochs, over all calls of `fit`, with eps everywhere; default a
                        quarter of the first call's, as in the paper. Give it where `fit(nb_epochs=1)` is called in a
                        loop.
        :param mask_every: Renew the masks every so many epochs (`fit` only; the images must not be augmented).
        :param fast: Options that make a PGD cheaper and its gradients approximate; see `part_plugin.network.fast.FAST`.
        :param log_path: File to which the record of each epoch is appended as a line of JSON.
        :param options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

        Raises:
            EstimatorError: A classifier that is no PyTorchClassifier.
            TypeError: A setting or an attack of the wrong type.
            ValueError: A setting or an attack that is not allowed; the sentence names it.
        """
        check_classifier(classifier, type(self), clip)
        self.ratio = check_number("ratio", ratio, above=True, high=1)
        self.burn_in = None if burn_in is None else check_count("burn_in", burn_in, 0)
        self.mask_every = check_count("mask_every", mask_every)
        self.fast = check_fast(fast)
        super().__init__(classifier)
        self._clip = clip
        listed = list(attacks) if isinstance(attacks, (list, tuple)) else [attacks]
        if not listed:
            raise ValueError("attacks is empty; at least one attack is needed")
        if not isinstance(attacks, (EvasionAttack, list, tuple)):  # an error of this type, as in ART
            raise ValueError(f"attacks is a {type(attacks).__name__}; an ART EvasionAttack or a list of them is needed")
        self.attacks = [self._lifted(attack, eps_low=eps_low, budget=budget, **options) for attack in listed]
        self.log_path = log_path
        self._progress = Progress(self._name, [attack.origin for attack in self.attacks], self._new_part)

    @property
    def epoch(self) -> int:
        """How many epochs there were so far, over all calls of `fit`."""
        return self._progress.epoch

    @property
    def history(self) -> list[dict[str, float]]:
        """Record of every epoch so far, over all calls of `fit`."""
        return self._progress.history

    def predict(self, x: npt.NDArray[Any], **kwargs: Any) -> npt.NDArray[Any]:
        """
        Perform prediction using the adversarially trained classifier.

        :param x: Input samples.
        :param kwargs: Other parameters to be passed on to the `predict` function of the classifier.
        :return: Predictions for test set.
        """
        predictions: npt.NDArray[Any] = self._classifier.predict(x, **kwargs)
        return predictions

    def _objective(self) -> Objective:
        """Return what is trained."""
        raise NotImplementedError

    def _new_part(self, number: int, **schedule: Any) -> LiftedPART:
        """Return the loss whose examples come from the attack of that number."""
        attack = self.attacks[number]
        schedule |= {"mask_every": self.mask_every, "fast": self.fast}
        return LiftedPART(attack, self._objective(), foreign=self._is_foreign(attack), **schedule)

    def _share(self) -> float | None:
        """Return the share of each batch that is attacked, None for all of it."""
        return self.ratio

    @property
    def clip(self) -> Clip:
        """Range of the images."""
        return classifier_clip(self._classifier, self._clip)

    def _lifted(self, attack: Any, **options: Any) -> PixelEvasionBase:
        lifted = lift(attack, clip=self._clip, **options)
        if self._is_foreign(lifted) and not same_range(lifted.clip, self.clip):
            name = type(attack).__name__
            raise ValueError(f"{name} attacks a classifier with another range of images than the one that is trained")
        if isinstance(lifted, PixelEvasionAttack) and "verbose" in lifted.attack.attack_params:
            lifted.attack.set_params(verbose=False)  # as ART's trainers do: a bar for every batch drowns the trainer's
        return lifted

    def _is_foreign(self, attack: PixelEvasionBase) -> bool:
        return attack.estimator.model is not self._classifier.model

    def _fit(
        self,
        x: Any,
        y: Any,
        batch_size: int,
        drop_last: bool,
        checkpoint: StrPath | None,
        **how: Unpack[Fit],
    ) -> None:
        images, labels = self._checked(x, y)
        batches = ArrayBatches(images, labels, batch_size, drop_last, self._classifier.device)
        self._progress.expect(batches.fingerprint)
        settings = {
            "ratio": self.ratio,
            "batch_size": batch_size,
            "drop_last": drop_last,
            "training_mode": bool(how["training_mode"]),
            "data": batches.fingerprint,
        }
        self._train(batches, None if checkpoint is None else (checkpoint, settings), **how)

    def _fit_generator(self, generator: Any, **how: Unpack[Fit]) -> None:
        if self.mask_every > 1:
            raise ValueError(f"mask_every={self.mask_every} needs to know which sample is which; use fit")
        self._train(GeneratorBatches(generator, self._checked, self._share() is not None), None, **how)

    def _checked(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        images = images_of(x, self.clip)
        return images, labels_of(y, len(images), self._classifier.nb_classes)

    def _validation(self, data: Any) -> tuple[Tensor, Tensor] | None:
        if data is None:
            return None
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise TypeError(f"validation_data is a {type(data).__name__}; a pair (x_val, y_val) is needed")
        images, labels = self._checked(*data)
        return images, classes_of(labels)

    def _train(
        self,
        batches: ArrayBatches | GeneratorBatches,
        saving: tuple[StrPath, dict[str, Any]] | None,
        nb_epochs: int,
        validation_data: Validation | None,
        scheduler: Any,
        training_mode: bool,
        verbose: bool,
        ignored: dict[str, Any],
    ) -> None:
        check_count("nb_epochs", nb_epochs)
        check_training(self._classifier, scheduler)
        validation = self._validation(validation_data)
        progress = self._progress
        progress.begin(self.burn_in, nb_epochs)
        if self.log_path is not None:
            check_appendable("log", self.log_path)
        for name, value in ignored.items():
            message = f"{name}={value!r} takes no effect, as in ART's trainers of a PyTorchClassifier"
            warnings.warn(message, stacklevel=4)
        with modes_kept_in_trouble(self._classifier._model):
            save = progress.resume(saving, self._classifier, scheduler, batches)
            if progress.epoch >= progress.stop:
                return
            loop = TrainingLoop(
                self._classifier, self._name, progress, self._share(), self.log_path, bool(training_mode)
            )
            loop.run(batches, validation, scheduler, save, verbose)
