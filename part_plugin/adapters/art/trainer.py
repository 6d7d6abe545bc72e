"""`PARTTrainer`: PART in the place of ART's `AdversarialTrainer`."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from art.data_generators import DataGenerator

from ...files import StrPath
from ...objectives import AT, Objective
from .classifier import classifier_criterion
from .trainer_base import PARTTrainerBase, Validation


class PARTTrainer(PARTTrainerBase):
    """
    Class performing pixel-reweighted adversarial training (PART): adversarial training with full `eps` on the pixels
    that a class activation map calls important and `eps_low` elsewhere. Takes the place of `AdversarialTrainer`.

    `history` holds a dictionary for every epoch: loss, accuracies, learning rate, seconds, the share of maps without
    signal and that of samples without gradient. Epochs, and with them the burn-in, are counted on where `fit` is called
    again; a new trainer begins anew. Everything that is drawn at random for batches and attacks comes from numpy's
    global generator, as in ART: `np.random.seed` makes it reproducible, and dropout needs `torch.manual_seed` as well.

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
        training_mode: bool = True,
        checkpoint: StrPath | None = None,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Train the model. See class documentation for more information.

        :param x: Training set of shape `(nb_samples, channels, height, width)`, inside `clip_values`.
        :param y: Class indices, one-hot labels, or probabilities (smoothed or mixed labels), whose cross-entropy is
                  minimised and whose likeliest class is mapped.
        :param batch_size: Size of batches.
        :param nb_epochs: Number of epochs to use for training.
        :param validation_data: Tuple `(x_val, y_val)`; natural accuracy and that under PGD at full eps are reported.
        :param scheduler: Learning rate scheduler, stepped at the end of every epoch (not after every batch, as
                          `AdversarialTrainer` happens to); `ReduceLROnPlateau` gets the loss.
        :param drop_last: Leave out a last, incomplete batch.
        :param training_mode: `False` trains in evaluation mode, as in `PyTorchClassifier.fit`.
        :param checkpoint: File that is written at the end of every epoch, and from which the same call goes on if it
                           was stopped, to the same weights, bit for bit. A finished one is not trained again. What is
                           drawn at random or changed by hand between two calls of `fit` is not part of it.
        :param verbose: Show a progress bar with loss and accuracies, where the output is a terminal.
        :param kwargs: Anything else takes no effect, as in ART, and is warned of.

        Raises:
            TypeError: Data that are no arrays of numbers, settings of the wrong type.
            ValueError: Data, labels or settings that are not allowed; a checkpoint of another training.
            OSError: The log or the checkpoint cannot be written.
        """
        self._fit(
            x, y, batch_size, drop_last, checkpoint, nb_epochs=nb_epochs, validation_data=validation_data,
            scheduler=scheduler, training_mode=training_mode, verbose=verbose, ignored=kwargs,
        )  # fmt: skip

    def fit_generator(
        self,
        generator: DataGenerator,
        nb_epochs: int = 20,
        *,
        validation_data: Validation | None = None,
        scheduler: Any = None,
        training_mode: bool = True,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Train the model using a data generator, whose images may be augmented.

        :param generator: Data generator with a known size.
        :param nb_epochs, validation_data, scheduler, training_mode, verbose, kwargs: As in `fit`.

        Raises:
            TypeError, ValueError, OSError: As in `fit`.
        """
        self._fit_generator(
            generator, nb_epochs=nb_epochs, validation_data=validation_data, scheduler=scheduler,
            training_mode=training_mode, verbose=verbose, ignored=kwargs,
        )  # fmt: skip

    def _objective(self) -> Objective:
        return AT(classifier_criterion(self._classifier))
