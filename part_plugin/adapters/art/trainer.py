"""`PARTTrainer`: PART in the place of ART's `AdversarialTrainer`."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from art.data_generators import DataGenerator

from ...objectives import AT, Objective
from .classifier import classifier_criterion
from .trainer_base import PARTTrainerBase, Validation


class PARTTrainer(PARTTrainerBase):
    """
    Class performing pixel-reweighted adversarial training (PART): adversarial training with full `eps` on the pixels
    that a class activation map calls important and `eps_low` elsewhere. Takes the place of `AdversarialTrainer`.

    After `fit`, `history` holds a dictionary for every epoch: loss, accuracies, learning rate, seconds, the share of
    maps without signal and that of samples without gradient.

    | Paper link: https://arxiv.org/abs/2406.00685
    """

    _name = "PART"

    def fit(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        batch_size: int = 128,
        nb_epochs: int = 20,
        *,
        validation_data: Validation | None = None,
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
        :param verbose: Show a progress bar with loss and accuracies, where the output is a terminal.
        """
        self._fit(x, y, batch_size, nb_epochs, validation_data, scheduler, drop_last, verbose)

    def fit_generator(
        self,
        generator: DataGenerator,
        nb_epochs: int = 20,
        *,
        validation_data: Validation | None = None,
        scheduler: Any = None,
        verbose: bool = True,
    ) -> None:
        """
        Train the model using a data generator, whose images may be augmented.

        :param generator: Data generator with a known size.
        :param nb_epochs, validation_data, scheduler, verbose: As in `fit`.
        """
        self._fit_generator(generator, nb_epochs, validation_data, scheduler, verbose)

    def _objective(self) -> Objective:
        return AT(classifier_criterion(self._classifier))
