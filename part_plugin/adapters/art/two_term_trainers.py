"""`PARTTrainerTRADES` and `PARTTrainerMART`: the objectives with a weight between two terms, as ART trainers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt
from art.attacks.attack import EvasionAttack
from art.data_generators import DataGenerator
from art.estimators.classification import PyTorchClassifier

from ...checks import check_number
from ...files import StrPath
from ...objectives import MART, TRADES, Objective
from .classifier import classifier_criterion
from .trainer_base import PARTTrainerBase, TrainerOptions, Validation

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _TwoTermTrainer(PARTTrainerBase):
    """What PART-T and PART-M share: the call shape of ART's TRADES trainer."""

    def __init__(
        self,
        classifier: PyTorchClassifier,
        attack: EvasionAttack,
        beta: float = 6.0,
        **options: Unpack[TrainerOptions],
    ) -> None:
        """
        Create the trainer.

        :param classifier: Model to train adversarially, a `PyTorchClassifier` with optimizer and `clip_values`.
        :param attack: Attack on it. Of a plain PGD eps, eps_step and max_iter are used, with the loss and the start of
                       the objective's paper; another l_inf attack is used as it is.
        :param beta: The scaling factor controlling tradeoff between clean loss and adversarial loss.
        :param options: eps_low, budget, burn_in, mask_every, fast, log_path and so on; see `PARTTrainer`.
        """
        self.beta = check_number("beta", beta)
        super().__init__(classifier, [attack], 1.0, **options)

    def fit(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        validation_data: Validation | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: Any = None,
        *,
        drop_last: bool = False,
        training_mode: bool = True,
        checkpoint: StrPath | None = None,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Train the model; see `PARTTrainer.fit`, whose arguments come in the order of ART's TRADES trainer here.

        :param x, y, validation_data, batch_size, nb_epochs, scheduler, drop_last, training_mode: As there.
        :param checkpoint, verbose, kwargs: As there.

        Raises:
            TypeError, ValueError, OSError: As there.
        """
        self._fit(
            x, y, batch_size, drop_last, checkpoint, nb_epochs=nb_epochs, validation_data=validation_data,
            scheduler=scheduler, training_mode=training_mode, verbose=verbose, ignored=kwargs,
        )  # fmt: skip

    def fit_generator(
        self,
        generator: DataGenerator,
        nb_epochs: int = 20,
        scheduler: Any = None,
        *,
        validation_data: Validation | None = None,
        training_mode: bool = True,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Train the model using a data generator, whose images may be augmented.

        :param generator: Data generator with a known size.
        :param nb_epochs, scheduler, validation_data, training_mode, verbose, kwargs: As in `fit`.

        Raises:
            TypeError, ValueError, OSError: As in `fit`.
        """
        self._fit_generator(
            generator, nb_epochs=nb_epochs, validation_data=validation_data, scheduler=scheduler,
            training_mode=training_mode, verbose=verbose, ignored=kwargs,
        )  # fmt: skip

    def _share(self) -> float | None:
        return None


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
