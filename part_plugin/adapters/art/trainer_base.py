"""What the ART trainers here share: attacks made Pixel-AG, checked data, batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from art.attacks.attack import EvasionAttack
from art.config import ART_NUMPY_DTYPE
from art.data_generators import DataGenerator
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from ...checks import check_count, check_images, check_number, class_indices
from ...network.fast import check_fast
from ...objectives import Objective
from ...pixel_budget import BudgetOptions
from .base import PixelEvasionBase
from .classifier import check_classifier, classifier_clip
from .lifted import LiftedPART
from .loop import Batch, TrainingLoop
from .wrapper import PixelEvasionAttack, lift

if TYPE_CHECKING:
    from typing_extensions import Unpack

Validation = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class TrainerOptions(BudgetOptions, total=False):
    """What every trainer here takes by keyword, besides the arguments of its host."""

    eps_low: float | None
    budget: Any
    burn_in: int | None
    mask_every: int
    fast: str | Sequence[str]
    log_path: str | os.PathLike[str] | None


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
        burn_in: int | None = None,
        mask_every: int = 1,
        fast: str | Sequence[str] = (),
        log_path: str | os.PathLike[str] | None = None,
        **options: Unpack[BudgetOptions],
    ) -> None:
        """
        Create the trainer.

        :param classifier: Model to train adversarially, a `PyTorchClassifier` with optimizer and `clip_values`.
        :param attacks: Attacks on it, rotated for each batch. A plain PGD is lifted to its Pixel-AG form, with its eps,
                        eps_step, max_iter and num_random_init; another l_inf attack goes through a change of variable;
                        an attack that has a budget per pixel keeps it.
        :param ratio: The proportion of samples in each batch to be replaced with their adversarial counterparts, as
                      in ART; the paper's is 1.0.
        :param eps_low: Maximum perturbation of unimportant pixels, in the units of `clip_values`; default 7/8 of the
                        attack's eps, the paper's ratio.
        :param budget: A budget to use instead of one made from the arguments; see `part_plugin.budget.Budget`.
        :param burn_in: Number of first epochs of a `fit` with eps everywhere; default a quarter, as in the paper.
        :param mask_every: Renew the masks every so many epochs (`fit` only; the images must not be augmented).
        :param fast: Options that make a PGD cheaper and its gradients approximate; see `part_plugin.network.fast.FAST`.
        :param log_path: File to which the record of each epoch is appended as a line of JSON.
        :param options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

        Raises:
            ValueError: A setting or an attack that is not allowed; the sentence names it.
        """
        check_classifier(classifier)
        self.ratio = check_number("ratio", ratio, above=True, high=1)
        self.burn_in = None if burn_in is None else check_count("burn_in", burn_in, 0)
        self.mask_every = check_count("mask_every", mask_every)
        self.fast = check_fast(fast)
        super().__init__(classifier)
        listed = attacks if isinstance(attacks, list) else [attacks]
        if not listed:
            raise ValueError("attacks is empty; at least one attack is needed")
        self.attacks = [self._lifted(attack, eps_low=eps_low, budget=budget, **options) for attack in listed]
        self.log_path = log_path
        self.history: list[dict[str, float]] = []

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

    def _lifted(self, attack: Any, **options: Any) -> PixelEvasionBase:
        lifted = lift(attack, **options)
        if lifted.targeted:
            raise NotImplementedError(f"{type(attack).__name__} is targeted; training needs an untargeted attack")
        if lifted.estimator.model is not self._classifier.model:
            raise ValueError(f"{type(attack).__name__} attacks another model than the classifier that is trained")
        if isinstance(lifted, PixelEvasionAttack) and "verbose" in lifted.attack.attack_params:
            lifted.attack.set_params(verbose=False)  # as ART's trainers do: a bar for every batch drowns the trainer's
        return lifted

    def _fit(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        batch_size: int,
        nb_epochs: int,
        validation_data: Validation | None,
        scheduler: Any,
        drop_last: bool,
        verbose: bool,
    ) -> None:
        check_count("batch_size", batch_size)
        images, labels = self._checked(x, y)
        nb_batches = len(images) // batch_size if drop_last else -(-len(images) // batch_size)
        if nb_batches == 0:
            raise ValueError(f"batch_size={batch_size} and drop_last=True leave no batch of {len(images)} samples")
        images, labels = (where_it_fits(tensor, self._classifier.device) for tensor in (images, labels))
        order = np.arange(len(images))

        def epoch() -> Iterator[Batch]:
            np.random.shuffle(order)  # what the last epoch left, as in ART: the same batches from the same seed
            for batch in range(nb_batches):
                index = torch.from_numpy(order[batch * batch_size : (batch + 1) * batch_size])
                rows = index.to(images.device)
                yield images[rows], labels[rows], index

        self._train(epoch, nb_batches, nb_epochs, self.mask_every, validation_data, scheduler, verbose)

    def _fit_generator(
        self,
        generator: DataGenerator,
        nb_epochs: int,
        validation_data: Validation | None,
        scheduler: Any,
        verbose: bool,
    ) -> None:
        if generator.size is None:
            raise ValueError("generator.size=None is not allowed; the size of the data set is needed")
        if self.mask_every > 1:
            raise ValueError(f"mask_every={self.mask_every} needs to know which sample is which; use fit")
        nb_batches = -(-generator.size // generator.batch_size)

        def epoch() -> Iterator[Batch]:
            for _ in range(nb_batches):
                yield (*self._checked(*generator.get_batch()), None)

        self._train(epoch, nb_batches, nb_epochs, 1, validation_data, scheduler, verbose)

    def _checked(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        images = torch.as_tensor(np.asarray(x, dtype=ART_NUMPY_DTYPE))
        low, high = classifier_clip(self._classifier)
        check_images(images, (low.cpu(), high.cpu()))
        return images, class_indices(y, len(images), self._classifier.nb_classes)

    def _parts(self, nb_epochs: int, mask_every: int) -> list[LiftedPART]:
        burn_in = nb_epochs // 4 if self.burn_in is None else self.burn_in
        if burn_in >= nb_epochs:
            raise ValueError(f"burn_in={burn_in} leaves none of nb_epochs={nb_epochs} for PART; it must be smaller")
        schedule = {"burn_in": burn_in, "mask_every": mask_every, "fast": self.fast}
        return [LiftedPART(attack, self._objective(), **schedule) for attack in self.attacks]

    def _train(
        self,
        epoch_batches: Callable[[], Iterable[Batch]],
        nb_batches: int,
        nb_epochs: int,
        mask_every: int,
        validation_data: Validation | None,
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
        self.history = []
        loop = TrainingLoop(self._classifier, self._name, parts, self.ratio, self.log_path, self.history)
        loop.run(epoch_batches, nb_batches, nb_epochs, validation, scheduler, verbose)


def where_it_fits(data: Tensor, device: torch.device) -> Tensor:
    """Return the data on the device if it takes less than a quarter of the memory that is free there."""
    if device.type != "cuda" or data.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
        return data
    return data.to(device)
